"""ID3v2 tags as bytes: frames are replaced one by one, and every other frame is copied undecoded.

A tag library would parse and render all frames and so change those that it does not know or normalises. Sources: the
informal standards ID3v2.2.0, ID3v2.3.0 and ID3v2.4.0 (structure).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from musictagger.audio.formats.base import MalformedError
from musictagger.audio.formats.surrounding import synchsafe
from musictagger.tags.containers.base import TagFile, fingerprint, replaced
from musictagger.tags.containers.systems import DEFAULT_JOIN, System

PADDING_BYTES = 2048
"""Padding behind the frames of a tag that has grown, so that the next write moves nothing."""

SYSTEMS: dict[int, System] = {2: "ID3v2.2", 3: "ID3v2.3", 4: "ID3v2.4"}
_FRAME_ID = {2: re.compile(rb"[A-Z0-9]{3}"), 3: re.compile(rb"[A-Z0-9]{3}[A-Z0-9 \0]")}
_FRAME_ID[4] = _FRAME_ID[3]
_CODECS = ("latin-1", "utf-16", "utf-16-be", "utf-8")


@dataclass(frozen=True)
class Id3Frame:
    """One frame. `raw` is its header and body in the file."""

    name: str
    raw: bytes


@dataclass
class Id3Tag:
    """The frames of one tag, in order. `plain_sizes`: an ID3v2.4 tag with ID3v2.3 sizes, as iTunes once wrote."""

    version: int = 4
    frames: list[Id3Frame] = field(default_factory=list)
    unsynchronised: bool = False
    plain_sizes: bool = False
    join: str = DEFAULT_JOIN

    @property
    def system(self) -> System:
        """The name of this version in the table."""
        return SYSTEMS[self.version]

    def get(self, key: str) -> tuple[str, ...]:
        """All values of all frames that `key` names. Before ID3v2.4 a frame is one value, whatever it contains."""
        texts = [self._text(frame, "replace") for frame in self.named(key)]
        if self.version < 4:
            # Files with two frames exist, against the standard. Readers show them as one.
            return ("\0".join(texts),) if texts else ()
        return tuple(value for text in texts for value in text.split("\0"))

    def set(self, key: str, values: tuple[str, ...]) -> None:
        """Replace the frames that `key` names by one, unless a single frame holds these values already."""
        mine = self.named(key)
        if values == self.get(key) and len(mine) == bool(values):
            return
        for frame in mine:
            self._text(frame, "strict")
        new = [self._frame(key, values, self._body(mine[0]) if mine else b"")] if values else []
        self.frames = replaced(self.frames, lambda frame: self.matches(frame, key), new)

    def named(self, key: str) -> list[Id3Frame]:
        """The frames that `key` names."""
        return [frame for frame in self.frames if self.matches(frame, key)]

    def stored(self, values: tuple[str, ...]) -> tuple[str, ...]:
        """What `get` will return after `values` were set."""
        if not values:
            return ()
        whole = self._joined(values).rstrip("\0")
        return tuple(whole.split("\0")) if self.version == 4 else (whole,)

    def _joined(self, values: tuple[str, ...]) -> str:
        if self.version == 4:
            return "\0".join(values)
        # A frame whose values are separated by NUL, against the standard, keeps its separators.
        return ("\0" if any("\0" in value for value in values) else self.join).join(values)

    def matches(self, frame: Id3Frame, key: str) -> bool:
        """Whether `key` names this frame."""
        name, _, description = key.partition(":")
        if frame.name != name:
            return False
        return not description or self._parts(frame, "replace")[0].casefold() == description.casefold()

    def _text(self, frame: Id3Frame, errors: str) -> str:
        return self._parts(frame, errors)[1].rstrip("\0")

    def _parts(self, frame: Id3Frame, errors: str) -> tuple[str, str]:
        """Description (of TXXX) and text. Raises MalformedError on an encrypted frame, or bad text if `strict`."""
        body = self._body(frame)
        if not body or body[0] >= len(_CODECS):
            if body and errors == "strict":
                raise MalformedError(f"its {frame.name} frame has an unknown text encoding")
            return "", ""
        try:
            text = body[1:].decode(_CODECS[body[0]], errors)
        except UnicodeDecodeError as error:
            raise MalformedError(f"its {frame.name} frame is not the text it claims to be ({error.reason})") from error
        if body[0] == 1:
            text = text.replace("\ufeff", "").replace("\ufffe", "")
        if frame.name not in ("TXXX", "TXX"):
            return "", text
        description, _, value = text.partition("\0")
        return description, value

    def _body(self, frame: Id3Frame) -> bytes:
        """The body of a frame with grouping, compression and unsynchronisation undone."""
        if self.version == 2:
            return frame.raw[6:]
        flags, body = frame.raw[9], frame.raw[10:]
        old = self.version == 3
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

    def _frame(self, key: str, values: tuple[str, ...], like: bytes) -> Id3Frame:
        """`like`: the body of the frame that this one replaces; its encoding, and a NUL at its end, are kept."""
        name, _, description = key.partition(":")
        head = f"{description}\0" if description else ""
        old = like[0] if like and like[0] < len(_CODECS) else 0
        ended = len(like) > 1 and like.endswith(b"\0\0" if old in (1, 2) else b"\0")
        body = self._encoded(head, self._joined(values) + "\0" * ended, old, like)
        if self.version == 2:
            return Id3Frame(name, name.encode() + len(body).to_bytes(3, "big") + body)
        size = _synchsafe_bytes(len(body)) if self.version == 4 and not self.plain_sizes else None
        return Id3Frame(name, name.encode() + (size or len(body).to_bytes(4, "big")) + b"\0\0" + body)

    def _encoded(self, head: str, text: str, encoding: int, like: bytes) -> bytes:
        # Latin-1 beyond ASCII is often another code page in fact: it is kept where it is found, never introduced.
        whole = head + text
        fits = whole.isascii() or (not like.isascii() and all(ord(character) < 256 for character in whole))
        if encoding == 0 and not fits:
            encoding = 3 if self.version == 4 else 1
        if encoding == 1:
            # Each of the two texts of TXXX needs a byte order mark: FFmpeg shows nothing where one is missing.
            return b"\1" + ("\ufeff" + (head + "\ufeff" if head else "") + text).encode("utf-16-le")
        return bytes([encoding]) + whole.encode(_CODECS[encoding])

    def render(self, room: int) -> bytes:
        """The whole tag, exactly `room` bytes long if it fits there, else with fresh padding; b"" without frames."""
        if not self.frames:
            return b""
        body = b"".join(frame.raw for frame in self.frames)
        if self.unsynchronised and self.version < 4:
            body = re.sub(rb"\xff(?=[\xe0-\xff\0]|\Z)", b"\xff\0", body)
        padding = room - 10 - len(body)
        body += bytes(padding if padding >= 0 else PADDING_BYTES)
        flags = 0x80 if self.unsynchronised else 0
        return b"ID3" + bytes([self.version, 0, flags]) + _synchsafe_bytes(len(body)) + body


class Id3File(TagFile):
    """A file with an ID3v2 tag, wherever in the file it lies."""

    def __init__(self, path: Path, tag: Id3Tag, around: dict[str, str]) -> None:
        """`around`: fingerprints of what else in the file is not audio."""
        self._path = path
        self._tag = tag
        self._around = around
        self.system = tag.system

    def get(self, key: str) -> tuple[str, ...]:
        return self._tag.get(key)

    def set(self, key: str, values: tuple[str, ...]) -> None:
        self._tag.set(key, values)

    def stored(self, values: tuple[str, ...]) -> tuple[str, ...]:
        return self._tag.stored(values)

    def others(self, keys: Collection[str]) -> dict[str, str]:
        rest = [frame for frame in self._tag.frames if not any(self._tag.matches(frame, key) for key in keys)]
        frames = {f"frame {index} {frame.name}": fingerprint(frame.raw) for index, frame in enumerate(rest)}
        # A tag of nothing but our fields may come and go, so its version does not count.
        return frames | ({"version": self.system} if rest else {}) | self._around


def tag_bytes(head: bytes) -> int:
    """The length of the tag that begins with the 10 bytes `head`, footer included; 0 if none does."""
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    return synchsafe(head[6:10]) + (20 if head[3] == 4 and head[5] & 0x10 else 10)


def parse(data: bytes, join: str) -> Id3Tag:
    """The tag in `data`, which begins with its header. Raises MalformedError unless all of it can be copied exactly."""
    version, flags = data[3], data[5]
    if version not in SYSTEMS:
        raise MalformedError(f"its ID3 tag is of an unknown version, 2.{version}")
    if data[tag_bytes(data[:10]) :].strip(b"\0"):
        raise MalformedError("something unknown follows its ID3 tag")
    body = data[10 : 10 + synchsafe(data[6:10])]
    if version < 4 and flags & 0x80:
        body = body.replace(b"\xff\0", b"\xff")
    if flags & 0x40:
        body = _without_extended_header(body, version)
    tag = Id3Tag(version, unsynchronised=bool(flags & 0x80), join=join)
    try:
        tag.frames = _frames(body, version, plain_sizes=version == 3)
    except MalformedError:
        if version != 4:
            raise
        tag.frames, tag.plain_sizes = _frames(body, version, plain_sizes=True), True
    return tag


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
        if not _FRAME_ID[version].fullmatch(name) or end > len(body):
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
