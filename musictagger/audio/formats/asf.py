"""ASF (WMA): a header object with the tags, then the data object with the audio."""

from __future__ import annotations

import struct

from musictagger.audio.formats.base import ByteReader, Digest, Format, MalformedError, hash_span

_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")


def _hash_payload(file: ByteReader, start: int, digest: Digest) -> int:
    """The data object."""
    offset = start
    while offset + 24 <= file.size:
        guid, size = struct.unpack("<16sQ", file.at(offset, 24))
        if guid == _DATA:
            return hash_span(file, offset + 24, offset + size if size >= 24 else file.size, digest)
        if size < 24:
            raise MalformedError("an ASF object shorter than its header")
        offset += size
    return 0


ASF = Format(
    "asf", ("wma",), lambda head: head == _HEADER, _hash_payload, is_music=lambda head: head.startswith(_HEADER[:8])
)
