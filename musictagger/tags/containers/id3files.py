"""Files that carry ID3v2: MP3 has it in front, WAV and AIFF in a chunk of their own."""

from __future__ import annotations

import re
import struct
from collections.abc import Collection
from pathlib import Path

from musictagger.audio.digest import chunks, skip_id3v2, trailing_tags
from musictagger.tags.containers.base import ByteReader, MalformedError, fingerprint, fingerprint_span, splice
from musictagger.tags.containers.id3 import Id3Tag, parse, tag_bytes
from musictagger.tags.containers.table import System


class _HasTag:
    """What does not depend on where in the file the tag lies."""

    _path: Path
    _tag: Id3Tag
    _around: dict[str, str]

    @property
    def system(self) -> System:
        return self._tag.system

    def get(self, key: str) -> tuple[str, ...]:
        return self._tag.get(key)

    def set(self, key: str, values: tuple[str, ...]) -> None:
        self._tag.set(key, values)

    def stored(self, values: tuple[str, ...]) -> tuple[str, ...]:
        return self._tag.stored(values)

    def others(self, keys: Collection[str]) -> dict[str, str]:
        return other_frames(self._tag, keys) | self._around


class Mp3File(_HasTag):
    """ID3v2 at the very beginning. ID3v1, APEv2 and Lyrics3 behind the audio are left alone."""

    def __init__(self, path: Path, join: str = "; ") -> None:
        self._path = path
        with path.open("rb", buffering=0) as raw:
            file = ByteReader(raw)
            self._old_bytes = tag_bytes(file.at(0, min(10, file.size)))
            self._tag = parse(file.at(0, self._old_bytes), join) if self._old_bytes else Id3Tag(join=join)
            audio = skip_id3v2(file)
            self._around = {
                "more tags in front": fingerprint_span(file, self._old_bytes, audio),
                "tags behind": fingerprint_span(file, trailing_tags(file, audio), file.size),
            }

    def save(self) -> None:
        splice(self._path, 0, self._old_bytes, self._tag.render(self._old_bytes))


class ChunkFile(_HasTag):
    """WAV (RIFF, RF64, BW64) and AIFF: the chunk `id3 ` or `ID3 `, put at the end where there is none."""

    def __init__(self, path: Path, join: str = "; ") -> None:
        self._path = path
        self._around: dict[str, str] = {}
        with path.open("rb", buffering=0) as raw:
            file = ByteReader(raw)
            self._form = file.at(0, 4)
            self._size = file.size
            self._start, self._end = file.size, file.size
            data = b""
            for name, body, length in self._checked_chunks(file):
                if name.upper() == b"ID3 ":
                    if data:
                        raise MalformedError("it has two ID3 chunks")
                    data = file.at(body, length)
                    self._start, self._end = body - 8, min(body + length + length % 2, file.size)
                elif name not in (b"data", b"SSND", b"ds64"):
                    # The size in ds64 counts our own chunk.
                    self._around[f"chunk {len(self._around)} {name!r}"] = fingerprint_span(file, body, body + length)
        if data and not tag_bytes(data[:10]):
            raise MalformedError("its ID3 chunk holds no ID3 tag")
        self._tag = parse(data, join) if data else Id3Tag(join=join)

    def _checked_chunks(self, file: ByteReader) -> list[tuple[bytes, int, int]]:
        """All chunks, certain to fill the file. Raises MalformedError where a new chunk could not be put behind."""
        form_bytes = struct.unpack(">I" if self._form == b"FORM" else "<I", file.at(4, 4))[0]
        found = list(chunks(file, 0))
        if not found or not all(re.fullmatch(rb"[ -~]{4}", name) for name, _, _ in found):
            raise MalformedError("its chunks do not follow one another")
        _, body, length = found[-1]
        if body + length + length % 2 not in (file.size, file.size + 1):
            raise MalformedError("its last chunk does not end with the file")
        for name, body, length in found:
            stored = struct.unpack(">I" if self._form == b"FORM" else "<I", file.at(body - 4, 4))[0]
            if stored != length and not (self._form in (b"RF64", b"BW64") and name == b"data"):
                raise MalformedError(f"its chunk {name.decode()} is cut off or of unknown length")
        if self._form in (b"RF64", b"BW64"):
            if found[0][0] != b"ds64":
                raise MalformedError("its ds64 chunk is missing")
            form_bytes = struct.unpack("<Q", file.at(20, 8))[0] if form_bytes == 0xFFFFFFFF else form_bytes
        if abs(form_bytes + 8 - file.size) > 1:
            raise MalformedError(f"its {self._form.decode()} size does not fit the file")
        return found

    def save(self) -> None:
        data = self._tag.render(self._end - self._start - 8)
        big = self._form == b"FORM"
        chunk = struct.pack(">4sI" if big else "<4sI", b"ID3 " if big else b"id3 ", len(data)) + data if data else b""
        chunk += bytes(len(chunk) % 2)
        if chunk and self._start == self._size:
            chunk = bytes(self._size % 2) + chunk  # the last chunk's missing pad byte
        total = self._size + len(chunk) - (self._end - self._start) - 8
        if total >= 1 << 32 and self._form not in (b"RF64", b"BW64"):
            raise MalformedError("it would grow beyond 4 GB")
        splice(self._path, self._start, self._end - self._start, chunk)
        self._write_total(total)

    def _write_total(self, total: int) -> None:
        with self._path.open("r+b", buffering=0) as raw:
            head = raw.read(28)
            if self._form == b"FORM":
                raw.seek(4)
                raw.write(struct.pack(">I", total))
            elif head[4:8] == b"\xff\xff\xff\xff":
                raw.seek(20)
                raw.write(struct.pack("<Q", total))
            else:
                raw.seek(4)
                raw.write(struct.pack("<I", total))


def other_frames(tag: Id3Tag, keys: Collection[str]) -> dict[str, str]:
    """Fingerprints of all frames that none of `keys` names, in order, each byte of them."""
    mine = {id(frame) for key in keys for frame in tag.named(key)}
    rest = [frame for frame in tag.frames if id(frame) not in mine]
    frames = {f"frame {index} {frame.name}": fingerprint(frame.raw) for index, frame in enumerate(rest)}
    # Without a frame there is no version to keep: a tag of nothing but our fields may come and go.
    return frames | ({"version": tag.system} if rest else {})
