"""A list in a CSV, TSV or JSON Lines file: path, tags and, optionally, split, artist and duration_s.

    path,tags,split                            {"path": "a.mp3", "tags": ["rock", "80s"], "split": "train"}
    music/a.mp3,rock;80s,train

Paths are relative to the list's own folder. Several tags are separated by `;` or written as a JSON list.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from musictagger.audio.walk import absolute
from musictagger.datasets.base import Dataset, Example, Split, tag_names
from musictagger.datasets.reading import (
    bad_line,
    column,
    existing,
    find_file,
    json_lines,
    number,
    parse_json,
    read_rows,
    require_text,
)
from musictagger.datasets.splitting import RandomSplit
from musictagger.errors import BadRequestError, hint, printable
from musictagger.models.card import Task

NAME = "manifest"
SOURCE = "your own list of files"
LICENCE = "that of the music"

FILES = ("manifest.csv", "manifest.tsv", "manifest.jsonl")
_SPLIT_NAMES: Mapping[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "validation", "val", "dev"), "valid"),
    **dict.fromkeys(("test", "testing", "eval"), "test"),
}


@dataclass(frozen=True)
class _Line:
    number: int
    name: str
    """The path as it is written."""
    split: Split | None
    example: Example
    """The track, in split train if `split` is None."""


def read(
    folder: Path,
    *,
    task: Literal["auto", "tags", "genre"] = "auto",
    valid: float = 0.15,
    test: float = 0.15,
    seed: int = 0,
) -> Dataset:
    """The tracks of the list at `folder`, or of the manifest.csv, .tsv or .jsonl in it.

    A list without splits is split by `seed`, `valid` and `test` being shares, no artist in two splits. The task is
    genre where every track has one tag, unless `task` is given. Raises BadRequestError with the line of an error.
    """
    path = absolute(folder if folder.is_file() else find_file(folder, FILES, "a manifest"))
    lines = list(_read_lines(path))
    if not lines:
        raise BadRequestError(f"{printable(path)}: names no track")
    _require_unique(path, lines)
    task_of_lines = _task(path, task, lines)
    missing = existing(line.example for line in lines)[1]
    gone = frozenset(missing)
    found = [line for line in lines if line.example.path not in gone]
    examples, note = _with_splits(path, found, RandomSplit(valid, test, seed))
    return Dataset(NAME, task_of_lines, tag_names(examples), examples, missing, (note,))


def _read_lines(path: Path) -> Iterator[_Line]:
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".ndjson"):
        records = _jsonl(path)
    elif suffix in (".csv", ".tsv"):
        records = _csv(path, "," if suffix == ".csv" else "\t")
    else:
        raise BadRequestError(f"{printable(path)}: a manifest is a .csv, .tsv or .jsonl file")
    for line, record in records:
        yield _parsed(path, line, record)


def _csv(path: Path, delimiter: str) -> Iterator[tuple[int, dict[str, Any]]]:
    rows = read_rows(path, delimiter=delimiter)
    _, header = next(rows, (0, [""]))
    if header == [""]:
        raise BadRequestError(f"{printable(path)}: is empty")
    header = [name.strip() for name in header]
    if len(header) == 1 and "\t" in header[0]:
        raise BadRequestError(f"{printable(path)}: has tabs between its fields; give it a name in .tsv")
    for name in ("path", "tags"):
        column(path, header, name)
    for line, row in rows:
        record: dict[str, Any] = dict(zip(header, row, strict=True))
        if record["tags"].lstrip().startswith("["):
            record["tags"] = parse_json(path, line, record["tags"])
        yield line, record


def _jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, record in json_lines(path):
        for name in ("path", "tags"):
            if name not in record:
                bad_line(path, line, f"has no {name!r}{hint(name, record)}")
        yield line, record


def _parsed(path: Path, line: int, record: Mapping[str, Any]) -> _Line:
    name, artist = record["path"], record.get("artist")
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        bad_line(path, line, f"{name!r} is not a path")
    if artist is not None and not isinstance(artist, str):
        bad_line(path, line, f"the artist {artist!r} is not text")
    tags = _tags(path, line, record["tags"])
    require_text(path, line, [*tags, artist or ""])
    split, duration = _split(path, line, record.get("split")), record.get("duration_s")
    length_s = number(path, line, "" if duration is None else str(duration))
    example = Example(_file(path, line, name), tags, split or "train", artist or None, length_s)
    return _Line(line, name, split, example)


def _file(path: Path, line: int, name: str) -> Path:
    """The path of a track. JSON can hold names that are not UTF-8, as escapes that the file system may not accept."""
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        bad_line(path, line, f"{printable(name)!r} is not a file name in UTF-8")
    return absolute(path.parent / name)


def _tags(path: Path, line: int, value: object) -> tuple[str, ...]:
    tags = value.split(";") if isinstance(value, str) else value
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        bad_line(path, line, f"the tags {value!r} are neither text nor a list of texts")
    return tuple(dict.fromkeys(tag.strip() for tag in tags if tag.strip()))


def _split(path: Path, line: int, value: object) -> Split | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str) or value.strip().lower() not in _SPLIT_NAMES:
        near = hint(str(value), _SPLIT_NAMES) or "; it is train, valid or test"
        bad_line(path, line, f"unknown split {value!r}{near}")
    return _SPLIT_NAMES[value.strip().lower()]


def _require_unique(path: Path, lines: Sequence[_Line]) -> None:
    first: dict[Path, _Line] = {}
    for line in lines:
        other = first.setdefault(line.example.path, line)
        if other is not line:
            bad_line(path, line.number, f"{printable(line.name)} was already named in line {other.number}")


def _task(path: Path, task: Literal["auto", "tags", "genre"], lines: Sequence[_Line]) -> Task:
    """Raises BadRequestError for the first line that does not fit a genre task."""
    odd = next((line for line in lines if len(line.example.tags) != 1), None)
    if task == "auto":
        return "genre" if odd is None else "tags"
    if task == "genre" and odd is not None:
        bad_line(path, odd.number, f"has {len(odd.example.tags)} tags; for task=genre each track has exactly one")
    return task


def _with_splits(path: Path, lines: Sequence[_Line], split: RandomSplit) -> tuple[tuple[Example, ...], str]:
    """The tracks in the splits of the manifest or, where it has none, in drawn ones; a note on their origin."""
    without = [line for line in lines if line.split is None]
    if not without:
        return tuple(line.example for line in lines), "splits as in the manifest"
    if len(without) < len(lines):
        bad_line(path, without[0].number, "has no split, but other lines have; give one to all or to none")
    splits = split.draw({line.name: line.example for line in lines})
    drawn = tuple(replace(line.example, split=splits[line.name]) for line in lines)
    return drawn, f"the manifest has no splits; {split}"
