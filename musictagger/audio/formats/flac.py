"""FLAC (RFC 9639): metadata blocks, then the audio frames."""

from __future__ import annotations

from collections.abc import Iterator

from musictagger.audio.formats.base import ByteReader, Digest, Format, MalformedError, hash_span
from musictagger.audio.formats.stream import trailing_tags

_STREAMINFO, _INVALID = 0, 127


def metadata_blocks(file: ByteReader, start: int) -> Iterator[tuple[int, int, int]]:
    """Type, offset of the payload and its length in bytes of each metadata block of the FLAC stream at `start`."""
    offset, last = start + 4, False
    while not last:
        head = file.at(offset, 4)
        last, length = bool(head[0] & 0x80), int.from_bytes(head[1:], "big")
        yield head[0] & 0x7F, offset + 4, length
        offset += 4 + length


def _hash_payload(file: ByteReader, start: int, digest: Digest) -> int:
    """STREAMINFO and the audio frames."""
    end = start + 4
    for index, (kind, body, length) in enumerate(metadata_blocks(file, start)):
        if (index == 0) != (kind == _STREAMINFO) or kind == _INVALID:
            raise MalformedError("FLAC without its STREAMINFO in front")
        if kind == _STREAMINFO:
            digest.update(file.at(body, length))
        end = body + length
    return hash_span(file, end, trailing_tags(file, end), digest)


FLAC = Format("flac", ("flac",), lambda head: head.startswith(b"fLaC"), _hash_payload)
