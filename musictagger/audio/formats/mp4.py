"""MP4 (ISO/IEC 14496-12): a sequence of atoms; the atom `mdat` holds the audio."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from musictagger.audio.formats.base import ByteReader, Digest, Format, MalformedError, hash_span

_FIRST_ATOMS = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")
_PICTURES = (b"heic", b"heix", b"mif1", b"msf1", b"avif", b"avis", b"crx ")
"""Brands of MP4 files that are pictures."""


def mp4_atoms(file: ByteReader, start: int, end: int) -> Iterator[tuple[bytes, int, int, int]]:
    """Name, offset, offset of the payload and end of each atom between `start` and `end`.

    An atom that the end cuts off ends there. Raises MalformedError where a size is impossible.
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


def _hash_payload(file: ByteReader, start: int, digest: Digest) -> int:
    """The payload of every `mdat` atom, each after its length."""
    total = 0
    for name, _, body, end in mp4_atoms(file, start, file.size):
        if name == b"mdat":
            digest.update(struct.pack(">Q", end - body))
            total += hash_span(file, body, end, digest)
    return total


MP4 = Format(
    "mp4",
    ("m4a", "m4b", "mp4"),
    lambda head: head[4:8] in _FIRST_ATOMS,
    _hash_payload,
    is_music=lambda head: head[4:8] == b"ftyp" and head[8:12] not in _PICTURES,
)
