"""ASF (WMA): mutagen rewrites the header; fingerprints of all attributes and objects show what has not changed."""

from __future__ import annotations

import struct
from collections.abc import Collection
from pathlib import Path

from mutagen import MutagenError
from mutagen.asf import ASF, ASFUnicodeAttribute

from musictagger.audio.formats import asf
from musictagger.audio.formats.base import MalformedError
from musictagger.tags.containers.base import Container, TagFile, fingerprint, raise_oserror, replaced

_REWRITTEN = {
    bytes.fromhex("3326b2758e66cf11a6d900aa0062ce6c"): "content description",
    bytes.fromhex("40a4d0d207e3d21197f000a0c95ea850"): "extended content description",
    bytes.fromhex("eacbf8c5af5b77488467aa8c44fa4cca"): "metadata",
    bytes.fromhex("941c23449894d149a1411d134e457054"): "metadata library",
    bytes.fromhex("74d40618dfca0945a4ba9aabcb96aae8"): "padding",
}
_EXTENSION = bytes.fromhex("b503bf5f2ea9cf118ee300c00c205365")


class AsfFile(TagFile):
    """The attributes of an ASF header."""

    system = "ASF"

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = ASF(path)
        except (MutagenError, UnicodeDecodeError, struct.error) as error:
            raise_oserror(error)
            raise MalformedError(f"its ASF header cannot be read ({error})") from error

    def get(self, key: str) -> tuple[str, ...]:
        values = (value for name, value in self._file.tags if name == key)
        return tuple(str(value) for value in values if isinstance(value, ASFUnicodeAttribute))

    def set(self, key: str, values: tuple[str, ...]) -> None:
        tags = self._file.tags
        mine = [value for name, value in tags if name == key]
        if any(not isinstance(value, ASFUnicodeAttribute) for value in mine):
            raise MalformedError(f"its {key} is not a text")
        if tuple(map(str, mine)) == values:
            return
        new = [(key, ASFUnicodeAttribute(value)) for value in values]
        tags[:] = replaced(tags, lambda item: item[0] == key, new)

    def save(self) -> None:
        try:
            self._file.save(self._path)
        except MutagenError as error:
            raise_oserror(error)
            raise MalformedError(f"its ASF header cannot be written ({error})") from error

    def others(self, keys: Collection[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        counts: dict[str, int] = {}
        for name, value in self._file.tags:
            if name not in keys:
                counts[name] = counts.get(name, -1) + 1
                data = f"{value.TYPE} {value.language} {value.stream} {value.value!r}".encode()
                found[f"attribute {counts[name]} {name}"] = fingerprint(data)
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
    parts, at = [], 0
    while at + 24 <= len(data):
        size = struct.unpack("<Q", data[at + 16 : at + 24])[0]
        if size < 24 or at + size > len(data):
            raise MalformedError("the objects of its ASF header overlap")
        parts.append((data[at : at + 16], data[at + 24 : at + size]))
        at += size
    return parts


CONTAINER = Container("asf", "WMA / ASF", asf.ASF, ("ASF",), lambda path, join: AsfFile(path))
