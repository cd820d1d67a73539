"""The catalogue and `pull`, on a wheel made here and a pip that is only pretended."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from musictagger.errors import ModelError
from musictagger.models import catalogue, convert
from musictagger.models.card import Card
from musictagger.models.weights import load_model

CONFIG = {"timbral_channels": 3, "temporal_channels": 2, "mid_channels": 4, "units": 5}


def tiny_checkpoint(n_tags: int) -> dict[str, npt.NDArray[Any]]:
    """A checkpoint of random numbers with the published names, for a backbone of CONFIG."""
    random = np.random.default_rng(1)
    kernels = [(7, 38, 1, 3), (7, 67, 1, 3), (128, 1, 1, 2), (64, 1, 1, 2), (32, 1, 1, 2)]
    kernels += [(7, 12, 1, 4), (7, 4, 1, 4), (7, 4, 1, 4)]
    widths = [1, *(kernel[3] for kernel in kernels), 48, 5]
    shapes: dict[str, tuple[int, ...]] = {"beta1_power": ()}
    for i, kernel in enumerate(kernels):
        layer = f"conv2d_{i}" if i else "conv2d"
        shapes |= {f"{layer}/kernel": kernel, f"{layer}/bias": kernel[3:], f"{layer}/kernel/Adam": kernel}
    for i, width in enumerate(widths):
        layer = f"batch_normalization_{i}" if i else "batch_normalization"
        shapes |= {f"{layer}/{part}": (width,) for part in ("beta", "gamma", "moving_mean", "moving_variance")}
    shapes |= {"dense/kernel": (48, 5), "dense/bias": (5,), "dense_1/kernel": (5, n_tags), "dense_1/bias": (n_tags,)}
    return {name: np.asarray(random.random(shape), np.float32) for name, shape in shapes.items()}


def wheel_bytes(checkpoint: dict[str, npt.NDArray[Any]]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive, archive.open("tiny/weights.npz", "w") as file:
        np.savez(file, **checkpoint)  # type: ignore[arg-type]
    return content.getvalue()


def from_npz(archive: zipfile.ZipFile, path: str) -> convert.Tensors:
    with np.load(io.BytesIO(archive.read(f"{path}/weights.npz"))) as stored:
        return convert.musicnn_tensors(dict(stored))


@pytest.fixture
def wheel(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A small model in the place of musicnn-msd; the bytes are what the package index would serve."""
    real = catalogue.entry("musicnn-msd")
    content = wheel_bytes(tiny_checkpoint(len(real.outputs)))
    pinned = dataclasses.replace(real.wheel, sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))
    tiny = dataclasses.replace(real, config=CONFIG, format="npz", path="tiny", wheel=pinned)
    monkeypatch.setattr(catalogue, "_entries", lambda: {"musicnn-msd": tiny})
    monkeypatch.setattr(convert, "CONVERTERS", {"npz": from_npz})
    return content


class Pip:
    """Stands in for pip: writes `content` where it is told to and says `output`."""

    def __init__(self, content: bytes | None = None, output: str = "", code: int = 0) -> None:
        self.content, self.output, self.code, self.calls = content, output, code, 0

    def install(self, monkeypatch: pytest.MonkeyPatch) -> Pip:
        popen = subprocess.Popen

        def pretend(command: list[str], **options: Any) -> subprocess.Popen[str]:
            self.calls += 1
            folder = Path(command[command.index("--dest") + 1])
            if self.content is not None:
                (folder / "musicnn-0.1.0-py3-none-any.whl").write_bytes(self.content)
            script = f"import sys; print({self.output!r}); sys.exit({self.code})"
            return popen([sys.executable, "-c", script], **options)

        monkeypatch.setattr(subprocess, "Popen", pretend)
        return self


# --- what is in it -----------------------------------------------------------------------------------------------


def test_importing_the_catalogue_imports_neither_torch_nor_numpy() -> None:
    code = "import sys, musictagger.models.catalogue as c; c.names(); print({'torch', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_every_entry_is_whole() -> None:
    assert catalogue.names() == ("musicnn-msd", "musicnn-mtt")
    for name in catalogue.names():
        entry = catalogue.entry(name)
        assert entry.name == name
        assert len(set(entry.outputs)) == len(entry.outputs) == 50
        assert entry.format in convert.CONVERTERS
        assert len(entry.wheel.sha256) == 64
        assert entry.licence.startswith("ISC") and "https://" in entry.attribution
        assert all(0 < tag.threshold < 1 for tag in entry.tags)
        assert Card.from_json(json.loads(json.dumps(entry.card("0" * 64).to_json()))) == entry.card("0" * 64)


def test_every_threshold_names_a_tag_or_a_category() -> None:
    for name in catalogue.names():
        entry = catalogue.entry(name)
        known = {tag.name for tag in entry.tags} | {tag.category for tag in entry.tags} | {"default"}
        assert set(entry.thresholds) <= known


def test_a_frame_is_as_long_as_everywhere() -> None:
    front_end = catalogue.entry("musicnn-msd").front_end
    assert front_end.frame_s == 29.12
    assert front_end.columns == 1821


def test_an_unknown_name_is_an_error_that_lists_the_known() -> None:
    with pytest.raises(ModelError, match=r"'msd' \(there are: musicnn-msd, musicnn-mtt\)"):
        catalogue.entry("msd")


# --- pull --------------------------------------------------------------------------------------------------------


def test_pull_installs_weights_and_card_that_load(
    wheel: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Pip(wheel, "Progress 10 of 400\nSaved\nProgress 400 of 400").install(monkeypatch)
    said: list[str] = []
    seen: list[tuple[int, int]] = []
    folder = tmp_path / "not" / "there yet"
    weights = catalogue.pull("musicnn-msd", folder, say=said.append, progress=lambda *done: seen.append(done))
    assert sorted(path.name for path in folder.iterdir()) == ["musicnn-msd.json", "musicnn-msd.safetensors"]
    assert seen == [(10, 400), (400, 400)]
    assert said[0].startswith("fetching musicnn-msd (package musicnn 0.1.0")
    assert said[-1] == f"musicnn-msd is ready: {weights}"
    model = load_model(weights)
    assert model.card.config == CONFIG
    expected = tiny_checkpoint(50)["conv2d_1/kernel"][3, 20, 0, 2]
    assert float(model.backbone.state_dict()["cnn.timbral.1.conv.weight"][2, 0, 20, 3]) == expected


def test_a_kept_wheel_is_not_fetched_again(wheel: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip = Pip(wheel).install(monkeypatch)
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    for folder in ("a", "b"):
        catalogue.pull("musicnn-msd", tmp_path / folder, downloads=downloads)
    assert pip.calls == 1
    assert (tmp_path / "a/musicnn-msd.json").read_bytes() == (tmp_path / "b/musicnn-msd.json").read_bytes()


@pytest.mark.parametrize(
    ("pip", "reason"),
    [
        (Pip(output="ERROR: No matching distribution found", code=1), "no network.*weights pull.*or copy.*No matching"),
        (Pip(output="/usr/bin/python: No module named pip", code=1), "has no pip; install it"),
        (Pip(output="ERROR: [Errno 28] No space left on device", code=2), "no space left"),
        (Pip(code=1), "no network"),
        (Pip(b"another file"), "SHA-256 .*nothing was installed"),
        (Pip(), "left no wheel"),
    ],
)
def test_what_can_go_wrong_with_pip_is_said_in_one_line(
    wheel: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pip: Pip, reason: str
) -> None:
    pip.install(monkeypatch)
    with pytest.raises(ModelError, match=reason) as caught:
        catalogue.pull("musicnn-msd", tmp_path / "models")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "models").exists()


def test_a_failure_leaves_the_model_that_was_there(
    wheel: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Pip(wheel).install(monkeypatch)
    catalogue.pull("musicnn-msd", tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    broken = tiny_checkpoint(50) | {"dense/bias": np.zeros(6, np.float32)}
    monkeypatch.setattr(convert, "CONVERTERS", {"npz": lambda *_: convert.musicnn_tensors(broken)})
    with pytest.raises(ModelError, match="does not fit backbone musicnn"):
        catalogue.pull("musicnn-msd", tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_interruption_ends_pip_and_leaves_nothing(
    wheel: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Pip(wheel, "Progress 1 of 2").install(monkeypatch)

    def interrupt(*_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        catalogue.pull("musicnn-msd", tmp_path / "models", progress=interrupt)
    assert not (tmp_path / "models").exists()


def test_a_folder_that_cannot_be_made_is_an_error(
    wheel: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Pip(wheel).install(monkeypatch)
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match=r"file.*cannot be written"):
        catalogue.pull("musicnn-msd", tmp_path / "file" / "models")


def test_a_wheel_without_the_model_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "musicnn.whl"
    path.write_bytes(wheel_bytes({}))
    for wheel, kind in ((path, "musicnn-tf"), (Path(__file__), "musicnn-tf")):
        with pytest.raises(ModelError, match="does not hold musicnn/MSD_musicnn as expected"):
            convert.convert(wheel, kind, "musicnn/MSD_musicnn")
