"""What the datasets share: tables, with the line in every complaint, and a cheap look whether files are there."""

from __future__ import annotations

import csv
import json
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NoReturn

from musictagger.errors import BadRequestError, hint, printable

FIELD_BYTES = 1 << 24
"""The longest field of a table. FMA's biographies are longer than the 131,072 that Python stops at."""

LONGEST_S = 1e7
"""Of one track: more is a number in another unit, or a slip."""

Row = tuple[int, list[str]]
"""The number of a row's last line, counted from 1, and its fields."""


def present(path: Path) -> bool:
    """Whether a file is there and not empty."""
    try:
        status = path.stat()
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size > 0


def require_folder(folder: Path) -> None:
    """Raise BadRequestError unless the folder exists."""
    if not folder.is_dir():
        raise BadRequestError(f"{printable(folder)}: {'is no folder' if folder.exists() else 'no such folder'}")


def json_lines(path: Path) -> Iterator[tuple[int, object]]:
    """The values of a file of JSON lines, each with its line's number, counted from 1. Raises BadRequestError."""
    try:
        # Not splitlines: inside a JSON text U+2028 and the like are letters.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, ValueError) as error:
        raise BadRequestError(f"{printable(path)}: cannot be read as a listing: {error}") from error
    for number, text in enumerate(lines, 1):
        if text.strip():
            try:
                yield number, json.loads(text)
            except ValueError as error:
                bad_line(path, number, f"is no JSON: {error}")


def find_file(folder: Path, names: Sequence[str], what: str) -> Path:
    """The first of `names` (paths inside `folder`) that is a file.

    Raises BadRequestError, naming where it was looked for and what it is.
    """
    require_folder(folder)
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise BadRequestError(f"{printable(folder)}: {what} is not there; looked for {', '.join(names)}")


def find_root(candidates: Iterable[Path], files: Sequence[str]) -> Path | None:
    """The first folder that holds any of `files`, given as paths inside it."""
    return next((root for root in candidates if any(present(root / name) for name in files)), None)


def read_rows(path: Path, *, delimiter: str = ",", quoted: bool = True, open_end: bool = False) -> Iterator[Row]:
    """The rows of a table, empty lines left out; a byte order mark is none of the first field's.

    Raises BadRequestError with path and line for text that is no UTF-8, a broken quote, and a row of another length
    than the first; with `open_end`, rows may be longer.
    """
    csv.field_size_limit(max(csv.field_size_limit(), FIELD_BYTES))
    width = 0
    try:
        # Bytes that are no UTF-8 come through as surrogates, so that the line that has them can be named.
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
    """Raise BadRequestError for a line with bytes that are no UTF-8."""
    try:
        # Joined, since FMA's tables have 260 MB: a look at each character would take a minute.
        "".join(fields).encode()
    except UnicodeEncodeError as error:
        around = error.object[max(0, error.start - 20) : error.end + 20]
        bad_line(path, line, f"{printable(around)!r} is not in UTF-8")


def bad_line(path: Path, line: int, reason: str) -> NoReturn:
    """Raise BadRequestError that names a line of a file."""
    raise BadRequestError(f"{printable(path)}, line {line}: {reason}")


def column(path: Path, header: Sequence[str], name: str) -> int:
    """The index of a column. Raises BadRequestError with the names there are."""
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
        bad_line(path, line, f"{text!r} is no length in seconds")
    return value


def require_known(what: str, value: str, known: Sequence[str]) -> None:
    """Raise BadRequestError, with a suggestion or all there are, for a value that is not known."""
    if value not in known:
        suggestion = hint(value, known) or f"; there are: {', '.join(known)}"
        raise BadRequestError(f"unknown {what} {value!r}{suggestion}")
