"""The identity of a track: a digest of its audio payload that no retagging changes.

What is hashed, by container (told by content, never by name):

    flac      STREAMINFO and the audio frames
    ogg       of every logical stream the packets and their lacing, without the comment packet
    mp4       the payload of every `mdat` atom
    wav       the `fmt ` and `data` chunks (RIFF, RF64, BW64)
    aiff      the `COMM` and `SSND` chunks (AIFF, AIFF-C)
    asf       the Data object
    matroska  the whole file
    stream    anything else (MP3, AAC, APE, WavPack, Musepack, ...): all bytes between the tags in front
              (ID3v2) and the tags behind (ID3v1, enhanced ID3v1, Lyrics3, APE, appended ID3v2)

The container's name is hashed first, so that two containers never collide. A file that is not what its first bytes
claim is hashed as a whole.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import SEEK_END, FileIO
from pathlib import Path
from typing import Protocol

BLOCK_BYTES = 1 << 20
ASF_HEADER_GUID = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
ASF_DATA_GUID = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
_MP4_FIRST_ATOMS = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")
_UNKNOWN_SIZE = 0xFFFFFFFF  # a writer that could not seek back leaves this; the audio then reaches to the end


class Digest(Protocol):
    """What of a hashlib object is used here."""

    def update(self, data: bytes | memoryview, /) -> None: ...
    def digest(self) -> bytes: ...


class MalformedError(ValueError):
    """The bytes are not what the container's first bytes claim."""


def _no_beat() -> None:
    """Nobody watches."""


def audio_digest(path: Path, beat: Callable[[], None] = _no_beat) -> str:
    """SHA-256, as 64 hex digits, of the audio payload of the file at `path`, without its tags.

    Reads the file once, in blocks of 1 MiB; memory does not grow with the file. `beat` is called for every block, so
    that a watchdog can tell a slow disk from a hung one. Raises OSError and nothing else.
    """
    with path.open("rb", buffering=0) as raw:
        file = ByteReader(raw, beat)
        try:
            kind, start = sniff(file)
            digest = hashlib.sha256(kind.encode() + b"\0")
            payload_bytes = _HASHERS[kind](file, start, digest)
        except (MalformedError, struct.error):
            payload_bytes = 0
        if not payload_bytes:
            digest = hashlib.sha256(b"whole\0")
            _hash_span(file, 0, file.size, digest)
    return digest.hexdigest()


def sniff(file: ByteReader) -> tuple[str, int]:
    """The container's name (see above) and the offset in bytes at which it starts, after ID3v2 tags in front.

    Raises MalformedError when a tag in front is longer than the file.
    """
    start = skip_id3v2(file)
    file.seek(start)
    head = file.read(16)
    return _kind(head), start


def _kind(head: bytes) -> str:
    if head[:4] == b"fLaC":
        return "flac"
    if head[:4] == b"OggS":
        return "ogg"
    if head[4:8] in _MP4_FIRST_ATOMS:
        return "mp4"
    if head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        return "wav"
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return "aiff"
    if head == ASF_HEADER_GUID:
        return "asf"
    return "matroska" if head[:4] == b"\x1a\x45\xdf\xa3" else "stream"


class ByteReader:
    """A file that knows its size, and whose `exact` refuses to come back short."""

    def __init__(self, raw: FileIO, beat: Callable[[], None] = _no_beat) -> None:
        self._raw = raw
        self._beat = beat
        self.size: int = raw.seek(0, SEEK_END)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._raw.seek(offset, whence)

    def read(self, count: int) -> bytes:
        self._beat()
        return self._raw.read(count) or b""

    def readinto(self, view: memoryview) -> int:
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


def _hash_span(file: ByteReader, start: int, end: int, digest: Digest) -> int:
    """Hash the bytes `start` to `end`, as far as the file has them; returns how many there were."""
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


# ---- tags in front and behind -------------------------------------------------------------------------------------


def synchsafe(data: bytes) -> int:
    """The integer in `data` with 7 bits a byte (ID3v2.4 structure, 6.2). Raises MalformedError on a high bit."""
    value = 0
    for byte in data:
        if byte & 0x80:
            raise MalformedError("a size with its high bit set")
        value = value << 7 | byte
    return value


def skip_id3v2(file: ByteReader) -> int:
    """The offset in bytes after all ID3v2 tags in front. Raises MalformedError when a tag is longer than the file."""
    size = file.seek(0, SEEK_END)
    offset = 0
    while True:
        file.seek(offset)
        head = file.read(10)
        if (
            offset and head[:3] == b"3DI"
        ):  # a footer that its tag's flags do not announce: left by writers that ignore footers
            offset += 10
        elif len(head) == 10 and head[:3] == b"ID3" and head[3] < 0xFF and head[4] < 0xFF:
            offset += 10 + synchsafe(head[6:10])
        else:
            return offset
        if offset > size:
            raise MalformedError("an ID3v2 tag longer than the file")


def trailing_tags(file: ByteReader, start: int) -> int:
    """The offset in bytes at which the tags at the end of the file begin, not before `start`."""
    end = file.size
    while True:
        length = last_tag_bytes(file, end)
        if not length or end - length < start:
            return end
        end -= length


def last_tag_bytes(file: ByteReader, end: int) -> int:
    """Length in bytes of the tag that ends at `end`, or 0."""

    def tail(distance: int, count: int) -> bytes:
        return file.at(end - distance, count) if distance <= end else b""

    if tail(32, 8) == b"APETAGEX":
        size, flags = struct.unpack("<I4xI", tail(20, 12))
        return int(size) + (32 if flags & 0x80000000 else 0) if size >= 32 else 0
    if tail(9, 9) == b"LYRICS200" and tail(15, 6).isdigit():
        return int(tail(15, 6)) + 15
    if tail(9, 9) == b"LYRICSEND":
        window = tail(min(end, 5120), min(end, 5120))
        found = window.rfind(b"LYRICSBEGIN")
        return len(window) - found if found >= 0 else 0
    if tail(10, 3) == b"3DI":
        return synchsafe(tail(4, 4)) + 20
    # Asked last, for three letters are soon found: in the text of a tag of another kind, or in its "APETAGEX".
    if tail(128, 3) == b"TAG" and tail(131, 8) != b"APETAGEX":
        return 128 + (227 if tail(355, 4) == b"TAG+" else 0)
    return 0


def _hash_stream(file: ByteReader, start: int, digest: Digest) -> int:
    return _hash_span(file, start, trailing_tags(file, start), digest)


def _hash_matroska(file: ByteReader, start: int, digest: Digest) -> int:
    return _hash_span(file, 0, file.size, digest)


# ---- containers of chunks -----------------------------------------------------------------------------------------


def _hash_flac(file: ByteReader, start: int, digest: Digest) -> int:
    offset, last, index = start + 4, False, 0
    while not last:
        head = file.at(offset, 4)
        last, kind = bool(head[0] & 0x80), head[0] & 0x7F
        length = int.from_bytes(head[1:], "big")
        if (index == 0) != (kind == 0) or kind == 127:
            raise MalformedError("FLAC without its STREAMINFO in front")
        if kind == 0:
            digest.update(file.at(offset + 4, length))
        offset, index = offset + 4 + length, index + 1
    return _hash_span(file, offset, trailing_tags(file, offset), digest)


def mp4_atoms(file: ByteReader, start: int, end: int) -> Iterator[tuple[bytes, int, int, int]]:
    """Name, offset, offset of the payload and end of each atom in `start` .. `end`.

    Raises MalformedError where a size makes no sense; an atom cut off by the end of the file is given as it is.
    """
    offset = start
    while offset + 8 <= end:
        size, name = struct.unpack(">I4s", file.at(offset, 8))
        body = offset + 8
        if size == 1:
            size, body = int.from_bytes(file.at(body, 8), "big"), body + 8
        stop = end if size == 0 else offset + size
        if stop < body:
            raise MalformedError(f"atom {name!r} with a size of {size}")
        yield name, offset, body, min(stop, end)
        offset = stop


def _hash_mp4(file: ByteReader, start: int, digest: Digest) -> int:
    total = 0
    for name, _, body, end in mp4_atoms(file, start, file.size):
        if name == b"mdat":
            digest.update(struct.pack(">Q", end - body))
            total += _hash_span(file, body, end, digest)
    return total


def chunks(file: ByteReader, start: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, offset of the payload and its length in bytes of each chunk of a RIFF, RF64 or IFF form at `start`."""
    big = file.at(start, 4) == b"FORM"
    long_data = -1
    offset = start + 12
    while offset + 8 <= file.size:
        name, length = struct.unpack(">4sI" if big else "<4sI", file.at(offset, 8))
        body = offset + 8
        if name == b"ds64":
            long_data = struct.unpack("<Q", file.at(body + 8, 8))[0]
        if length == _UNKNOWN_SIZE:
            length = long_data if name == b"data" and long_data >= 0 else file.size - body
        length = min(length, file.size - body)
        yield name, body, length
        offset = body + length + (length & 1)


def _hash_chunks(file: ByteReader, start: int, digest: Digest) -> int:
    wanted = {b"fmt ", b"data", b"COMM", b"SSND"}
    seen, total = set(), 0
    for name, body, length in chunks(file, start):
        if name in wanted:
            digest.update(name + struct.pack(">Q", length))
            count = _hash_span(file, body, body + length, digest)
            total += count if name in (b"data", b"SSND") else 0
            seen.add(name)
    return total if len(seen) >= 2 else 0


def _hash_asf(file: ByteReader, start: int, digest: Digest) -> int:
    offset = start
    while offset + 24 <= file.size:
        guid, size = struct.unpack("<16sQ", file.at(offset, 24))
        if guid == ASF_DATA_GUID:
            return _hash_span(file, offset + 24, offset + size if size >= 24 else file.size, digest)
        if size < 24:
            raise MalformedError("an ASF object shorter than its header")
        offset += size
    return 0


# ---- Ogg ----------------------------------------------------------------------------------------------------------


@dataclass
class _OggStream:
    """One logical stream while it is read. Lacing values and bytes are hashed apart: page boundaries then vanish."""

    body: Digest = field(default_factory=hashlib.sha256)
    lacing: Digest = field(default_factory=hashlib.sha256)
    codec: str = ""
    packet: int = -1
    packet_open: bool = False
    in_audio: bool = False

    def page(self, lacing: bytes, data: bytes) -> None:
        """Take one page: its segment table and its bytes."""
        offset = 0
        for index, count in enumerate(lacing):
            if not self.packet_open and not self.in_audio:
                self._begin_packet(data[offset : offset + count])
            if self.in_audio:
                self.lacing.update(lacing[index:])
                self.body.update(data[offset:])
                return
            self._header_segment(lacing[index : index + 1], data[offset : offset + count])
            self.packet_open = count == 255
            offset += count

    def _begin_packet(self, data: bytes) -> None:
        self.packet += 1
        if self.packet == 0:
            self.codec = next((name for magic, name in _OGG_CODECS.items() if data.startswith(magic)), "")
        if not self.codec:
            self.in_audio = True
        elif self.codec == "flac":
            # FLAC frames start with 0xFF, which no metadata block does.
            self.in_audio = self.packet > 0 and data[:1] == b"\xff"
        else:
            self.in_audio = self.packet > 1

    def _header_segment(self, lacing: bytes, data: bytes) -> None:
        if self.packet > 0:
            return  # the comment packet; in Ogg FLAC all the metadata after STREAMINFO
        # The head of Ogg FLAC counts its metadata packets and tells whether one follows: that changes with the tags.
        self.body.update(data[_OGG_FLAC_STREAMINFO:] if self.codec == "flac" else data)
        self.lacing.update(lacing)


_OGG_CODECS = {
    b"\x01vorbis": "vorbis",
    b"OpusHead": "opus",
    b"Speex   ": "speex",
    b"\x7fFLAC": "flac",
    b"\x80theora": "theora",
}
_OGG_FLAC_STREAMINFO = 17  # 0x7F "FLAC", version, number of packets, "fLaC", header of the STREAMINFO block
_OGG_PAGE_MAX_BYTES = 27 + 255 + 255 * 255


def _hash_ogg(file: ByteReader, start: int, digest: Digest) -> int:
    streams: dict[int, _OggStream] = {}
    order: list[_OggStream] = []
    offset = start
    for serial, begins, lacing, data in ogg_pages(file, start):
        if begins or serial not in streams:
            streams[serial] = _OggStream()
            order.append(streams[serial])
        streams[serial].page(lacing, data)
        offset += 27 + len(lacing) + len(data)
    for stream in order:
        digest.update(stream.lacing.digest() + stream.body.digest())
    _hash_span(file, offset, file.size, digest)  # a last page that is cut off, or what others have put behind
    return offset - start


def ogg_pages(file: ByteReader, start: int) -> Iterator[tuple[int, bool, bytes, bytes]]:
    """Serial number, whether its stream begins here, segment table and bytes of each whole page from `start` on."""
    buffer, position = b"", 0
    file.seek(start)
    while True:
        if len(buffer) - position < _OGG_PAGE_MAX_BYTES:
            buffer, position = buffer[position:] + file.read(BLOCK_BYTES), 0
        head = buffer[position : position + 27]
        if len(head) < 27 or head[:4] != b"OggS":
            return
        body = position + 27 + head[26]
        lacing = buffer[position + 27 : body]
        end = body + sum(lacing)
        if end > len(buffer):
            return
        yield int.from_bytes(head[14:18], "little"), bool(head[5] & 2), lacing, buffer[body:end]
        position = end


_HASHERS = {
    "flac": _hash_flac,
    "ogg": _hash_ogg,
    "mp4": _hash_mp4,
    "wav": _hash_chunks,
    "aiff": _hash_chunks,
    "asf": _hash_asf,
    "matroska": _hash_matroska,
    "stream": _hash_stream,
}
