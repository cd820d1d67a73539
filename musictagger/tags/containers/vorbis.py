"""Vorbis comments, in FLAC and in Ogg: one comment is replaced, every other is copied byte for byte.

Sources: Ogg Vorbis I format specification, 5 (comment field); RFC 9639 (FLAC); RFC 7845 (Opus).
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from mutagen.ogg import OggPage
from mutagen.ogg import error as OggError

from musictagger.audio.digest import ogg_pages, sniff, trailing_tags
from musictagger.tags.containers.base import ByteReader, MalformedError, fingerprint, fingerprint_span, splice
from musictagger.tags.containers.table import System

FLAC_PADDING_BYTES = 4096
_BLOCK_MAX_BYTES = (1 << 24) - 1
_PADDING, _VORBIS_COMMENT = 1, 4
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
        """Replace the comments of this key, in the place and the spelling of the first."""
        mine = [index for index, item in enumerate(self.items) if _is(item, key)]
        if values == self.get(key):
            return
        for index in mine:
            try:
                self.items[index].decode("utf-8")
            except UnicodeDecodeError as error:
                raise MalformedError(f"its {key} is not UTF-8") from error
        spelling = self.items[mine[0]].partition(b"=")[0] if mine else key.encode()
        at = mine[0] if mine else len(self.items)
        kept = [item for index, item in enumerate(self.items) if index not in mine]
        self.items = kept[:at] + [spelling + b"=" + value.encode("utf-8") for value in values] + kept[at:]

    def others(self, keys: Collection[str]) -> dict[str, str]:
        rest = [item for item in self.items if not any(_is(item, key) for key in keys)]
        found = {
            f"comment {index} {item.partition(b'=')[0].decode('utf-8', 'replace')}": fingerprint(item)
            for index, item in enumerate(rest)
        }
        # A header that we made ourselves, in a FLAC file without one, is nothing that was there before.
        vendor = {"vendor": fingerprint(self.vendor)} if self.vendor != OUR_VENDOR else {}
        return found | vendor | {"after the comments": fingerprint(self.tail.rstrip(b"\0"))}


def _is(item: bytes, key: str) -> bool:
    name, equals, _ = item.partition(b"=")
    return bool(equals) and name.upper() == key.upper().encode()


class _CommentFile:
    """What FLAC and Ogg share: their comments."""

    system: System = "Vorbis comments"
    _comments: Comments

    def get(self, key: str) -> tuple[str, ...]:
        return self._comments.get(key)

    def set(self, key: str, values: tuple[str, ...]) -> None:
        self._comments.set(key, values)

    def stored(self, values: tuple[str, ...]) -> tuple[str, ...]:
        return values


class FlacFile(_CommentFile):
    """The metadata blocks of FLAC. Only the comments and the last padding block ever change."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._blocks: list[tuple[int, bytes]] = []
        with path.open("rb", buffering=0) as raw:
            file = ByteReader(raw)
            self._start = sniff(file)[1] + 4
            at, last = self._start, False
            while not last:
                head = file.at(at, 4)
                last, length = bool(head[0] & 0x80), int.from_bytes(head[1:], "big")
                self._blocks.append((head[0] & 0x7F, file.at(at + 4, length)))
                at += 4 + length
            self._end = at
            self._around = {
                "tags in front": fingerprint_span(file, 0, self._start),
                "tags behind": fingerprint_span(file, trailing_tags(file, at), file.size),
            }
        places = [index for index, (kind, _) in enumerate(self._blocks) if kind == _VORBIS_COMMENT]
        if len(places) > 1:
            raise MalformedError("it has two blocks of comments")
        if places:
            self._place = places[0]
            self._comments = Comments.parse(self._blocks[self._place][1])
        else:
            self._place = 1
            self._comments = Comments()
            self._blocks.insert(1, (_VORBIS_COMMENT, b""))

    def save(self) -> None:
        blocks = list(self._blocks)
        blocks[self._place] = (_VORBIS_COMMENT, self._comments.render() + self._comments.tail)
        paddings = [index for index, (kind, _) in enumerate(blocks) if kind == _PADDING]
        spare = self._end - self._start - sum(4 + len(data) for _, data in blocks)
        if paddings:
            room = len(blocks[paddings[-1]][1]) + spare
            blocks[paddings[-1]] = (_PADDING, bytes(room if 0 <= room <= _BLOCK_MAX_BYTES else FLAC_PADDING_BYTES))
        elif spare != 0:
            blocks.append((_PADDING, bytes(spare - 4 if spare >= 4 else FLAC_PADDING_BYTES)))
        if any(len(data) > _BLOCK_MAX_BYTES for _, data in blocks):
            raise MalformedError("its comments would grow beyond 16 MB")
        heads = [bytes([kind]) + len(data).to_bytes(3, "big") for kind, data in blocks]
        heads[-1] = bytes([heads[-1][0] | 0x80]) + heads[-1][1:]
        new = b"".join(head + data for head, (_, data) in zip(heads, blocks, strict=True))
        splice(self._path, self._start, self._end - self._start, new)

    def others(self, keys: Collection[str]) -> dict[str, str]:
        rest = [(kind, data) for kind, data in self._blocks if kind not in (_PADDING, _VORBIS_COMMENT)]
        blocks = {f"block {index} of type {kind}": fingerprint(data) for index, (kind, data) in enumerate(rest)}
        return self._comments.others(keys) | blocks | self._around


OGG_HEADS = {b"\x01vorbis": "vorbis", b"OpusHead": "opus", b"Speex   ": "speex", b"\x7fFLAC": "oggflac"}
_COMMENT_PREFIX = {"vorbis": b"\x03vorbis", "opus": b"OpusTags", "speex": b"", "oggflac": b"\x04"}


def ogg_kind(path: Path) -> str:
    """`vorbis`, `opus`, `speex` or `oggflac`: the first stream of those in an Ogg file, or `ogg` for none."""
    with path.open("rb", buffering=0) as raw:
        file = ByteReader(raw)
        first = itertools.takewhile(lambda page: page[1], ogg_pages(file, sniff(file)[1]))
        return next((name for page in first for magic, name in OGG_HEADS.items() if page[3].startswith(magic)), "ogg")


class OggFile(_CommentFile):
    """The comment packet of the first stream that can be tagged. mutagen cuts pages, and numbers them anew."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kind = ogg_kind(path)
        with path.open("rb") as file:
            packet = self._packets(file)[1][0]
        prefix = _COMMENT_PREFIX[self._kind]
        if self._kind == "oggflac":
            self._prefix, packet_start = packet[:4], bytes([packet[0] & 0x7F])
        else:
            self._prefix = packet_start = packet[: len(prefix)]
        if packet_start != prefix:
            raise MalformedError("its second packet holds no comments")
        self._packet_bytes = len(packet)
        self._comments = Comments.parse(packet[len(self._prefix) :])

    def _packets(self, file: BinaryIO) -> tuple[list[OggPage], list[bytes]]:
        """The pages with the comment packet, and the packets on them."""
        try:
            file.seek(_start_of(self._path))
            page = OggPage(file)
            while OGG_HEADS.get(next((m for m in OGG_HEADS if page.packets[0].startswith(m)), b"")) != self._kind:
                page = OggPage(file)
            self._serial = page.serial
            pages: list[OggPage] = []
            while not pages or not (pages[-1].complete or len(pages[-1].packets) > 1):
                page = OggPage(file)
                if page.serial == self._serial:
                    pages.append(page)
            return pages, OggPage.to_packets(pages, strict=False)
        except (EOFError, OggError, ValueError, IndexError) as error:
            raise MalformedError(f"its Ogg pages do not follow one another ({error})") from error

    def save(self) -> None:
        packet = self._prefix + self._comments.render() + self._comments.tail
        if self._kind == "oggflac":
            body = packet[4:]
            if len(body) > _BLOCK_MAX_BYTES:
                raise MalformedError("its comments would grow beyond 16 MB")
            packet = packet[:1] + len(body).to_bytes(3, "big") + body
        elif not self._comments.tail.strip(b"\0\1"):  # nothing but framing bit and padding, which may shrink and grow
            slack = self._packet_bytes - len(packet)
            room = len(self._comments.tail) - len(self._comments.tail.rstrip(b"\0"))
            packet = packet + bytes(slack) if slack >= 0 else packet[: len(packet) - min(room, -slack)]
        with self._path.open("r+b") as file:
            pages, packets = self._packets(file)
            packets[0] = packet
            new = OggPage.from_packets(packets, pages[0].sequence)
            new[-1].position = pages[-1].position
            OggPage.replace(file, pages, new)

    def others(self, keys: Collection[str]) -> dict[str, str]:
        return self._comments.others(keys) | self._other_streams()

    def _other_streams(self) -> dict[str, str]:
        """Chained and multiplexed streams have comments of their own, which the digest of the audio leaves out."""
        found: dict[int, str] = {}
        with self._path.open("rb", buffering=0) as raw:
            file = ByteReader(raw)
            mine = 0
            for serial, begins, lacing, data in ogg_pages(file, sniff(file)[1]):
                mine += serial == self._serial and begins
                if serial != self._serial or mine > 1:
                    found[serial] = fingerprint(found.get(serial, "").encode() + lacing + data)
        return {f"stream {index}": value for index, value in enumerate(found.values())}


def _start_of(path: Path) -> int:
    with path.open("rb", buffering=0) as raw:
        return sniff(ByteReader(raw))[1]
