"""The errors that a user can encounter. Each message names the path, the cause and the remedy."""

from __future__ import annotations

import difflib
import errno
import os
from collections.abc import Collection, Iterable, Mapping
from typing import ClassVar

EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_SOME_FAILED = 3
EXIT_INTERRUPTED = 130


class MusictaggerError(Exception):
    """Root of all errors raised on purpose; `exit_code` is the exit code of the command line."""

    exit_code: ClassVar[int] = EXIT_ERROR


class BadRequestError(MusictaggerError):
    """The request is invalid: an unknown key, a query that cannot be parsed, a path that does not exist."""

    exit_code: ClassVar[int] = EXIT_USAGE


class ModelError(MusictaggerError):
    """A model or backbone is missing or broken, or does not match its card."""


class StoreError(MusictaggerError):
    """The database cannot be opened, read or written."""


class _FileError(MusictaggerError):
    """An error of one file: `path` and `reason` are kept apart so that both can be stored and sorted."""

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(f"{printable(path)}: {reason}")
        self.path = os.fspath(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type[_FileError], tuple[str, str]]:
        """Pickle by path and reason; by default an exception is pickled by its message alone."""
        return type(self), (self.path, self.reason)


class AudioError(_FileError):
    """One file cannot be read as audio."""


class TagWriteError(_FileError):
    """One file's tags could not be written; the file is unchanged."""


def reason_of(error: Exception) -> str:
    """The cause of an error in one line; for operating system errors, without the number and the path."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full; free some space"
    text = (isinstance(error, OSError) and error.strerror) or str(error)
    return next(iter(text.splitlines()), "") or type(error).__name__


def hint(wrong: str, known: Iterable[str]) -> str:
    """`; did you mean ...?` with the known name that is most similar, ignoring case; empty where none is similar."""
    # Papers write CRNN and FCN; file names are lower case.
    return hint_by_key(wrong.lower(), {each.lower(): each for each in known})


def hint_by_key(key: str, names: Mapping[str, str], likeness: float = 0.6) -> str:
    """As `hint`, with the name of the most similar key; `likeness` is the least similarity (difflib's ratio)."""
    close = difflib.get_close_matches(key, names, n=1, cutoff=likeness)
    return f"; did you mean {names[close[0]]!r}?" if close else ""


def require_known(what: str, value: str, known: Collection[str]) -> None:
    """Raise BadRequestError, with a suggestion or all known values, for an unknown one."""
    if value not in known:
        suggestion = hint(value, known) or f"; there are: {', '.join(known)}"
        raise BadRequestError(f"unknown {what} {value!r}{suggestion}")


def printable(path: str | os.PathLike[str]) -> str:
    """`path` as text for terminals and logs: undecodable bytes and control characters become `?`."""
    text = os.fspath(path).encode("utf-8", "replace").decode("utf-8")
    return "".join(c if c.isprintable() else "?" for c in text)


def clipped(value: object) -> str:
    """`value` as text of at most 80 characters."""
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
