"""Read and write the fields of one file, whatever its container.

`set_fields` changes a file in place: for anything but a private copy use `musictagger.tags.safewrite`.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from musictagger.audio.formats.base import MalformedError
from musictagger.errors import AudioError, TagWriteError
from musictagger.tags.containers.base import TagFile
from musictagger.tags.containers.genrevalues import genre_names
from musictagger.tags.containers.systems import DEFAULT_JOIN, FIELDS, LOCATIONS, NAMES, Field, System, Values
from musictagger.tags.containers.table import container_of


@dataclass(frozen=True)
class FileTags:
    """The tags of a file. `genres` are names, with numbers of genres translated; `fields` are raw values."""

    container: str
    system: System | None = None
    """The tag system the file has, or would get; None where it cannot have tags."""
    artist: str | None = None
    title: str | None = None
    album: str | None = None
    genres: tuple[str, ...] = ()
    fields: Values = dataclasses.field(default_factory=dict)


def read_tags(path: Path) -> FileTags:
    """The tags of a file; an empty FileTags where the container has none. Raises OSError, AudioError."""
    container = container_of(path)
    if container.open is None:
        return FileTags(container.name)
    file = _open_to_read(path)
    names = {name: "; ".join(filter(None, file.get(key))) or None for name, key in NAMES[file.system].items()}
    fields = {field: file.get(key) for field, key in LOCATIONS[file.system].items()}
    genres = tuple(filter(None, fields["genre"]))
    if file.system.startswith("ID3") or file.system == "MP4":
        genres = tuple(dict.fromkeys(name for value in genres for name in genre_names(value)))
    return FileTags(container.name, file.system, names["artist"], names["title"], names["album"], genres, fields)


def read_fields(path: Path, fields: Collection[Field] = FIELDS) -> dict[Field, tuple[str, ...]]:
    """The raw values of several fields: () for none, ("",) for an empty text. Raises OSError, AudioError."""
    file = _open_to_read(path)
    return {field: file.get(LOCATIONS[file.system][field]) for field in fields}


def stored_form(path: Path, values: Values, *, id3v23_join: str = DEFAULT_JOIN) -> dict[Field, tuple[str, ...]]:
    """The values that `read_fields` returns after `set_fields` wrote `values`: before ID3v2.4 several become one."""
    file = _open_to_read(path, id3v23_join)
    return {field: file.stored(texts) for field, texts in values.items()}


def set_fields(path: Path, values: Values, *, id3v23_join: str = DEFAULT_JOIN) -> None:
    """Write each field given, or remove it where its values are (). In place: a crash halfway ruins the file.

    Raises OSError, and TagWriteError, in which case nothing was written.
    """
    try:
        _check(values)
        file = _open(path, id3v23_join)
        for field, wanted in values.items():
            file.set(LOCATIONS[file.system][field], wanted)
        file.save()
    except (MalformedError, struct.error) as error:
        raise TagWriteError(path, f"its tags are left alone: {error}") from error


def snapshot(path: Path, but: Collection[Field] = FIELDS) -> dict[str, str]:
    """A fingerprint of everything that is not audio and not one of the fields `but`, for comparing before and after.

    The names identify what differs: `frame 3 APIC`, `comment 0 TITLE`, `block 2 of type 6`. Raises OSError, AudioError.
    """
    try:
        file = _open(path)
        return file.others([LOCATIONS[file.system][field] for field in but])
    except (MalformedError, struct.error) as error:
        raise AudioError(path, f"its tags cannot be compared: {error}") from error


def _check(values: Values) -> None:
    """Raise MalformedError for half a surrogate pair, which no encoding can hold."""
    for field, texts in values.items():
        for text in texts:
            if any("\ud800" <= character <= "\udfff" for character in text):
                raise MalformedError(f"a {field} of {text!r} cannot be written")


def _open_to_read(path: Path, join: str = DEFAULT_JOIN) -> TagFile[Any]:
    try:
        return _open(path, join)
    except (MalformedError, struct.error) as error:
        raise AudioError(path, f"its tags cannot be read: {error}") from error


def _open(path: Path, join: str = DEFAULT_JOIN) -> TagFile[Any]:
    """Raise MalformedError for a container that cannot be tagged, or for damage."""
    container = container_of(path)
    if container.open is None:
        raise MalformedError(container.refusal)
    return container.open(path, join)
