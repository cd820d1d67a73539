"""Files with tags in front and behind and audio between: MP3, AAC, Monkey's Audio, WavPack, Musepack, and the rest.

ID3v2 tags come first; ID3v1, enhanced ID3v1, Lyrics3, APE or appended ID3v2 tags come last. Other formats are found
between such tags too.
"""

from __future__ import annotations

import struct

from musictagger.audio.formats.base import ByteReader, Digest, Format, MalformedError, hash_span

APE, WAVPACK, MUSEPACK = (b"MAC ",), (b"wvpk",), (b"MPCK", b"MP+")
ADTS = (b"\xff\xf0", b"\xff\xf1", b"\xff\xf8", b"\xff\xf9")
"""First bytes of such files; of raw AAC the sync word with layer 0."""


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
    offset = 0
    while True:
        file.seek(offset)
        head = file.read(10)
        if offset and head[:3] == b"3DI":
            # A footer that the flags of its tag do not announce, left by writers that ignore footers.
            offset += 10
        elif len(head) == 10 and head[:3] == b"ID3" and head[3] < 0xFF and head[4] < 0xFF:
            offset += 10 + synchsafe(head[6:10])
        else:
            return offset
        if offset > file.size:
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
    # ID3v1 comes last: its three letters also occur in the text of other tags, and in "APETAGEX".
    if tail(128, 3) == b"TAG" and tail(131, 8) != b"APETAGEX":
        return 128 + (227 if tail(355, 4) == b"TAG+" else 0)
    return 0


def _hash_payload(file: ByteReader, start: int, digest: Digest) -> int:
    """All bytes between the tags in front and the tags behind."""
    return hash_span(file, start, trailing_tags(file, start), digest)


def _is_music(head: bytes) -> bool:
    return head.startswith((b"ID3", *APE, *WAVPACK, *MUSEPACK)) or _is_mpeg_sync(head)


def _is_mpeg_sync(head: bytes) -> bool:
    # Layer I (both layer bits set) is extinct, and ff fe is how text in UTF-16 begins.
    return len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0 and head[1] & 0x06 != 0x06


STREAM = Format(
    "stream",
    suffixes=("mp3", "aac", "ape", "wv", "mpc"),
    matches=lambda head: True,
    hash_payload=_hash_payload,
    is_music=_is_music,
)
