"""Vorbis comments: one comment is replaced, every other is copied byte for byte.

Source: Ogg Vorbis I format specification, 5 (comment field).
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Sequence

from musictagger.audio.formats.base import MalformedError
from musictagger.tags.containers.base import TagFile, fingerprint

BLOCK_MAX_BYTES = (1 << 24) - 1
"""Size of the largest metadata block of FLAC."""
OUR_VENDOR = b"musictagger"


class CommentFile(TagFile[bytes]):
    """A file with one comment header. Its items are `KEY=value` as bytes."""

    system = "Vorbis comments"
    item_name = "comment"
    _vendor = OUR_VENDOR
    _tail = b""
    """The bytes behind the comments: framing bit and padding."""

    def _parse_comments(self, data: bytes) -> None:
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
        self._vendor, self._items, self._tail = parts[0], parts[1:], data[at:]

    def _render_comments(self) -> bytes:
        """The header without its tail."""
        lengths = [struct.pack("<I", len(part)) + part for part in (self._vendor, *self._items)]
        return lengths[0] + struct.pack("<I", len(self._items)) + b"".join(lengths[1:])

    def _is(self, item: bytes, key: str) -> bool:
        name, equals, _ = item.partition(b"=")
        return bool(equals) and name.upper() == key.upper().encode()

    def _texts(self, item: bytes, errors: str = "replace") -> Sequence[str]:
        return (item.partition(b"=")[2].decode("utf-8", errors),)

    def _new_items(self, key: str, values: tuple[str, ...], old: Sequence[bytes]) -> Sequence[bytes]:
        spelling = old[0].partition(b"=")[0] if old else key.encode()
        return [spelling + b"=" + value.encode("utf-8") for value in values]

    def _raw(self, item: bytes) -> tuple[str, bytes]:
        return item.partition(b"=")[0].decode("utf-8", "replace"), item

    def others(self, keys: Collection[str]) -> dict[str, str]:
        """See TagFile."""
        # A header with our own vendor was added to a FLAC file without one.
        vendor = {"vendor": fingerprint(self._vendor)} if self._vendor != OUR_VENDOR else {}
        return super().others(keys) | vendor | {"after the comments": fingerprint(self._tail.rstrip(b"\0"))}
