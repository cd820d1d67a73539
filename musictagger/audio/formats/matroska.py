"""Matroska: hashed as a whole, because its tags are never written."""

from __future__ import annotations

from musictagger.audio.formats.base import Format, hash_span

MATROSKA = Format(
    "matroska",
    ("mka",),
    lambda head: head.startswith(b"\x1a\x45\xdf\xa3"),
    lambda file, start, digest: hash_span(file, 0, file.size, digest),
)
