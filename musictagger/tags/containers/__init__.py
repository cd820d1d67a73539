"""The tags of music files: which field lives where, reading them, writing exactly the fields named.

`set_fields` changes a file in place: for anything but a private copy use `musictagger.tags.safewrite`.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from mutagen import MutagenError
from mutagen.mp3 import HeaderNotFoundError, MPEGInfo

from musictagger.audio.digest import ByteReader, MalformedError, sniff
from musictagger.errors import AudioError, TagWriteError
from musictagger.tags.containers.ape import ApeFile
from musictagger.tags.containers.asf import AsfFile
from musictagger.tags.containers.base import TagFile, raise_oserror
from musictagger.tags.containers.genrevalues import genre_names, merge_genres
from musictagger.tags.containers.id3files import ChunkFile, Mp3File
from musictagger.tags.containers.mp4 import Mp4File
from musictagger.tags.containers.table import (
    CONTAINERS,
    FIELDS,
    LOCATIONS,
    NAMES,
    SEVERAL_VALUES,
    Container,
    Field,
    System,
)
from musictagger.tags.containers.vorbis import FlacFile, OggFile, ogg_kind

__all__ = [
    "CONTAINERS",
    "DEFAULT_JOIN",
    "FIELDS",
    "LOCATIONS",
    "NAMES",
    "ONE_VALUE",
    "SEVERAL_VALUES",
    "Container",
    "Field",
    "FileTags",
    "System",
    "container_of",
    "genre_names",
    "merge_genres",
    "read_field",
    "read_fields",
    "read_tags",
    "set_fields",
    "snapshot",
    "stored_form",
    "stored_values",
    "writable",
]

ONE_VALUE: frozenset[System] = frozenset({"ID3v2.2", "ID3v2.3"})
"""Tag systems whose frames hold one value."""

DEFAULT_JOIN = "; "
"""Between several values in ID3v2.3 and 2.2, whose frames hold one. Not `/`, which genres and artists contain."""


@dataclass(frozen=True)
class FileTags:
    """What a file says about itself. `genres` are names, numbers read as what they mean; `fields` are raw values."""

    container: str
    system: System | None = None
    """The tag system the file has, or would get; None where it cannot have tags."""
    artist: str | None = None
    title: str | None = None
    album: str | None = None
    genres: tuple[str, ...] = ()
    fields: Mapping[Field, tuple[str, ...]] = dataclasses.field(default_factory=dict)


def container_of(path: Path) -> str:
    """The key in CONTAINERS of the file at `path`, by its content. Raises OSError."""
    try:
        with path.open("rb", buffering=0) as raw:
            file = ByteReader(raw)
            kind, start = sniff(file)
            head = file.at(start, min(16, file.size - start))
        if kind == "ogg":
            return ogg_kind(path)
        return _stream_kind(path, head) if kind == "stream" else kind
    except MalformedError:
        return "unknown"


def _stream_kind(path: Path, head: bytes) -> str:
    for magic, name in ((b"MAC ", "ape"), (b"wvpk", "wavpack"), (b"MPCK", "musepack"), (b"MP+", "musepack")):
        if head.startswith(magic):
            return name
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
        return "aac"  # an ADTS header: the layer, two bits, is 0
    try:
        with path.open("rb") as file:
            MPEGInfo(file)
    except (HeaderNotFoundError, EOFError, struct.error):
        return "unknown"
    except MutagenError as error:
        raise_oserror(error)
        raise
    return "mp3"


def stored_values(system: str | None, values: tuple[str, ...], join: str) -> tuple[str, ...]:
    """The form in which a tag system stores values: before ID3v2.4, a frame holds one, so several are joined."""
    return (join.join(values),) if system in ONE_VALUE and len(values) > 1 else values


def writable(container: str) -> bool:
    """Whether files of this container can be tagged."""
    return bool(CONTAINERS[container].systems)


def read_tags(path: Path) -> FileTags:
    """The tags of a file; an empty FileTags where the container has none. Raises OSError, AudioError."""
    container = container_of(path)
    if not writable(container):
        return FileTags(container)
    file = _open_to_read(path)
    names = {name: "; ".join(filter(None, file.get(key))) or None for name, key in NAMES[file.system].items()}
    fields = {field: file.get(key) for field, key in LOCATIONS[file.system].items()}
    genres = tuple(filter(None, fields["genre"]))
    if file.system.startswith("ID3") or file.system == "MP4":
        genres = tuple(dict.fromkeys(name for value in genres for name in genre_names(value)))
    return FileTags(container, file.system, names["artist"], names["title"], names["album"], genres, fields)


def read_field(path: Path, field: Field) -> tuple[str, ...]:
    """The raw values of one field: what an undo has to write. Raises OSError, AudioError."""
    return read_fields(path, (field,))[field]


def read_fields(path: Path, fields: Collection[Field] = FIELDS) -> dict[Field, tuple[str, ...]]:
    """The raw values of several fields: () for none, ("",) for an empty text. Raises OSError, AudioError."""
    file = _open_to_read(path)
    return {field: file.get(LOCATIONS[file.system][field]) for field in fields}


def stored_form(path: Path, values: tuple[str, ...], *, id3v23_join: str = DEFAULT_JOIN) -> tuple[str, ...]:
    """What `read_field` returns after `set_fields` wrote `values`: before ID3v2.4 several become one."""
    return _open_to_read(path, id3v23_join).stored(values)


def set_fields(path: Path, values: Mapping[Field, tuple[str, ...]], *, id3v23_join: str = DEFAULT_JOIN) -> None:
    """Write each field given, or remove it where its values are (). In place: a crash halfway ruins the file.

    Raises OSError, and TagWriteError, in which case nothing was written.
    """
    try:
        _check(path, values)
        file = _open(path, id3v23_join)
        for field, wanted in values.items():
            file.set(LOCATIONS[file.system][field], wanted)
        file.save()
    except (MalformedError, struct.error) as error:
        raise TagWriteError(path, f"its tags are left alone: {error}") from error


def snapshot(path: Path, but: Collection[Field] = FIELDS) -> dict[str, str]:
    """A fingerprint of everything that is not audio and not one of the fields `but`, for comparing before and after.

    Names tell what differs: `frame 3 APIC`, `comment 0 TITLE`, `block 2 of type 6`. Raises OSError, AudioError.
    """
    try:
        file = _open(path)
        return file.others([LOCATIONS[file.system][field] for field in but])
    except (MalformedError, struct.error) as error:
        raise AudioError(path, f"its tags cannot be compared: {error}") from error


def _check(path: Path, values: Mapping[Field, tuple[str, ...]]) -> None:
    for field, texts in values.items():
        for text in texts:
            if any("\ud800" <= character <= "\udfff" for character in text):
                raise MalformedError(f"a {field} of {text!r} cannot be written")


def _open_to_read(path: Path, join: str = DEFAULT_JOIN) -> TagFile:
    try:
        return _open(path, join)
    except (MalformedError, struct.error) as error:
        raise AudioError(path, f"its tags cannot be read: {error}") from error


def _open(path: Path, join: str = DEFAULT_JOIN) -> TagFile:
    """Raises MalformedError for a container that cannot be tagged, and whatever damage its reader finds."""
    container = container_of(path)
    if not writable(container):
        raise MalformedError(CONTAINERS[container].refusal)
    if container == "mp3":
        return Mp3File(path, join)
    if container in ("wav", "aiff"):
        return ChunkFile(path, join)
    if container in ("ape", "wavpack", "musepack"):
        return ApeFile(path)
    if container == "flac":
        return FlacFile(path)
    if container == "mp4":
        return Mp4File(path)
    return AsfFile(path) if container == "asf" else OggFile(path)
