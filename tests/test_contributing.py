"""CONTRIBUTING.md: its example of a backbone works as written, and the files that it names exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from helpers import run
from training_material import write_genres

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    """The text below a heading, up to the next heading."""
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_backbone_example_is_listed_trained_and_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSICTAGGER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("MUSICTAGGER_CONFIG", str(tmp_path / "config.toml"))
    (tmp_path / "config.toml").touch()
    monkeypatch.chdir(tmp_path)
    write_genres(Path("sorted"))
    text = section("Add a backbone")
    (code,) = blocks(text, "python")
    Path("plugins").mkdir()
    Path("plugins/mean_spectrum.py").write_text(code, encoding="utf-8")
    (console,) = blocks(text, "console")
    commands = [line.removeprefix("$ musictagger ") for line in console.splitlines()]
    assert [command.split()[0] for command in commands] == ["plugins", "train", "scan"]
    outputs = []
    for command in commands:
        result = run(*shlex.split(command))
        assert result.code == 0, result.err
        outputs.append(result.out)
    assert re.search(r"mean_spectrum +.*Each mel band's mean and deviation", outputs[0])
    assert Path("first/first.safetensors").is_file() and Path("first/first.json").is_file()
    assert "30 tagged" in outputs[2] and "0 failed" in outputs[2]


def test_files_that_it_names_exist() -> None:
    prose = re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)
    names = re.findall(r"`((?:musictagger|plugins|tests|docs|tools|benchmarks|weights|\.ci)/[\w./]*)`", prose)
    assert names
    made = {"plugins/mean_spectrum.py"}
    assert [name for name in names if name not in made and not (ROOT / name).exists()] == []
