"""APEv2 tags, behind the audio: one item is replaced, every other is copied byte for byte.

Source: the APEv2 specification of the Hydrogenaudio knowledge base.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from pathlib import Path

from musictagger.audio.digest import last_tag_bytes, skip_id3v2, trailing_tags
from musictagger.tags.containers.base import ByteReader, MalformedError, fingerprint, fingerprint_span, splice
from musictagger.tags.containers.table import System

_HAS_HEADER, _IS_HEADER = 1 << 31, 1 << 29
_TEXT = 0


class ApeFile:
    """The APEv2 tag nearest to the end, before an ID3v1 or Lyrics3 tag if there is one."""

    system: System = "APEv2"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._items: list[tuple[int, bytes, bytes]] = []  # flags, key, value
        with path.open("rb", buffering=0) as raw:
            file = ByteReader(raw)
            audio = skip_id3v2(file)
            tags = trailing_tags(file, audio)
            self._start = self._end = tags
            end = file.size
            while end > tags:
                length = last_tag_bytes(file, end)
                if file.at(end - 32, 8) == b"APETAGEX" and length >= 32:
                    self._start, self._end = end - length, end
                    self._items = _parse(file.at(self._start, length))
                    break
                end -= length
            self._around = {
                "tags in front": fingerprint_span(file, 0, audio),
                "more tags behind": fingerprint_span(file, tags, self._start),
                "tags at the end": fingerprint_span(file, self._end, file.size),
            }

    def get(self, key: str) -> tuple[str, ...]:
        values = [value.split(b"\0") for flags, name, value in self._items if _is(name, key) and _kind(flags) == _TEXT]
        return tuple(part.decode("utf-8", "replace") for parts in values for part in parts)

    def set(self, key: str, values: tuple[str, ...]) -> None:
        mine = [index for index, item in enumerate(self._items) if _is(item[1], key)]
        if values == self.get(key) and len(mine) == bool(values):
            return
        for index in mine:
            self._check_text(key, self._items[index])
        flags, name = self._items[mine[0]][:2] if mine else (_TEXT, key.encode("ascii"))
        at = mine[0] if mine else len(self._items)
        kept = [item for index, item in enumerate(self._items) if index not in mine]
        new = [(flags, name, "\0".join(values).encode("utf-8"))] if values else []
        self._items = kept[:at] + new + kept[at:]

    @staticmethod
    def _check_text(key: str, item: tuple[int, bytes, bytes]) -> None:
        if _kind(item[0]) != _TEXT:
            raise MalformedError(f"its {key} is not a text")
        try:
            item[2].decode("utf-8")
        except UnicodeDecodeError as error:
            raise MalformedError(f"its {key} is not UTF-8") from error

    def stored(self, values: tuple[str, ...]) -> tuple[str, ...]:
        return values

    def save(self) -> None:
        splice(self._path, self._start, self._end - self._start, self._render())

    def _render(self) -> bytes:
        if not self._items:
            return b""
        body = b"".join(struct.pack("<II", len(v), flags) + name + b"\0" + v for flags, name, v in self._items)
        frame = struct.pack("<8sIII", b"APETAGEX", 2000, len(body) + 32, len(self._items))
        header = frame + struct.pack("<I8x", _HAS_HEADER | _IS_HEADER)
        return header + body + frame + struct.pack("<I8x", _HAS_HEADER)

    def others(self, keys: Collection[str]) -> dict[str, str]:
        rest = [item for item in self._items if not any(_is(item[1], key) for key in keys)]
        items = {
            f"item {index} {name.decode('ascii', 'replace')}": fingerprint(struct.pack("<I", flags) + value)
            for index, (flags, name, value) in enumerate(rest)
        }
        return items | self._around


def _is(name: bytes, key: str) -> bool:
    return name.upper() == key.upper().encode("ascii")


def _kind(flags: int) -> int:
    return flags >> 1 & 3


def _parse(tag: bytes) -> list[tuple[int, bytes, bytes]]:
    """The items of a tag with its footer, and its header if it has one. Raises MalformedError on any that overlap."""
    version, size, count = struct.unpack("<III", tag[-24:-12])
    if version != 2000:
        raise MalformedError("its APE tag is of version 1, which has no place for several values")
    items, at, end = [], len(tag) - size, len(tag) - 32
    for _ in range(count):
        stop = tag.find(b"\0", at + 8, end)
        if stop < 0:
            raise MalformedError("its APEv2 tag is damaged")
        length, item_flags = struct.unpack("<II", tag[at : at + 8])
        items.append((item_flags, tag[at + 8 : stop], tag[stop + 1 : stop + 1 + length]))
        at = stop + 1 + length
    if at != end:
        raise MalformedError("its APEv2 tag is damaged")
    return items
