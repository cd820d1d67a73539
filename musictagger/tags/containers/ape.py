"""APEv2 tags, behind the audio: one item is replaced, every other is copied byte for byte.

Source: the APEv2 specification of the Hydrogenaudio knowledge base.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from musictagger.audio.formats import stream
from musictagger.audio.formats.base import MalformedError, open_bytes
from musictagger.audio.formats.stream import last_tag_bytes, skip_id3v2, trailing_tags
from musictagger.tags.containers.base import Container, TagFile, fingerprint_span, splice

_HAS_HEADER, _IS_HEADER = 1 << 31, 1 << 29


class _Item(NamedTuple):
    flags: int
    key: bytes
    value: bytes


class _ApeFile(TagFile[_Item]):
    """The APEv2 tag nearest to the end, before an ID3v1 or Lyrics3 tag if there is one."""

    system = "APEv2"
    one_item = True

    def __init__(self, path: Path) -> None:
        self._path = path
        self._items = []
        with open_bytes(path) as file:
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

    def _is(self, item: _Item, key: str) -> bool:
        return item.key.upper() == key.upper().encode("ascii")

    def _texts(self, item: _Item, errors: str = "replace") -> Sequence[str]:
        is_text = not item.flags >> 1 & 3
        if not is_text and errors == "strict":
            raise MalformedError(f"its {item.key.decode('ascii', 'replace')} is not a text")
        return item.value.decode("utf-8", errors).split("\0") if is_text else ()

    def _new_items(self, key: str, values: tuple[str, ...], old: Sequence[_Item]) -> Sequence[_Item]:
        like = old[0] if old else _Item(0, key.encode("ascii"), b"")
        return [like._replace(value="\0".join(values).encode("utf-8"))] if values else []

    def _raw(self, item: _Item) -> tuple[str, bytes]:
        return item.key.decode("ascii", "replace"), struct.pack("<I", item.flags) + item.value

    def save(self) -> None:
        splice(self._path, self._start, self._end - self._start, self._render())

    def _render(self) -> bytes:
        if not self._items:
            return b""
        body = b"".join(struct.pack("<II", len(v), flags) + key + b"\0" + v for flags, key, v in self._items)
        frame = struct.pack("<8sIII", b"APETAGEX", 2000, len(body) + 32, len(self._items))
        header = frame + struct.pack("<I8x", _HAS_HEADER | _IS_HEADER)
        return header + body + frame + struct.pack("<I8x", _HAS_HEADER)


def _parse(tag: bytes) -> list[_Item]:
    """The items of a tag, given with its footer and, if it has one, its header. Raises MalformedError on damage."""
    version, size, count = struct.unpack("<III", tag[-24:-12])
    if version != 2000:
        raise MalformedError("its APE tag is of version 1, which cannot hold several values")
    items, at, end = [], len(tag) - size, len(tag) - 32
    for _ in range(count):
        stop = tag.find(b"\0", at + 8, end)
        if stop < 0:
            raise MalformedError("its APEv2 tag is damaged")
        length, item_flags = struct.unpack("<II", tag[at : at + 8])
        items.append(_Item(item_flags, tag[at + 8 : stop], tag[stop + 1 : stop + 1 + length]))
        at = stop + 1 + length
    if at != end:
        raise MalformedError("its APEv2 tag is damaged")
    return items


def _container(name: str, title: str, magic: tuple[bytes, ...]) -> Container:
    return Container(name, title, stream.STREAM, ("APEv2",), lambda path, join: _ApeFile(path), magic=magic)


CONTAINERS = (
    _container("ape", "Monkey's Audio", stream.APE),
    _container("wavpack", "WavPack", stream.WAVPACK),
    _container("musepack", "Musepack", stream.MUSEPACK),
)
