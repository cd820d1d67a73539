"""ID3v2 tags as bytes: frames are replaced one by one, and every other frame is copied undecoded.

A tag library would parse and render all frames and so change those that it does not know or normalises. Sources: the
informal standards ID3v2.2.0, ID3v2.3.0 and ID3v2.4.0 (structure).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from musictagger.audio.formats.base import MalformedError
from musictagger.audio.formats.stream import synchsafe
from musictagger.tags.containers.base import TagFile
from musictagger.tags.containers.systems import System

PADDING_BYTES = 2048
"""Padding behind the frames of a tag that has grown, so that the next write moves nothing."""

SYSTEMS: dict[int, System] = {2: "ID3v2.2", 3: "ID3v2.3", 4: "ID3v2.4"}
_FRAME_ID = {2: rb"[A-Z0-9]{3}", 3: rb"[A-Z0-9]{3}[A-Z0-9 \0]", 4: rb"[A-Z0-9]{3}[A-Z0-9 \0]"}
_CODECS = ("latin-1", "utf-16", "utf-16-be", "utf-8")


@dataclass(frozen=True)
class Id3Frame:
    """One frame. `raw` is its header and body in the file."""

    name: str
    raw: bytes


class Id3File(TagFile[Id3Frame]):
    """A file with an ID3v2 tag anywhere in the file."""

    item_name = "frame"
    one_item = True

    def __init__(self, path: Path, tag: bytes, join: str, around: Mapping[str, str]) -> None:
        """`tag`: the whole tag, b"" for none. `around`: fingerprints of everything else that is not audio.

        Raises MalformedError unless all of the tag can be copied exactly.
        """
        self._path, self._join, self._around = path, join, around
        self._version, self._unsynchronised, self._plain_sizes = 4, False, False
        self._items = []
        if tag:
            self._parse(tag)
        self.system = SYSTEMS[self._version]

    def _parse(self, tag: bytes) -> None:
        self._version, flags = tag[3], tag[5]
        if self._version not in SYSTEMS:
            raise MalformedError(f"its ID3 tag is of an unknown version, 2.{self._version}")
        if tag[tag_bytes(tag[:10]) :].strip(b"\0"):
            raise MalformedError("something unknown follows its ID3 tag")
        self._unsynchronised = bool(flags & 0x80)
        body = tag[10 : 10 + synchsafe(tag[6:10])]
        if self._version < 4 and self._unsynchronised:
            body = body.replace(b"\xff\0", b"\xff")
        if flags & 0x40:
            body = _without_extended_header(body, self._version)
        try:
            self._items = _frames(body, self._version, plain_sizes=self._version == 3)
        except MalformedError:
            if self._version != 4:
                raise
            # iTunes once wrote ID3v2.4 tags with the sizes of ID3v2.3.
            self._items, self._plain_sizes = _frames(body, self._version, plain_sizes=True), True

    def get(self, key: str) -> tuple[str, ...]:
        """See TagFile."""
        texts = super().get(key)
        # Before ID3v2.4 a frame is one value. Files with two frames exist, against the standard, and readers show them
        # as one.
        return ("\0".join(texts),) if texts and self._version < 4 else texts

    def stored(self, values: tuple[str, ...]) -> tuple[str, ...]:
        """See TagFile."""
        if not values:
            return ()
        whole = self._joined(values).rstrip("\0")
        return tuple(whole.split("\0")) if self._version == 4 else (whole,)

    def _joined(self, values: tuple[str, ...]) -> str:
        if self._version == 4:
            return "\0".join(values)
        # A frame whose values are separated by NUL, against the standard, keeps its separators.
        return ("\0" if any("\0" in value for value in values) else self._join).join(values)

    def _is(self, item: Id3Frame, key: str) -> bool:
        name, _, description = key.partition(":")
        if not description or item.name != name:
            return item.name == name
        return self._parts(item, "replace")[0].casefold() == description.casefold()

    def _texts(self, item: Id3Frame, errors: str = "replace") -> Sequence[str]:
        text = self._parts(item, errors)[1].rstrip("\0")
        return text.split("\0") if self._version == 4 else (text,)

    def _parts(self, frame: Id3Frame, errors: str) -> tuple[str, str]:
        """Description (of TXXX) and text. Raises MalformedError on an encrypted frame, or bad text if `strict`."""
        body = self._body(frame)
        if not body or body[0] >= len(_CODECS):
            if body and errors == "strict":
                raise MalformedError(f"its {frame.name} frame has an unknown text encoding")
            return "", ""
        text = body[1:].decode(_CODECS[body[0]], errors)
        if body[0] == 1:
            text = text.replace("\ufeff", "").replace("\ufffe", "")
        if frame.name not in ("TXXX", "TXX"):
            return "", text
        description, _, value = text.partition("\0")
        return description, value

    def _body(self, frame: Id3Frame) -> bytes:
        """The body of a frame with grouping, compression and unsynchronisation undone."""
        if self._version == 2:
            return frame.raw[6:]
        flags, body = frame.raw[9], frame.raw[10:]
        old = self._version == 3
        grouped, compressed, encrypted = (0x20, 0x80, 0x40) if old else (0x40, 0x08, 0x04)
        if flags & encrypted:
            raise MalformedError(f"its {frame.name} frame is encrypted")
        if not old and flags & 0x02:
            body = body.replace(b"\xff\0", b"\xff")
        skip = (1 if flags & grouped else 0) + (4 if (flags & compressed if old else flags & 0x01) else 0)
        body = body[skip:]
        try:
            return zlib.decompress(body) if flags & compressed else body
        except zlib.error as error:
            raise MalformedError(f"its {frame.name} frame cannot be decompressed") from error

    def _new_items(self, key: str, values: tuple[str, ...], old: Sequence[Id3Frame]) -> Sequence[Id3Frame]:
        """One frame. The encoding of the first old one, and a NUL at its end, are kept."""
        if not values:
            return []
        like = self._body(old[0]) if old else b""
        name, _, description = key.partition(":")
        head = f"{description}\0" if description else ""
        encoding = like[0] if like and like[0] < len(_CODECS) else 0
        ended = len(like) > 1 and like.endswith(b"\0\0" if encoding in (1, 2) else b"\0")
        body = self._encoded(head, self._joined(values) + "\0" * ended, encoding, like)
        if self._version == 2:
            return [Id3Frame(name, name.encode() + len(body).to_bytes(3, "big") + body)]
        size = _synchsafe_bytes(len(body)) if self._version == 4 and not self._plain_sizes else None
        return [Id3Frame(name, name.encode() + (size or len(body).to_bytes(4, "big")) + b"\0\0" + body)]

    def _encoded(self, head: str, text: str, encoding: int, like: bytes) -> bytes:
        # Latin-1 beyond ASCII is often another code page in fact: it is kept where it is found, never introduced.
        whole = head + text
        fits = whole.isascii() or (not like.isascii() and all(ord(character) < 256 for character in whole))
        if encoding == 0 and not fits:
            encoding = 3 if self._version == 4 else 1
        if encoding == 1:
            # Each of the two texts of TXXX needs a byte order mark: FFmpeg shows nothing where one is missing.
            return b"\1" + ("\ufeff" + (head + "\ufeff" if head else "") + text).encode("utf-16-le")
        return bytes([encoding]) + whole.encode(_CODECS[encoding])

    def _raw(self, item: Id3Frame) -> tuple[str, bytes]:
        return item.name, item.raw

    def others(self, keys: Collection[str]) -> dict[str, str]:
        """See TagFile."""
        # A tag that holds only our fields may appear and disappear, so its version does not count.
        return super().others(keys) | ({"version": self.system} if self._others(keys) else {})

    def _render(self, room: int) -> bytes:
        """The whole tag, exactly `room` bytes long if it fits there, else with new padding; b"" without frames."""
        if not self._items:
            return b""
        body = b"".join(frame.raw for frame in self._items)
        if self._unsynchronised and self._version < 4:
            body = re.sub(rb"\xff(?=[\xe0-\xff\0]|\Z)", b"\xff\0", body)
        padding = room - 10 - len(body)
        body += bytes(padding if padding >= 0 else PADDING_BYTES)
        flags = 0x80 if self._unsynchronised else 0
        return b"ID3" + bytes([self._version, 0, flags]) + _synchsafe_bytes(len(body)) + body


def tag_bytes(head: bytes) -> int:
    """The length of the tag that begins with the 10 bytes `head`, footer included; 0 if none does."""
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    return synchsafe(head[6:10]) + (20 if head[3] == 4 and head[5] & 0x10 else 10)


def _without_extended_header(body: bytes, version: int) -> bytes:
    """The frames alone. The extended header is optional, and its checksum would be wrong in a changed tag."""
    if version == 2:
        raise MalformedError("its ID3v2.2 tag is compressed")
    size = synchsafe(body[:4]) if version == 4 else int.from_bytes(body[:4], "big") + 4
    if size > len(body):
        raise MalformedError("the extended header of its ID3 tag is longer than the tag")
    return body[size:]


def _frames(body: bytes, version: int, plain_sizes: bool) -> list[Id3Frame]:
    frames, at, head = [], 0, 6 if version == 2 else 10
    while at + head <= len(body) and body[at]:
        name = body[at : at + (3 if version == 2 else 4)]
        sizes = body[at + len(name) : at + len(name) + len(name)]
        size = int.from_bytes(sizes, "big") if version == 2 or plain_sizes else synchsafe(sizes)
        end = at + head + size
        if not re.fullmatch(_FRAME_ID[version], name) or end > len(body):
            raise MalformedError(f"its ID3 tag is damaged at byte {at + 10}")
        frames.append(Id3Frame(name.decode(), body[at:end]))
        at = end
    if body[at:].strip(b"\0"):
        raise MalformedError(f"its ID3 tag holds something unknown at byte {at + 10}")
    return frames


def _synchsafe_bytes(value: int) -> bytes:
    if value >= 1 << 28:
        raise MalformedError("its ID3 tag would grow beyond 256 MB")
    return bytes(value >> shift & 0x7F for shift in (21, 14, 7, 0))
