"""A list in a file, CSV (or TSV) or JSON Lines: path, tags, and if wanted split, artist and duration_s.

    path,tags,split                            {"path": "a.mp3", "tags": ["rock", "80s"], "split": "train"}
    music/a.mp3,rock;80s,train

Paths are relative to the list's own folder. Several tags are separated by `;` or written as a JSON list.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from musictagger.audio.walk import absolute
from musictagger.datasets.base import Dataset, Example, Split
from musictagger.datasets.reading import (
    bad_line,
    column,
    find_file,
    number,
    present,
    read_rows,
    require_text,
)
from musictagger.datasets.splitting import Item, fractions, stratified
from musictagger.errors import BadRequestError, hint, printable
from musictagger.models.card import Task

NAME = "manifest"
SOURCE = "your own list of files"
LICENCE = "that of the music"

FILES = ("manifest.csv", "manifest.tsv", "manifest.jsonl")
_SPLIT_WORDS: Mapping[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "validation", "val", "dev"), "valid"),
    **dict.fromkeys(("test", "testing", "eval"), "test"),
}


@dataclass(frozen=True)
class _Line:
    number: int
    name: str
    """The path as it is written."""
    path: Path
    tags: tuple[str, ...]
    split: Split | None
    artist: str | None
    duration_s: float | None


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
    genre where every track has one tag, unless it is said. Raises BadRequestError with the line for whatever is wrong.
    """
    path = absolute(folder if folder.is_file() else find_file(folder, FILES, "a manifest"))
    lines = list(_read_lines(path))
    if not lines:
        raise BadRequestError(f"{printable(path)}: names no track")
    _require_unique(path, lines)
    wanted = _task(path, task, lines)
    there = [line for line in lines if present(line.path)]
    there, note = _with_splits(path, there, fractions(valid, test), seed)
    return Dataset(
        name=NAME,
        task=wanted,
        tags=tuple(sorted({tag for line in there for tag in line.tags})),
        examples=tuple(
            Example(line.path, line.tags, line.split or "train", line.artist, line.duration_s) for line in there
        ),
        missing=tuple(line.path for line in lines if not present(line.path)),
        notes=(note,),
    )


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
            record["tags"] = _json(path, line, record["tags"])
        yield line, record


def _jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
            for line, text in enumerate(file, 1):
                if not text.strip():
                    continue
                require_text(path, line, [text])
                record = _json(path, line, text)
                if not isinstance(record, dict):
                    bad_line(path, line, "is no JSON object")
                for name in ("path", "tags"):
                    if name not in record:
                        bad_line(path, line, f"has no {name!r}{hint(name, record)}")
                yield line, record
    except OSError as error:
        raise BadRequestError(f"{printable(path)}: cannot be read: {error.strerror}") from error


def _json(path: Path, line: int, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        bad_line(path, line, f"is not valid JSON: {error}")


def _parsed(path: Path, line: int, record: Mapping[str, Any]) -> _Line:
    name, artist = record["path"], record.get("artist")
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        bad_line(path, line, f"{name!r} is no path")
    if artist is not None and not isinstance(artist, str):
        bad_line(path, line, f"the artist {artist!r} is no text")
    tags = _tags(path, line, record["tags"])
    require_text(path, line, [*tags, artist or ""])
    duration = record.get("duration_s")
    return _Line(
        line,
        name,
        _place(path, line, name),
        tags,
        _split(path, line, record.get("split")),
        artist or None,
        number(path, line, "" if duration is None else str(duration)),
    )


def _place(path: Path, line: int, name: str) -> Path:
    """Where a track is. JSON can hold names that are no UTF-8, as Python's own escapes, but not every escape is one."""
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        bad_line(path, line, f"{printable(name)!r} is no file name, for it is not in UTF-8")
    return absolute(path.parent / name)


def _tags(path: Path, line: int, value: object) -> tuple[str, ...]:
    words = value.split(";") if isinstance(value, str) else value
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        bad_line(path, line, f"the tags {value!r} are neither text nor a list of texts")
    return tuple(dict.fromkeys(word.strip() for word in words if word.strip()))


def _split(path: Path, line: int, value: object) -> Split | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str) or value.strip().lower() not in _SPLIT_WORDS:
        near = hint(str(value), _SPLIT_WORDS) or "; it is train, valid or test"
        bad_line(path, line, f"unknown split {value!r}{near}")
    return _SPLIT_WORDS[value.strip().lower()]


def _require_unique(path: Path, lines: Sequence[_Line]) -> None:
    first: dict[Path, _Line] = {}
    for line in lines:
        other = first.setdefault(line.path, line)
        if other is not line:
            bad_line(path, line.number, f"{printable(line.name)} was named in line {other.number} already")


def _task(path: Path, task: Literal["auto", "tags", "genre"], lines: Sequence[_Line]) -> Task:
    """Raises BadRequestError for the first line that does not fit a genre task."""
    odd = next((line for line in lines if len(line.tags) != 1), None)
    if task == "auto":
        return "genre" if odd is None else "tags"
    if task == "genre" and odd is not None:
        bad_line(path, odd.number, f"has {len(odd.tags)} tags; for task=genre each track has exactly one")
    return task


def _with_splits(
    path: Path, lines: Sequence[_Line], shares: Mapping[Split, float], seed: int
) -> tuple[list[_Line], str]:
    """The lines, each with a split, and how they got it."""
    without = [line for line in lines if line.split is None]
    if not without:
        return list(lines), "splits as the manifest has them"
    if len(without) < len(lines):
        bad_line(path, without[0].number, "has no split, but other lines have; give one to all or to none")
    splits = stratified([Item(line.name, line.tags, line.artist) for line in lines], shares, seed)
    parts = f"{shares['valid']:g} for validation, {shares['test']:g} for test"
    note = f"the manifest has no splits; split by seed {seed}, {parts}"
    return [replace(line, split=splits[line.name]) for line in lines], note
