"""Files with tags in front and behind and audio between: MP3, AAC, Monkey's Audio, WavPack, Musepack, and the rest."""

from __future__ import annotations

from musictagger.audio.formats.base import ByteReader, Digest, Format, hash_span
from musictagger.audio.formats.surrounding import trailing_tags

APE, WAVPACK, MUSEPACK = (b"MAC ",), (b"wvpk",), (b"MPCK", b"MP+")
ADTS = (b"\xff\xf0", b"\xff\xf1", b"\xff\xf8", b"\xff\xf9")
"""First bytes of such files; of raw AAC the sync word with layer 0."""


def _hash_payload(file: ByteReader, start: int, digest: Digest) -> int:
    """All bytes between the tags in front and the tags behind."""
    return hash_span(file, start, trailing_tags(file, start), digest)


def _is_music(head: bytes) -> bool:
    return head.startswith((b"ID3", *APE, *WAVPACK, *MUSEPACK)) or _is_mpeg_sync(head)


def _is_mpeg_sync(head: bytes) -> bool:
    # Layer I (both layer bits set) is extinct, and ff fe is how text in UTF-16 begins.
    return len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0 and head[1] & 0x06 != 0x06


STREAM = Format("stream", ("mp3", "aac", "ape", "wv", "mpc"), lambda head: True, _hash_payload, is_music=_is_music)
