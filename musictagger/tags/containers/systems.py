"""The tag systems, and the key of each field in them. Code and documentation are made from these tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Field = Literal["genre", "mood", "provenance"]
FIELDS: tuple[Field, ...] = ("genre", "mood", "provenance")
Values = Mapping[Field, tuple[str, ...]]
"""Raw values by field, as `read_fields` returns them; () for a field that the file does not have."""

System = Literal["ID3v2.2", "ID3v2.3", "ID3v2.4", "Vorbis comments", "MP4", "ASF", "APEv2"]
ID3_SYSTEMS: tuple[System, ...] = ("ID3v2.4", "ID3v2.3", "ID3v2.2")

ONE_VALUE: frozenset[System] = frozenset({"ID3v2.2", "ID3v2.3"})
"""Tag systems whose frames hold one value."""

DEFAULT_JOIN = "; "
"""Separates several values in tag systems of one value. Not `/`, which genres and artists contain."""

LOCATIONS: Mapping[System, Mapping[Field, str]] = {
    "ID3v2.2": {"genre": "TCO", "mood": "TXX:MOOD", "provenance": "TXX:MUSICTAGGER"},
    "ID3v2.3": {"genre": "TCON", "mood": "TXXX:MOOD", "provenance": "TXXX:MUSICTAGGER"},
    "ID3v2.4": {"genre": "TCON", "mood": "TMOO", "provenance": "TXXX:MUSICTAGGER"},
    "Vorbis comments": {"genre": "GENRE", "mood": "MOOD", "provenance": "MUSICTAGGER"},
    "MP4": {
        "genre": "\xa9gen",
        "mood": "----:com.apple.iTunes:MOOD",
        "provenance": "----:com.apple.iTunes:MUSICTAGGER",
    },
    "ASF": {"genre": "WM/Genre", "mood": "WM/Mood", "provenance": "MUSICTAGGER"},
    "APEv2": {"genre": "Genre", "mood": "Mood", "provenance": "MUSICTAGGER"},
}

NAMES: Mapping[System, Mapping[Literal["artist", "title", "album"], str]] = {
    "ID3v2.2": {"artist": "TP1", "title": "TT2", "album": "TAL"},
    "ID3v2.3": {"artist": "TPE1", "title": "TIT2", "album": "TALB"},
    "ID3v2.4": {"artist": "TPE1", "title": "TIT2", "album": "TALB"},
    "Vorbis comments": {"artist": "ARTIST", "title": "TITLE", "album": "ALBUM"},
    "MP4": {"artist": "\xa9ART", "title": "\xa9nam", "album": "\xa9alb"},
    "ASF": {"artist": "Author", "title": "Title", "album": "WM/AlbumTitle"},
    "APEv2": {"artist": "Artist", "title": "Title", "album": "Album"},
}


def stored_values(system: str | None, values: tuple[str, ...], join: str) -> tuple[str, ...]:
    """`values` in the form in which a tag system stores them: joined into one where it holds one value only."""
    return (join.join(values),) if system in ONE_VALUE and len(values) > 1 else values
