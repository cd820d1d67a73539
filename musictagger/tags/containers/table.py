"""Which field lives where: the one table that reading, writing and the documentation are made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Field = Literal["genre", "mood", "provenance"]
FIELDS: tuple[Field, ...] = ("genre", "mood", "provenance")

System = Literal["ID3v2.2", "ID3v2.3", "ID3v2.4", "Vorbis comments", "MP4", "ASF", "APEv2"]


@dataclass(frozen=True)
class Container:
    """A kind of file. `systems`: the tag systems it may carry, the one written when it has none first; () is none.

    `refusal` tells a user why a container without a system is left alone.
    """

    name: str
    title: str
    systems: tuple[System, ...] = ()
    refusal: str = ""


_ID3: tuple[System, ...] = ("ID3v2.4", "ID3v2.3", "ID3v2.2")

CONTAINERS: Mapping[str, Container] = {
    container.name: container
    for container in (
        Container("mp3", "MP3", _ID3),
        Container("wav", "WAV", _ID3),
        Container("aiff", "AIFF", _ID3),
        Container("flac", "FLAC", ("Vorbis comments",)),
        Container("vorbis", "Ogg Vorbis", ("Vorbis comments",)),
        Container("opus", "Opus", ("Vorbis comments",)),
        Container("speex", "Speex", ("Vorbis comments",)),
        Container("oggflac", "Ogg FLAC", ("Vorbis comments",)),
        Container("mp4", "MP4 (AAC, ALAC)", ("MP4",)),
        Container("asf", "WMA / ASF", ("ASF",)),
        Container("ape", "Monkey's Audio", ("APEv2",)),
        Container("wavpack", "WavPack", ("APEv2",)),
        Container("musepack", "Musepack", ("APEv2",)),
        Container("matroska", "Matroska", refusal="Matroska files are read but never written: no safe writer exists"),
        Container("aac", "raw AAC", refusal="a raw AAC stream has no place for tags; put it into an M4A file"),
        Container("ogg", "other Ogg", refusal="this Ogg file holds no Vorbis, Opus, Speex or FLAC stream first"),
        Container("unknown", "anything else", refusal="its contents are of no kind that musictagger can tag"),
    )
}

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

SEVERAL_VALUES: Mapping[System, str] = {
    "ID3v2.2": "one frame, values joined (default `; `)",
    "ID3v2.3": "one frame, values joined (default `; `)",
    "ID3v2.4": "one frame, values separated by NUL",
    "Vorbis comments": "the field repeated",
    "MP4": "one atom, a `data` atom for each value",
    "ASF": "the attribute repeated",
    "APEv2": "one item, values separated by NUL",
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
