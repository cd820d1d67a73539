"""ID3v2 tags as bytes: frames are replaced one by one, and every other frame is copied as it stands.

A tag library would parse and render all frames, turning what it does not know, or knows better, into something
else. Here a frame that is not ours is never even decoded. Sources: the informal standards ID3v2.2.0, ID3v2.3.0 and
ID3v2.4.0 (structure).
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass, field

from musictagger.audio.digest import synchsafe
from musictagger.tags.containers.base import MalformedError
from musictagger.tags.containers.table import System

PADDING_BYTES = 2048
"""Room left behind the frames when a tag must grow, so that the next write moves nothing."""

SYSTEMS: dict[int, System] = {2: "ID3v2.2", 3: "ID3v2.3", 4: "ID3v2.4"}
_FRAME_ID = {2: re.compile(rb"[A-Z0-9]{3}"), 3: re.compile(rb"[A-Z0-9]{3}[A-Z0-9 \0]")}
_FRAME_ID[4] = _FRAME_ID[3]
_CODECS = ("latin-1", "utf-16", "utf-16-be", "utf-8")


@dataclass(frozen=True)
class Id3Frame:
    """One frame. `raw` is header and body, as in the file."""

    name: str
    raw: bytes


@dataclass
class Id3Tag:
    """The frames of one tag, in order. `plain_sizes`: an ID3v2.4 tag with ID3v2.3 sizes, as iTunes once wrote."""

    version: int = 4
    frames: list[Id3Frame] = field(default_factory=list)
    unsynchronised: bool = False
    plain_sizes: bool = False
    join: str = "; "

    @property
    def system(self) -> System:
        """The name of this version in the table."""
        return SYSTEMS[self.version]

    def get(self, key: str) -> tuple[str, ...]:
        """All values of all frames that `key` names. Before ID3v2.4 a frame is one value, whatever it contains."""
        texts = [self._text(frame, "replace") for frame in self.named(key)]
        if self.version < 4:
            # Two frames, though forbidden, exist; as one frame they are what readers of such files expect.
            return ("\0".join(texts),) if texts else ()
        return tuple(value for text in texts for value in text.split("\0"))

    def set(self, key: str, values: tuple[str, ...]) -> None:
        """Replace the frames that `key` names by one; a frame that already says so stays as it is."""
        mine = [index for index, frame in enumerate(self.frames) if self._is(frame, key)]
        if values == self.get(key) and len(mine) == bool(values):
            return
        for index in mine:
            self._text(self.frames[index], "strict")
        like = self._body(self.frames[mine[0]]) if mine else b""
        new = [self._frame(key, values, like)] if values else []
        at = mine[0] if mine else len(self.frames)
        kept = [frame for index, frame in enumerate(self.frames) if index not in mine]
        self.frames = kept[:at] + new + kept[at:]

    def named(self, key: str) -> list[Id3Frame]:
        """The frames that `key` names."""
        return [frame for frame in self.frames if self._is(frame, key)]

    def stored(self, values: tuple[str, ...]) -> tuple[str, ...]:
        """What `get` will return after `values` were set."""
        if not values:
            return ()
        whole = self._joined(values).rstrip("\0")
        return tuple(whole.split("\0")) if self.version == 4 else (whole,)

    def _joined(self, values: tuple[str, ...]) -> str:
        if self.version == 4:
            return "\0".join(values)
        # A frame that already separates by NUL, against its standard, goes on doing so: nothing in it changes.
        return ("\0" if any("\0" in value for value in values) else self.join).join(values)

    def _is(self, frame: Id3Frame, key: str) -> bool:
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
                raise MalformedError(f"its {frame.name} frame has no text encoding that exists")
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
        # Latin-1 beyond ASCII is often another code page in truth: it is kept where it is found, but never begun.
        whole = head + text
        fits = whole.isascii() or (not like.isascii() and all(ord(character) < 256 for character in whole))
        if encoding == 0 and not fits:
            encoding = 3 if self.version == 4 else 1
        if encoding == 1:
            # Each of the two texts of TXXX has a mark of its own: FFmpeg shows nothing where one is missing.
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


def tag_bytes(head: bytes) -> int:
    """The length of the tag that begins with the 10 bytes `head`, footer included; 0 if none does."""
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    return synchsafe(head[6:10]) + (20 if head[3] == 4 and head[5] & 0x10 else 10)


def parse(data: bytes, join: str = "; ") -> Id3Tag:
    """The tag in `data`, header first. Raises MalformedError on anything that could not be copied faithfully."""
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
    """It holds a checksum and the size of the padding, which a changed tag makes wrong, and is optional."""
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
