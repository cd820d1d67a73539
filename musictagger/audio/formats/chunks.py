"""WAV (RIFF, RF64, BW64) and AIFF (AIFF, AIFF-C): forms made of chunks."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from musictagger.audio.formats.base import ByteReader, Digest, Format, hash_span

_UNKNOWN_SIZE = 0xFFFFFFFF
"""Left by a writer that could not seek back: the chunk reaches to the end of the file."""
_SAMPLES = (b"data", b"SSND")
_HASHED = (b"fmt ", b"COMM", *_SAMPLES)


def chunks(file: ByteReader, start: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, offset of the payload and its length in bytes of each chunk of a RIFF, RF64 or IFF form at `start`."""
    order = ">4sI" if file.at(start, 4) == b"FORM" else "<4sI"
    long_data = -1
    offset = start + 12
    while offset + 8 <= file.size:
        name, length = struct.unpack(order, file.at(offset, 8))
        body = offset + 8
        if name == b"ds64":
            long_data = struct.unpack("<Q", file.at(body + 8, 8))[0]
        if length == _UNKNOWN_SIZE:
            length = long_data if name == b"data" and long_data >= 0 else file.size - body
        length = min(length, file.size - body)
        yield name, body, length
        offset = body + length + (length & 1)


def _hash_payload(file: ByteReader, start: int, digest: Digest) -> int:
    """The chunk that describes the samples and the one that holds them, each after its name and length."""
    seen, total = set(), 0
    for name, body, length in chunks(file, start):
        if name in _HASHED:
            digest.update(name + struct.pack(">Q", length))
            count = hash_span(file, body, body + length, digest)
            total += count if name in _SAMPLES else 0
            seen.add(name)
    return total if len(seen) >= 2 else 0


WAV = Format(
    "wav",
    ("wav",),
    lambda head: head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:12] == b"WAVE",
    _hash_payload,
)
AIFF = Format(
    "aiff",
    ("aif", "aiff", "aifc"),
    lambda head: head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"),
    _hash_payload,
)
