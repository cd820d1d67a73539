"""Vorbis comments: one comment is replaced, every other is copied byte for byte.

Source: Ogg Vorbis I format specification, 5 (comment field).
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from dataclasses import dataclass, field

from musictagger.audio.formats.base import MalformedError
from musictagger.tags.containers.base import TagFile, fingerprint, replaced

BLOCK_MAX_BYTES = (1 << 24) - 1
"""Size of the largest metadata block of FLAC."""
OUR_VENDOR = b"musictagger"


@dataclass
class Comments:
    """A comment header. `items` are `KEY=value` as bytes; `tail` is what follows them (framing bit, padding)."""

    vendor: bytes = OUR_VENDOR
    items: list[bytes] = field(default_factory=list)
    tail: bytes = b""

    @classmethod
    def parse(cls, data: bytes) -> Comments:
        """Raises MalformedError where a length reaches beyond `data`."""
        try:
            parts, at = [], 0
            (length,) = struct.unpack_from("<I", data, 0)
            (count,) = struct.unpack_from("<I", data, 4 + length)
            for _ in range(count + 1):
                (length,) = struct.unpack_from("<I", data, at)
                parts.append(data[at + 4 : at + 4 + length])
                at += 4 + length + (4 if len(parts) == 1 else 0)
        except struct.error as error:
            raise MalformedError("its comments are cut off") from error
        if at > len(data):
            raise MalformedError("its comments are cut off")
        return cls(parts[0], parts[1:], data[at:])

    def render(self) -> bytes:
        """The header without its tail."""
        lengths = [struct.pack("<I", len(part)) + part for part in (self.vendor, *self.items)]
        return lengths[0] + struct.pack("<I", len(self.items)) + b"".join(lengths[1:])

    def get(self, key: str) -> tuple[str, ...]:
        return tuple(item.partition(b"=")[2].decode("utf-8", "replace") for item in self.items if _is(item, key))

    def set(self, key: str, values: tuple[str, ...]) -> None:
        """Replace the comments of this key, at the position and in the spelling of the first."""
        if values == self.get(key):
            return
        mine = [item for item in self.items if _is(item, key)]
        try:
            for item in mine:
                item.decode("utf-8")
        except UnicodeDecodeError as error:
            raise MalformedError(f"its {key} is not UTF-8") from error
        spelling = mine[0].partition(b"=")[0] if mine else key.encode()
        new = [spelling + b"=" + value.encode("utf-8") for value in values]
        self.items = replaced(self.items, lambda item: _is(item, key), new)

    def others(self, keys: Collection[str]) -> dict[str, str]:
        rest = [item for item in self.items if not any(_is(item, key) for key in keys)]
        found = {
            f"comment {index} {item.partition(b'=')[0].decode('utf-8', 'replace')}": fingerprint(item)
            for index, item in enumerate(rest)
        }
        # A header with our own vendor was added to a FLAC file without one.
        vendor = {"vendor": fingerprint(self.vendor)} if self.vendor != OUR_VENDOR else {}
        return found | vendor | {"after the comments": fingerprint(self.tail.rstrip(b"\0"))}


def _is(item: bytes, key: str) -> bool:
    name, equals, _ = item.partition(b"=")
    return bool(equals) and name.upper() == key.upper().encode()


class CommentFile(TagFile):
    """A file with one comment header."""

    system = "Vorbis comments"
    _comments: Comments

    def get(self, key: str) -> tuple[str, ...]:
        return self._comments.get(key)

    def set(self, key: str, values: tuple[str, ...]) -> None:
        self._comments.set(key, values)
