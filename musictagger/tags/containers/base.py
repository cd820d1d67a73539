"""The interface of every container, and the functions that their modules share."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Generic, TypeVar

from musictagger.audio.formats.base import BLOCK_BYTES, ByteReader, Format, MalformedError
from musictagger.tags.containers.systems import System

Item = TypeVar("Item")


class TagFile(ABC, Generic[Item]):
    """The tags of one file, read when it is opened: items, of which those under other keys are never decoded.

    Keys are those of LOCATIONS, `TXXX:MOOD` for instance.
    """

    system: System
    """The tag system that the file has or will get."""
    item_name = "item"
    one_item = False
    """Whether all values of a key belong in one item."""
    _items: list[Item]
    _around: Mapping[str, str] = {}
    """Fingerprints of everything that is neither an item nor audio."""

    @abstractmethod
    def save(self) -> None:
        """Write into the file, in place. Raises OSError, or MalformedError before anything was written."""

    @abstractmethod
    def _is(self, item: Item, key: str) -> bool:
        """Return whether an item is under `key`."""

    @abstractmethod
    def _texts(self, item: Item, errors: str = "replace") -> Sequence[str]:
        """The values of an item. With "strict", raises MalformedError or UnicodeDecodeError where it is not text."""

    @abstractmethod
    def _new_items(self, key: str, values: tuple[str, ...], old: Sequence[Item]) -> Sequence[Item]:
        """Items that read as `values`, to replace the `old` ones."""

    @abstractmethod
    def _raw(self, item: Item) -> tuple[str, bytes]:
        """A name for an item, and all of its bytes."""

    def get(self, key: str) -> tuple[str, ...]:
        """The values under `key`, unchanged; text that cannot be decoded gets replacement characters."""
        return tuple(text for item in self._items if self._is(item, key) for text in self._texts(item))

    def set(self, key: str, values: tuple[str, ...]) -> None:
        """Put `values` under `key`, or remove it when there are none. Raises MalformedError if it cannot."""
        old = [item for item in self._items if self._is(item, key)]
        if self._holds(key, values, old):
            return
        try:
            for item in old:
                self._texts(item, "strict")
        except UnicodeDecodeError as error:
            raise MalformedError(f"its {key} is not the text it claims to be ({error.reason})") from error
        first = next((index for index, item in enumerate(self._items) if self._is(item, key)), len(self._items))
        behind = [item for item in self._items[first:] if not self._is(item, key)]
        self._items = [*self._items[:first], *self._new_items(key, values, old), *behind]

    def stored(self, values: tuple[str, ...]) -> tuple[str, ...]:
        """The values that `get` will return after `values` were set, saved and read again."""
        return values

    def _holds(self, key: str, values: tuple[str, ...], old: Sequence[Item]) -> bool:
        return values == self.get(key) and (not self.one_item or len(old) == bool(values))

    def _others(self, keys: Collection[str]) -> list[Item]:
        return [item for item in self._items if not any(self._is(item, key) for key in keys)]

    def others(self, keys: Collection[str]) -> dict[str, str]:
        """A fingerprint of everything in the file except the audio and the values under `keys`, by name."""
        items = [self._raw(item) for item in self._others(keys)]
        named = {f"{self.item_name} {index} {name}": fingerprint(raw) for index, (name, raw) in enumerate(items)}
        return {**named, **self._around}


@dataclass(frozen=True)
class Container:
    """A kind of file, defined by the tags that it holds. Several containers may share one format of the audio."""

    name: str
    """The key in CONTAINERS, which is stored in libraries."""
    title: str
    format: Format
    systems: tuple[System, ...] = ()
    """The tag systems it may have; an untagged file gets the first one. () for none."""
    open: Callable[[Path, str], TagFile[Any]] | None = None
    """Read the tags of a file. The text joins several values in a tag system of one value."""
    refusal: str = ""
    """Why files of a container without a tag system are not written."""
    magic: tuple[bytes, ...] = ()
    """Beginnings of a head (see Format.heads) that only this container of its format has."""
    probe: Callable[[Path], bool] = lambda path: True
    """Whether a file of the format without any known magic has this container."""


def fingerprint(data: bytes) -> str:
    """The length of `data`, and 32 hex digits that change with it."""
    return f"{len(data)}:{hashlib.blake2b(data, digest_size=16).hexdigest()}"


def fingerprint_span(file: ByteReader, start: int, end: int) -> str:
    """`fingerprint` of the bytes `start` to `end` of a file, read in blocks."""
    digest = hashlib.blake2b(digest_size=16)
    file.seek(start)
    for at in range(start, end, BLOCK_BYTES):
        digest.update(file.read(min(BLOCK_BYTES, end - at)))
    return f"{max(0, end - start)}:{digest.hexdigest()}"


def splice(path: Path, offset: int, old_bytes: int, new: bytes) -> None:
    """Replace `old_bytes` bytes at `offset` by `new`, moving what follows. Memory: two blocks of 1 MiB."""
    shift = len(new) - old_bytes
    with path.open("r+b", buffering=0) as raw:
        size = raw.seek(0, 2)
        starts = range(offset + old_bytes, size, BLOCK_BYTES)
        if shift:
            for start in reversed(starts) if shift > 0 else starts:
                raw.seek(start)
                block = raw.read(min(BLOCK_BYTES, size - start))
                raw.seek(start + shift)
                _write_all(raw, block)
        raw.seek(offset)
        _write_all(raw, new)
        if shift < 0:
            raw.truncate(size + shift)


def _write_all(raw: FileIO, data: bytes) -> None:
    """Write all of `data`: an unbuffered write may take only a part of it, as on a disk that is nearly full."""
    view = memoryview(data)
    while view:
        view = view[raw.write(view) or 0 :]


def raise_oserror(error: Exception) -> None:
    """Raise the OSError that mutagen has wrapped in an error of its own, if there is one."""
    for inside in (error.__cause__, error.__context__, *error.args):
        if isinstance(inside, OSError):
            raise inside from None
