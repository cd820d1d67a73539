"""Reading tables, listings and tags of files; every error names the line."""

from __future__ import annotations

import csv
import json
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NoReturn

from musictagger.audio.walk import FoundFile, LeftOver, walk
from musictagger.datasets.base import Example
from musictagger.errors import AudioError, BadRequestError, hint, printable
from musictagger.scores.genretree import GenreTree
from musictagger.tags.fields import FileTags, read_tags

FIELD_BYTES = 1 << 24
"""The longest field of a table: FMA's biographies exceed Python's limit of 131,072."""

LONGEST_S = 1e7
"""Longest plausible track; longer ones are in another unit or a mistake."""

_SEVERAL = re.compile(r"[;\0]")
"""Separates several genres in the one value of ID3v2.3, as other programs write them."""

Row = tuple[int, list[str]]
"""The number of a row's last line, counted from 1, and its fields."""


def present(path: Path) -> bool:
    """Return whether a file exists and is not empty."""
    try:
        status = path.stat()
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size > 0


def existing(examples: Iterable[Example], root: Path = Path()) -> tuple[tuple[Example, ...], tuple[Path, ...]]:
    """The examples whose files, relative to `root`, exist and are not empty; the paths of all others."""
    found, missing = [], []
    for example in examples:
        path = root / example.path
        if present(path):
            found.append(replace(example, path=path))
        else:
            missing.append(path)
    return tuple(found), tuple(missing)


def require_folder(folder: Path) -> None:
    """Raise BadRequestError unless the folder exists."""
    if not folder.is_dir():
        raise BadRequestError(f"{printable(folder)}: {'is not a folder' if folder.exists() else 'no such folder'}")


def music_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """The music files under a folder, sorted, and those of them that are empty or cannot be read."""
    found: list[Path] = []
    missing: list[Path] = []
    for entry in walk([folder]):
        if not isinstance(entry, LeftOver):
            (found if isinstance(entry, FoundFile) and present(entry.path) else missing).append(entry.path)
    return found, missing


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects in a file of JSON lines, with line numbers counted from 1.

    Raises BadRequestError with path and line for text that is not UTF-8, and for a line that is not a JSON object.
    """
    try:
        text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise BadRequestError(f"{printable(path)}: cannot be read: {error.strerror}") from error
    # Not splitlines: inside a JSON text U+2028 and the like are letters.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            require_text(path, number, [line])
            values = parse_json(path, number, line)
            if not isinstance(values, dict):
                bad_line(path, number, "is not a JSON object")
            yield number, values


def parse_json(path: Path, line: int, text: str) -> Any:
    """The value of a JSON text in a line of a file. Raises BadRequestError."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        bad_line(path, line, f"is not valid JSON: {error}")


def read_file_tags(path: Path) -> FileTags:
    """The tags of a music file; empty ones where they cannot be read, since the file may still play."""
    try:
        return read_tags(path)
    except (AudioError, OSError):
        return FileTags(path.suffix)


def genre_names(written: Iterable[str], tree: GenreTree) -> dict[str, str]:
    """Genres of a file by key, named as this program writes them. A value may hold several."""
    names = (name.strip() for value in written for name in _SEVERAL.split(value))
    genres: dict[str, str] = {}
    for name in filter(None, names):
        genres.setdefault(tree.key(name), tree.canonical(name))
    return genres


def find_file(folder: Path, names: Sequence[str], what: str) -> Path:
    """The first of `names` (paths inside `folder`) that is a file, which messages call `what`.

    Raises BadRequestError with the names that were tried.
    """
    require_folder(folder)
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise BadRequestError(f"{printable(folder)}: {what} not found; looked for {', '.join(names)}")


def find_root(candidates: Iterable[Path], files: Sequence[Path]) -> Path | None:
    """The first folder that holds any of `files`, which are paths inside it."""
    return next((root for root in candidates if any(present(root / name) for name in files)), None)


def read_rows(path: Path, *, delimiter: str = ",", quoted: bool = True, open_end: bool = False) -> Iterator[Row]:
    """The rows of a table without its empty lines and byte order mark.

    Raises BadRequestError with path and line for text that is not UTF-8, a broken quote, and a row of another length
    than the first; with `open_end`, rows may be longer.
    """
    csv.field_size_limit(max(csv.field_size_limit(), FIELD_BYTES))
    width = 0
    try:
        # Invalid UTF-8 becomes surrogates, so that `require_text` can name the line.
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
            reader = csv.reader(file, delimiter=delimiter, quoting=quoting, strict=True)
            for row in reader:
                if not any(row):
                    continue
                width = width or len(row)
                if len(row) < width or (len(row) > width and not open_end):
                    bad_line(path, reader.line_num, f"has {len(row)} fields where the first line has {width}")
                require_text(path, reader.line_num, row)
                yield reader.line_num, row
    except csv.Error as error:
        bad_line(path, reader.line_num, str(error))
    except OSError as error:
        raise BadRequestError(f"{printable(path)}: cannot be read: {error.strerror}") from error


def require_text(path: Path, line: int, fields: Iterable[str]) -> None:
    """Raise BadRequestError for a line with bytes that are not UTF-8."""
    try:
        # Joined, because FMA's tables have 260 MB: checking each character would take a minute.
        "".join(fields).encode()
    except UnicodeEncodeError as error:
        around = error.object[max(0, error.start - 20) : error.end + 20]
        bad_line(path, line, f"{printable(around)!r} is not in UTF-8")


def bad_line(path: Path, line: int, reason: str) -> NoReturn:
    """Raise BadRequestError that names a line of a file."""
    raise BadRequestError(f"{printable(path)}, line {line}: {reason}")


def column(path: Path, header: Sequence[str], name: str) -> int:
    """The index of a column. Raises BadRequestError with the names of the columns."""
    if name not in header:
        known = ", ".join(header[:8]) + (", ..." if len(header) > 8 else "")
        raise BadRequestError(f"{printable(path)}: has no column {name!r}{hint(name, header)} (it has {known})")
    return header.index(name)


def number(path: Path, line: int, text: str) -> float | None:
    """A length in seconds; None for an empty field. Raises BadRequestError with path and line."""
    if not text.strip():
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= LONGEST_S:
        bad_line(path, line, f"{text!r} is not a length in seconds")
    return value
