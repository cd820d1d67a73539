"""The errors a user can meet. Each text says what happened, to what, and what to do about it."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from typing import ClassVar

EXIT_OK = 0
EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_SOME_FAILED = 3
EXIT_INTERRUPTED = 130


class MusictaggerError(Exception):
    """Root of all errors raised on purpose; `exit_code` is what the command line ends with."""

    exit_code: ClassVar[int] = EXIT_ERROR


class BadRequestError(MusictaggerError):
    """What was asked for makes no sense: an unknown key, an unparsable query, a path that is not there."""

    exit_code: ClassVar[int] = EXIT_USAGE


class ModelError(MusictaggerError):
    """A model or backbone is missing, broken, or not what its card says."""


class StoreError(MusictaggerError):
    """The database cannot be opened, read or written."""


class _FileError(MusictaggerError):
    """One file's misfortune: `path` and `reason` are kept apart so that both can be stored and sorted."""

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(f"{printable(path)}: {reason}")
        self.path = os.fspath(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type[_FileError], tuple[str, str]]:
        """Exceptions are pickled by their message, which alone does not make one of these again."""
        return type(self), (self.path, self.reason)


class AudioError(_FileError):
    """One file cannot be read as audio."""


class TagWriteError(_FileError):
    """One file's tags could not be written; the file is as it was."""


def hint(wrong: str, known: Iterable[str]) -> str:
    """`; did you mean ...?` where something known is like what was written, in capitals or small letters."""
    # Papers write CRNN and FCN, files are in small letters.
    spelt = {each.lower(): each for each in known}
    close = difflib.get_close_matches(wrong.lower(), list(spelt), n=1)
    return f"; did you mean {spelt[close[0]]!r}?" if close else ""


def printable(path: str | os.PathLike[str]) -> str:
    """`path` as text any terminal and log can take: undecodable bytes and control characters become `?`."""
    text = os.fspath(path).encode("utf-8", "replace").decode("utf-8")
    return "".join(c if c.isprintable() else "?" for c in text)


def clipped(value: object) -> str:
    """`value` as a part of a sentence: at most 80 characters of it."""
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
