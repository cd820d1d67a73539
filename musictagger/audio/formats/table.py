"""All formats. A new one is a row here, and a module unless one line describes it."""

from __future__ import annotations

from musictagger.audio.formats.asf import ASF
from musictagger.audio.formats.base import HEAD_BYTES, ByteReader, Format, hash_span
from musictagger.audio.formats.chunks import AIFF, WAV
from musictagger.audio.formats.flac import FLAC
from musictagger.audio.formats.mp4 import MP4
from musictagger.audio.formats.ogg import OGG
from musictagger.audio.formats.stream import STREAM, skip_id3v2

MATROSKA = Format(
    "matroska",
    ("mka",),
    lambda head: head.startswith(b"\x1a\x45\xdf\xa3"),
    lambda file, start, digest: hash_span(file, 0, file.size, digest),
)
"""Hashed as a whole, because its tags are never written."""

FORMATS = (FLAC, OGG, MP4, WAV, AIFF, ASF, MATROSKA, STREAM)
"""In the order in which they are tried; the last one matches every file."""

AUDIO_SUFFIXES = frozenset(f".{suffix}" for format_ in FORMATS for suffix in format_.suffixes)


def sniff(file: ByteReader) -> tuple[Format, int]:
    """The format of a file, and the offset in bytes at which it starts, after ID3v2 tags in front.

    Raises MalformedError when a tag in front is longer than the file.
    """
    start = skip_id3v2(file)
    file.seek(start)
    head = file.read(HEAD_BYTES)
    return next(format_ for format_ in FORMATS if format_.matches(head)), start


def begins_like_music(head: bytes) -> bool:
    """Return whether a file with these first HEAD_BYTES bytes is music, whatever its name."""
    return any((format_.is_music or format_.matches)(head) for format_ in FORMATS)
