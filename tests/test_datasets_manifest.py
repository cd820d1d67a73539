from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from dataset_trees import manifest_tree, touch, write

from musictagger.datasets import manifest
from musictagger.datasets.base import require_usable
from musictagger.errors import BadRequestError


def test_a_table(tmp_path: Path) -> None:
    dataset = manifest.read(manifest_tree(tmp_path))
    assert dataset.task == "tags" and dataset.tags == ("80s", "jazz", "rock")
    assert dataset.examples[0].path == tmp_path / "music" / "0.mp3"
    assert dataset.examples[0].tags == ("jazz", "80s")
    assert (dataset.examples[0].artist, dataset.examples[0].duration_s) == ("Artist 0", 30.0)
    assert [len(dataset.split(name)) for name in ("train", "valid", "test")] == [4, 4, 4]
    assert dataset.notes == ("splits as in the manifest",)


def test_json_lines_give_the_same_as_a_table(tmp_path: Path) -> None:
    table = manifest.read(manifest_tree(tmp_path))
    lines = [
        {
            "path": str(e.path.relative_to(tmp_path)),
            "tags": list(e.tags),
            "split": e.split,
            "artist": e.artist,
            "duration_s": 30,
        }
        for e in table.examples
    ]
    path = write(tmp_path / "manifest.jsonl", "\n".join(map(json.dumps, lines)) + "\n\n")
    assert manifest.read(path) == table
    assert manifest.read(tmp_path) == table


def test_a_json_list_in_a_cell_and_tabs(tmp_path: Path) -> None:
    touch(tmp_path / "a;b.mp3")
    path = write(tmp_path / "list.tsv", 'path\ttags\tsplit\na;b.mp3\t"[""rock; roll"", ""jazz""]"\ttrain\n')
    assert manifest.read(path).examples[0].tags == ("rock; roll", "jazz")


def test_one_tag_each_is_a_genre_task(tmp_path: Path) -> None:
    for name in "abc":
        touch(tmp_path / f"{name}.mp3")
    path = write(tmp_path / "l.csv", "tags,path\nrock,a.mp3\njazz,b.mp3\njazz,c.mp3\n")
    assert manifest.read(path).task == "genre"
    assert manifest.read(path, task="tags").task == "tags"


def test_task_genre_needs_one_tag(tmp_path: Path) -> None:
    with pytest.raises(BadRequestError, match="line 2: has 2 tags; for task=genre each track has exactly one"):
        manifest.read(manifest_tree(tmp_path), task="genre")


def test_without_splits_one_is_drawn(tmp_path: Path) -> None:
    lines = ["path,tags,artist"]
    for index in range(40):
        touch(tmp_path / f"{index}.mp3")
        lines.append(f"{index}.mp3,{'rock' if index % 2 else 'jazz'},artist {index // 2}")
    dataset = manifest.read(write(tmp_path / "l.csv", "\n".join(lines)))
    require_usable(dataset)
    assert [len(dataset.split(name)) for name in ("train", "valid", "test")] == [28, 6, 6]
    assert dataset.notes[0].startswith("the manifest has no splits; split by seed 0")


def test_missing_files_are_listed(tmp_path: Path) -> None:
    path = manifest_tree(tmp_path)
    (tmp_path / "music" / "3.mp3").unlink()
    dataset = manifest.read(path)
    assert dataset.missing == (tmp_path / "music" / "3.mp3",) and len(dataset.examples) == 11


def test_absolute_paths_are_kept(tmp_path: Path) -> None:
    track = touch(tmp_path / "elsewhere" / "a.mp3")
    path = write(tmp_path / "lists" / "l.csv", f"path,tags,split\n{track},rock,train\n../elsewhere/b.mp3,jazz,test\n")
    dataset = manifest.read(path)
    assert dataset.examples[0].path == track and dataset.missing == (tmp_path / "elsewhere" / "b.mp3",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,tags\na,b\n", "has no column 'path'"),
        ("path,tag\na,b\n", "has no column 'tags'; did you mean 'tag'"),
        ("path,tags\n", "names no track"),
        ("", "is empty"),
        ("path\ttags\na\tb\n", r"has tabs between its fields; give it a name in \.tsv"),
        ("path,tags,duration_s\na.mp3,rock,1e300\n", "line 2: '1e300' is not a length"),
        ("path,tags\na.mp3\n", "line 2: has 1 fields"),
        ("path,tags,split\na.mp3,rock,trian\n", "line 2: unknown split 'trian'; did you mean 'train'"),
        ("path,tags,split\na.mp3,rock,7\n", "line 2: unknown split '7'; it is train, valid or test"),
        ("path,tags,split\na.mp3,rock,train\nb.mp3,rock,\n", "line 3: has no split, but other lines have"),
        ("path,tags\na.mp3,rock\nb.mp3,rock\n./a.mp3,jazz\n", "line 4: ./a.mp3 was already named in line 2"),
        ("path,tags\n ,rock\n", "line 2: ' ' is not a path"),
        ('path,tags\na.mp3,"[rock"\n', "line 2: is not valid JSON"),
        ('path,tags\na.mp3,"[1]"\n', "line 2: the tags .1. are neither"),
        ("path,tags,duration_s\na.mp3,rock,long\n", "line 2: 'long' is not a length in seconds"),
        ("path,tags,duration_s\na.mp3,rock,nan\n", "line 2: 'nan' is not a length in seconds"),
    ],
)
def test_errors_of_a_table(text: str, message: str, tmp_path: Path) -> None:
    touch(tmp_path / "a.mp3")
    touch(tmp_path / "b.mp3")
    with pytest.raises(BadRequestError, match=rf"l\.csv.*{message}"):
        manifest.read(write(tmp_path / "l.csv", text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"path": "a.mp3"}\n', "line 1: has no 'tags'"),
        ('{"path": "a.mp3", "tag": "x"}\n', "line 1: has no 'tags'; did you mean 'tag'"),
        ('\n["a.mp3"]\n', "line 2: is not a JSON object"),
        ('{"path": "a.mp3", "tags": ["x"]}\n{"path": \n', "line 2: is not valid JSON"),
        ('{"path": 3, "tags": ["x"]}\n', "line 1: 3 is not a path"),
        ('{"path": "a.mp3", "tags": {"x": 1}}\n', "line 1: the tags .* are neither text nor a list"),
        ('{"path": "a.mp3", "tags": "x", "artist": 1}\n', "line 1: the artist 1 is not text"),
        ('{"path": "a.mp3", "tags": "x", "split": 1}\n', "line 1: unknown split 1"),
        ('{"path": "a.mp3", "tags": "x", "duration_s": -1}\n', "line 1: '-1' is not a length"),
        ('{"path": "a\\ud800.mp3", "tags": "x"}\n', "line 1: .* is not a file name in UTF-8"),
        ('{"path": "a.mp3", "tags": "\\ud800"}\n', "line 1: .* is not in UTF-8"),
        ("[" * 100_000 + "\n", "line 1: is not valid JSON"),
    ],
)
def test_errors_of_json_lines(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(BadRequestError, match=rf"l\.jsonl.*{message}"):
        manifest.read(write(tmp_path / "l.jsonl", text))


def test_a_path_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "l.csv"
    path.write_bytes(b"path,tags\ncaf\xe9.mp3,rock\n")
    touch(tmp_path / os.fsdecode(b"caf\xe9.mp3"))
    with pytest.raises(BadRequestError, match=r"l\.csv, line 2: 'caf\?\.mp3.*' is not in UTF-8"):
        manifest.read(path)


def test_json_can_hold_any_file_name(tmp_path: Path) -> None:
    track = touch(tmp_path / os.fsdecode(b"caf\xe9.mp3"))
    path = write(tmp_path / "l.jsonl", json.dumps({"path": track.name, "tags": ["rock"], "split": "train"}))
    assert manifest.read(path).examples[0].path == track


def test_another_kind_of_file(tmp_path: Path) -> None:
    with pytest.raises(BadRequestError, match=r"a manifest is a \.csv, \.tsv or \.jsonl file"):
        manifest.read(write(tmp_path / "l.xlsx", ""))
    with pytest.raises(BadRequestError, match=r"a manifest not found; looked for manifest\.csv"):
        manifest.read(tmp_path)


def test_a_byte_order_mark_and_windows_lines(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp3")
    path = write(tmp_path / "l.csv", "\ufeffpath,tags,split\r\na.mp3,rock,train\r\n")
    assert manifest.read(path).examples[0].tags == ("rock",)
