"""A built wheel, installed elsewhere, finds its plugins, weights and migrations."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not installed")
    out = tmp_path_factory.mktemp("dist")
    subprocess.run([uv, "build", "--wheel", "--out-dir", str(out), str(ROOT)], check=True, capture_output=True)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that contains the wheel and falls back to this environment's dependencies."""
    folder = tmp_path_factory.mktemp("elsewhere")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    executable = folder / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(executable), "install", "--no-deps", "--quiet", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    site = next((folder / "lib").glob("python*/site-packages"))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return executable


def _run(python: Path, *arguments: str, data: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"MUSICTAGGER_DATA_DIR": str(data), "MUSICTAGGER_CONFIG": os.devnull}
    return subprocess.run(
        [str(python), *arguments], cwd=data, env=environment, capture_output=True, text=True, check=True
    )


def test_nothing_is_installed_beside_the_package(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"musictagger"}


def test_installed_wheel_finds_its_plugins_and_weights(python: Path, tmp_path: Path) -> None:
    where = _run(python, "-c", "import musictagger; print(musictagger.__file__)", data=tmp_path).stdout
    assert str(python.parent.parent) in where
    script = python.parent / "musictagger"
    plugins = _run(python, str(script), "plugins", "--json", data=tmp_path).stdout
    assert all(f'"{name}"' in plugins for name in ("crnn", "crnn_tf", "fcn", "mfcc", "musicnn"))
    assert str(ROOT / "plugins") not in plugins
    code = "from musictagger.paths import bundled_folder as b; print(b('weights').is_dir(), b('weights'))"
    assert _run(python, "-c", code, data=tmp_path).stdout.startswith(f"True {python.parent.parent}")


def test_installed_wheel_makes_a_database(python: Path, tmp_path: Path) -> None:
    code = f"from musictagger.library.store import Store; Store({str(tmp_path / 'x.db')!r}, create=True)"
    _run(python, "-c", code, data=tmp_path)
    assert (tmp_path / "x.db").exists()
