"""The description of a format, and the reader that its functions get."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import SEEK_END, FileIO
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import hashlib

BLOCK_BYTES = 1 << 20
HEAD_BYTES = 16
"""Number of bytes that `Format.matches` looks at."""

Digest: TypeAlias = "hashlib._Hash"
"""A digest of hashlib that is being computed."""


class MalformedError(ValueError):
    """The content does not follow the format that the first bytes announce."""


class ByteReader:
    """An unbuffered file with a known size; `beat` is called for every read."""

    def __init__(self, raw: FileIO, beat: Callable[[], None]) -> None:
        self._raw = raw
        self._beat = beat
        self.size: int = raw.seek(0, SEEK_END)

    def seek(self, offset: int) -> None:
        """Continue to read at `offset`."""
        self._raw.seek(offset)

    def read(self, count: int) -> bytes:
        """Up to `count` bytes; fewer at the end of the file."""
        self._beat()
        return self._raw.read(count) or b""

    def readinto(self, view: memoryview) -> int:
        """Read up to the length of `view` into it; returns the number of bytes, 0 at the end of the file."""
        self._beat()
        return self._raw.readinto(view) or 0

    def at(self, offset: int, count: int) -> bytes:
        """Exactly `count` bytes at `offset`. Raises MalformedError where the file has fewer."""
        if offset < 0 or offset + count > self.size:
            raise MalformedError(f"{count} bytes expected at {offset} of {self.size}")
        self.seek(offset)
        data = self.read(count)
        if len(data) != count:
            raise MalformedError(f"{count} bytes expected at {offset}")
        return data


@contextmanager
def open_bytes(path: Path, beat: Callable[[], None] = lambda: None) -> Iterator[ByteReader]:
    """The file at `path`, opened for reading without a buffer. Raises OSError."""
    with path.open("rb", buffering=0) as raw:
        yield ByteReader(raw, beat)


def hash_span(file: ByteReader, start: int, end: int, digest: Digest) -> int:
    """Hash the bytes from `start` to `end`, or to the end of the file; returns the number of bytes hashed."""
    file.seek(start)
    view = memoryview(bytearray(min(BLOCK_BYTES, max(1, end - start))))
    left = end - start
    while left > 0:
        count = file.readinto(view[: min(left, len(view))])
        if not count:
            break
        digest.update(view[:count])
        left -= count
    return max(0, end - start) - max(0, left)


def first_bytes(file: ByteReader, start: int) -> Sequence[bytes]:
    """The only head of most formats: up to HEAD_BYTES bytes at `start`."""
    return [file.at(start, min(HEAD_BYTES, file.size - start))]


@dataclass(frozen=True)
class Format:
    """A kind of file, defined by the way it stores its audio."""

    name: str
    """Hashed in front of the audio, so that two formats never share a digest. Never change one."""
    suffixes: tuple[str, ...]
    """Extensions of its files, without the dot."""
    matches: Callable[[bytes], bool]
    """Whether a file whose first HEAD_BYTES bytes, after ID3v2 tags, are these has this format."""
    hash_payload: Callable[[ByteReader, int, Digest], int]
    """Hash the audio of a file in which the format starts at an offset; returns the number of audio bytes."""
    is_music: Callable[[bytes], bool] | None = None
    """Like `matches`, for files without a known extension, where another rule is needed."""
    heads: Callable[[ByteReader, int], Sequence[bytes]] = first_bytes
    """The beginnings by which the containers that share this format are distinguished."""
