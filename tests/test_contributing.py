"""CONTRIBUTING.md: its examples work as written, and the files that it names exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import click
import media
import numpy as np
import pytest
import test_containers
import test_digest
import test_second_reader
import torch
import training_material
from conftest import TAGS, make_card
from helpers import run
from test_query import track_row
from training_material import write_genres

from musictagger.audio.formats import stream
from musictagger.library import query
from musictagger.tags.containers import ape, table
from musictagger.training import augment

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
    # Room for the path of the temporary folder beside the description.
    monkeypatch.setenv("COLUMNS", "300")
    (tmp_path / "config.toml").touch()
    monkeypatch.chdir(tmp_path)
    text = section("Add a backbone")
    (code,) = blocks(text, "python")
    Path("plugins").mkdir()
    Path("plugins/mean_spectrum.py").write_text(code, encoding="utf-8")
    (console,) = blocks(text, "console")
    material, *commands = console.replace("/tmp/", f"{tmp_path}/").removeprefix("$ uv run ").split("\n$ uv run ")
    program, folder = material.split("#")[0].removeprefix("python ").split()
    assert (ROOT / program).samefile(training_material.__file__)
    write_genres(Path(folder))
    results = []
    for command, name in zip(commands, ("plugins", "train", "scan"), strict=True):
        program, *arguments = shlex.split(command)
        assert (program, arguments[0]) == ("musictagger", name)
        results.append(run(*arguments))
        assert results[-1].code == 0, results[-1]
    plugins, train, scan = results
    assert re.search(r"mean_spectrum +.*Each mel band's mean and deviation", plugins.out), plugins
    assert Path("first/first.safetensors").is_file() and Path("first/first.json").is_file(), train
    assert "30 tagged" in scan.out and " 0 failed" in scan.out, scan
    assert not (tmp_path / "data" / "library.db").exists(), "the reader's own library"


def defined(code: str, module: ModuleType | None = None) -> dict[str, Any]:
    """The names that an example defines, when it stands in `module`."""
    names: dict[str, Any] = dict(vars(module)) if module else {"__name__": "example"}
    exec(compile(code, "CONTRIBUTING.md", "exec"), names)
    return names


def test_the_container_example_is_written_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, maker = blocks(section("Add a container"), "python")
    magic, row = rows.split("\n\n")
    monkeypatch.setattr(stream, "TAK", defined(magic)["TAK"], raising=False)
    container = eval(row, vars(ape))
    monkeypatch.setattr(table, "CONTAINERS", {**table.CONTAINERS, container.name: container})
    names = defined(maker, media)
    assert names["MADE_UP"] == {"tak"}
    monkeypatch.setitem(media.EXTENSIONS, "tak", names["EXTENSIONS"]["tak"])
    monkeypatch.setitem(media._MAKERS, "tak", names["_MAKERS"]["tak"])
    path = media.make("tak", tmp_path)
    assert table.container_of(path) is container and stream.STREAM.matches(path.read_bytes()[:16])
    test_containers.test_only_the_given_fields_are_written("tak", 300, tmp_path)
    test_containers.test_untagged_files_get_a_tag_and_lose_it("tak", tmp_path)
    test_containers.test_another_reader_sees_the_values("tak", tmp_path)
    test_digest.test_retagging_keeps_the_digest("tak", tmp_path)
    test_second_reader.test_ffmpeg("tak", tmp_path)
    test_second_reader.test_mutagen("tak", tmp_path)


def test_the_query_field_example_finds_tracks(monkeypatch: pytest.MonkeyPatch) -> None:
    (row,) = blocks(section("Add a query field"), "python")
    field = eval(row, vars(query))
    monkeypatch.setitem(query.STORED, field.name, field)
    monkeypatch.setattr(query, "FIELDS", (*query.FIELDS, field.name))
    rows = [track_row("a.mp3", container="mp3"), track_row("b.flac", container="flac")]
    tracks = query.Tracks(rows, np.zeros((2, len(TAGS)), np.float32), np.full(len(TAGS), 0.5, np.float32))
    assert query.parse("container:mp3", make_card()).matches(tracks).tolist() == [True, False]


def test_the_training_option_example_reverses_windows() -> None:
    option, function = blocks(section("Add a training option"), "python")
    assert re.match(r"(\w+): Share = 0.0\n", option)
    reversal = defined(function, augment)["time_reversal"]
    mel = torch.arange(12.0).reshape(2, 2, 3)
    random = augment.StepRandom(augment.step_generator(0, 0, 0), slice(0, 2), 2)
    assert torch.equal(reversal(mel, SimpleNamespace(reverse=1.0), random), mel.flip(2))
    assert reversal(mel, SimpleNamespace(reverse=0.0), random) is mel


def test_the_command_example_is_a_command() -> None:
    (code,) = blocks(section("Add a command"), "python")
    command = defined(code)["command"]
    assert isinstance(command, click.Command) and command.name == "count" and command.help


def test_files_that_it_names_exist() -> None:
    prose = re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)
    names = re.findall(r"`((?:musictagger|plugins|tests|docs|tools|benchmarks|weights|\.ci)/[\w./]*)`", prose)
    assert names
    made = {"plugins/mean_spectrum.py"}
    assert [name for name in names if name not in made and not (ROOT / name).exists()] == []
