"""What every tag format offers to the rest, and the two tools they share."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import Protocol

from musictagger.audio.digest import BLOCK_BYTES, ByteReader, MalformedError
from musictagger.tags.containers.table import System

__all__ = [
    "BLOCK_BYTES",
    "ByteReader",
    "MalformedError",
    "TagFile",
    "fingerprint",
    "fingerprint_span",
    "raise_oserror",
    "splice",
]


class TagFile(Protocol):
    """The tags of one file, read when it is opened. Keys are those of the table, `TXXX:MOOD` for instance."""

    @property
    def system(self) -> System:
        """The tag system of the file, or the one that it will get."""

    def get(self, key: str) -> tuple[str, ...]:
        """The values under `key`, as they are; undecodable text is shown with replacement characters."""

    def set(self, key: str, values: tuple[str, ...]) -> None:
        """Put `values` under `key`, or remove it when there are none. Raises MalformedError where it cannot."""

    def stored(self, values: tuple[str, ...]) -> tuple[str, ...]:
        """What `get` will return after `values` were set, saved and read again."""

    def save(self) -> None:
        """Write into the file, in place. Raises OSError, or MalformedError before anything was written."""

    def others(self, keys: Collection[str]) -> dict[str, str]:
        """A fingerprint of everything in the file but the values under `keys` and the audio, each under a name."""


def fingerprint(data: bytes) -> str:
    """32 hex digits that change with `data`, after its length."""
    return f"{len(data)}:{hashlib.blake2b(data, digest_size=16).hexdigest()}"


def fingerprint_span(file: ByteReader, start: int, end: int) -> str:
    """`fingerprint` of the bytes `start` to `end` of a file, read in blocks."""
    digest = hashlib.blake2b(digest_size=16)
    file.seek(start)
    for at in range(start, end, BLOCK_BYTES):
        digest.update(file.read(min(BLOCK_BYTES, end - at)))
    return f"{max(0, end - start)}:{digest.hexdigest()}"


def splice(path: Path, offset: int, old_bytes: int, new: bytes) -> None:
    """Replace `old_bytes` bytes at `offset` by `new`, moving what follows. Memory: two blocks of 1 MiB."""
    shift = len(new) - old_bytes
    with path.open("r+b", buffering=0) as raw:
        size = raw.seek(0, 2)
        tail = offset + old_bytes
        starts = range(tail, size, BLOCK_BYTES)
        if shift:
            for start in reversed(starts) if shift > 0 else starts:
                raw.seek(start)
                block = raw.read(min(BLOCK_BYTES, size - start))
                raw.seek(start + shift)
                _write_all(raw, block)
        raw.seek(offset)
        _write_all(raw, new)
        if shift < 0:
            raw.truncate(size + shift)


class _Writes(Protocol):
    def write(self, data: bytes | memoryview, /) -> int | None: ...


def _write_all(raw: _Writes, data: bytes) -> None:
    """An unbuffered write may take only a part, as it does on a disk about to be full."""
    view = memoryview(data)
    while view:
        view = view[raw.write(view) or 0 :]


def raise_oserror(error: Exception) -> None:
    """mutagen wraps errors of the system in its own; a full disk must look like one."""
    for inside in (error.__cause__, error.__context__, *error.args):
        if isinstance(inside, OSError):
            raise inside from None
