"""WAV (RIFF, RF64, BW64) and AIFF: an ID3v2 tag in a chunk of its own."""

from __future__ import annotations

import re
import struct
from pathlib import Path

from musictagger.audio.formats.base import ByteReader, MalformedError, open_bytes
from musictagger.audio.formats.chunks import AIFF, WAV, chunks
from musictagger.tags.containers.base import Container, fingerprint_span, splice
from musictagger.tags.containers.id3 import Id3File, tag_bytes
from musictagger.tags.containers.systems import ID3_SYSTEMS

_LONG = (b"RF64", b"BW64")
"""Forms whose sizes have 64 bits, in the chunk `ds64`."""


class _ChunkFile(Id3File):
    """The chunk `id3 ` or `ID3 `, put at the end where there is none."""

    def __init__(self, path: Path, join: str) -> None:
        around: dict[str, str] = {}
        with open_bytes(path) as file:
            self._form = file.at(0, 4)
            self._order = ">" if self._form == b"FORM" else "<"
            self._size = self._start = self._end = file.size
            data = b""
            for name, body, length in self._checked_chunks(file):
                if name.upper() == b"ID3 ":
                    if data:
                        raise MalformedError("it has two ID3 chunks")
                    data = file.at(body, length)
                    self._start, self._end = body - 8, min(body + length + length % 2, file.size)
                elif name not in (b"data", b"SSND", b"ds64"):
                    # The size in ds64 includes our own chunk.
                    around[f"chunk {len(around)} {name!r}"] = fingerprint_span(file, body, body + length)
        if data and not tag_bytes(data[:10]):
            raise MalformedError("its ID3 chunk holds no ID3 tag")
        super().__init__(path, data, join, around)

    def _checked_chunks(self, file: ByteReader) -> list[tuple[bytes, int, int]]:
        """All chunks. Raises MalformedError unless they fill the file, so that a new one can be put behind them."""
        found = list(chunks(file, 0))
        if not found or not all(re.fullmatch(rb"[ -~]{4}", name) for name, _, _ in found):
            raise MalformedError("its chunks do not follow one another")
        _, body, length = found[-1]
        if body + length + length % 2 not in (file.size, file.size + 1):
            raise MalformedError("its last chunk does not end with the file")
        for name, body, length in found:
            if self._size_at(file, body - 4) != length and not (self._form in _LONG and name == b"data"):
                raise MalformedError(f"its chunk {name.decode()} is cut off or of unknown length")
        form_bytes = self._size_at(file, 4)
        if self._form in _LONG:
            if found[0][0] != b"ds64":
                raise MalformedError("its ds64 chunk is missing")
            form_bytes = struct.unpack("<Q", file.at(20, 8))[0] if form_bytes == 0xFFFFFFFF else form_bytes
        if abs(form_bytes + 8 - file.size) > 1:
            raise MalformedError(f"its {self._form.decode()} size does not fit the file")
        return found

    def _size_at(self, file: ByteReader, offset: int) -> int:
        return int(struct.unpack(f"{self._order}I", file.at(offset, 4))[0])

    def save(self) -> None:
        data = self._render(self._end - self._start - 8)
        name = b"ID3 " if self._form == b"FORM" else b"id3 "
        chunk = struct.pack(f"{self._order}4sI", name, len(data)) + data if data else b""
        chunk += bytes(len(chunk) % 2)
        if chunk and self._start == self._size:
            chunk = bytes(self._size % 2) + chunk  # the missing pad byte of the last chunk
        total = self._size + len(chunk) - (self._end - self._start) - 8
        if total >= 1 << 32 and self._form not in _LONG:
            raise MalformedError("it would grow beyond 4 GB")
        splice(self._path, self._start, self._end - self._start, chunk)
        with self._path.open("r+b", buffering=0) as raw:
            long = self._form != b"FORM" and raw.read(8)[4:] == b"\xff\xff\xff\xff"
            raw.seek(20 if long else 4)
            raw.write(struct.pack("<Q" if long else f"{self._order}I", total))


CONTAINERS = (
    Container("wav", "WAV", WAV, ID3_SYSTEMS, _ChunkFile),
    Container("aiff", "AIFF", AIFF, ID3_SYSTEMS, _ChunkFile),
)
