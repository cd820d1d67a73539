"""ASF (WMA): mutagen rewrites the header; fingerprints of all attributes and objects show what has not changed."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from mutagen import MutagenError
from mutagen.asf import ASF, ASFBaseAttribute, ASFUnicodeAttribute

from musictagger.audio.formats import asf
from musictagger.audio.formats.base import MalformedError
from musictagger.tags.containers.base import Container, TagFile, fingerprint, raise_oserror

_REWRITTEN = {
    bytes.fromhex("3326b2758e66cf11a6d900aa0062ce6c"): "content description",
    bytes.fromhex("40a4d0d207e3d21197f000a0c95ea850"): "extended content description",
    bytes.fromhex("eacbf8c5af5b77488467aa8c44fa4cca"): "metadata",
    bytes.fromhex("941c23449894d149a1411d134e457054"): "metadata library",
    bytes.fromhex("74d40618dfca0945a4ba9aabcb96aae8"): "padding",
}
_Attribute = tuple[str, ASFBaseAttribute]
_EXTENSION = bytes.fromhex("b503bf5f2ea9cf118ee300c00c205365")


class _AsfFile(TagFile[_Attribute]):
    """The attributes of an ASF header."""

    system = "ASF"

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = ASF(path)
        except (MutagenError, UnicodeDecodeError, struct.error) as error:
            raise_oserror(error)
            raise MalformedError(f"its ASF header cannot be read ({error})") from error
        self._items = self._file.tags

    def _is(self, item: _Attribute, key: str) -> bool:
        return item[0] == key

    def _texts(self, item: _Attribute, errors: str = "replace") -> Sequence[str]:
        is_text = isinstance(item[1], ASFUnicodeAttribute)
        if not is_text and errors == "strict":
            raise MalformedError(f"its {item[0]} is not a text")
        return (str(item[1]),) if is_text else ()

    def _holds(self, key: str, values: tuple[str, ...], old: Sequence[_Attribute]) -> bool:
        return values == tuple(text for item in old for text in self._texts(item, "strict"))

    def _new_items(self, key: str, values: tuple[str, ...], old: Sequence[_Attribute]) -> Sequence[_Attribute]:
        return [(key, ASFUnicodeAttribute(value)) for value in values]

    def _raw(self, item: _Attribute) -> tuple[str, bytes]:
        name, value = item
        return name, f"{value.TYPE} {value.language} {value.stream} {value.value!r}".encode()

    def save(self) -> None:
        try:
            self._file.tags[:] = self._items
            self._file.save(self._path)
        except MutagenError as error:
            raise_oserror(error)
            raise MalformedError(f"its ASF header cannot be written ({error})") from error

    def others(self, keys: Collection[str]) -> dict[str, str]:
        # mutagen may move attributes of different names past each other, so each name is counted on its own.
        found: dict[str, str] = {}
        counts: Counter[str] = Counter()
        for name, data in map(self._raw, self._others(keys)):
            found[f"attribute {counts[name]} {name}"] = fingerprint(data)
            counts[name] += 1
        return found | self._objects()

    def _objects(self) -> dict[str, str]:
        """The header's other objects. Raises MalformedError where they overlap."""
        with self._path.open("rb") as file:
            head = file.read(30)
            body = file.read(struct.unpack("<Q", head[16:24])[0] - 30)
        found: dict[str, str] = {}
        for guid, data in _split(body):
            inner = _split(data[22:]) if guid == _EXTENSION else [(guid, data)]
            for name, content in inner:
                if name not in _REWRITTEN:
                    found[f"object {len(found)} {name.hex()}"] = fingerprint(content)
        return found


def _split(data: bytes) -> list[tuple[bytes, bytes]]:
    objects, at = [], 0
    while at + 24 <= len(data):
        size = struct.unpack("<Q", data[at + 16 : at + 24])[0]
        if size < 24 or at + size > len(data):
            raise MalformedError("the objects of its ASF header overlap")
        objects.append((data[at : at + 16], data[at + 24 : at + size]))
        at += size
    return objects


CONTAINER = Container("asf", "WMA / ASF", asf.ASF, ("ASF",), lambda path, join: _AsfFile(path))
