"""Ogg: the comment packet of Vorbis, Opus (RFC 7845), Speex and FLAC streams."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO

from mutagen.ogg import OggPage
from mutagen.ogg import error as OggError

from musictagger.audio.formats import ogg
from musictagger.audio.formats.base import MalformedError, open_bytes
from musictagger.audio.formats.table import sniff
from musictagger.tags.containers.base import Container, fingerprint
from musictagger.tags.containers.vorbis import BLOCK_MAX_BYTES, CommentFile


class _OggFile(CommentFile):
    """The comment packet of the first stream that can be tagged. mutagen divides it into pages and renumbers them."""

    def __init__(self, path: Path, codec: bytes, comment_prefix: bytes) -> None:
        """`codec` and `comment_prefix`: the first bytes of the stream, and of its comment packet."""
        self._path = path
        self._codec = codec
        with path.open("rb") as file:
            packet = self._packets(file)[1][0]
        if codec == ogg.FLAC:
            self._prefix, packet_start = packet[:4], bytes([packet[0] & 0x7F])
        else:
            self._prefix = packet_start = packet[: len(comment_prefix)]
        if packet_start != comment_prefix:
            raise MalformedError("its second packet holds no comments")
        self._packet_bytes = len(packet)
        self._parse_comments(packet[len(self._prefix) :])

    def _packets(self, file: BinaryIO) -> tuple[list[OggPage], list[bytes]]:
        """The pages with the comment packet, and the packets on them."""
        try:
            with open_bytes(self._path) as reader:
                file.seek(sniff(reader)[1])
            page = OggPage(file)
            while not page.packets[0].startswith(self._codec):
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
        packet = self._prefix + self._render_comments() + self._tail
        if self._codec == ogg.FLAC:
            body = packet[4:]
            if len(body) > BLOCK_MAX_BYTES:
                raise MalformedError("its comments would grow beyond 16 MB")
            packet = packet[:1] + len(body).to_bytes(3, "big") + body
        elif not self._tail.strip(b"\0\1"):
            # The tail is the framing bit and padding, which may shrink and grow.
            slack = self._packet_bytes - len(packet)
            room = len(self._tail) - len(self._tail.rstrip(b"\0"))
            packet = packet + bytes(slack) if slack >= 0 else packet[: len(packet) - min(room, -slack)]
        with self._path.open("r+b") as file:
            pages, packets = self._packets(file)
            packets[0] = packet
            new = OggPage.from_packets(packets, pages[0].sequence)
            new[-1].position = pages[-1].position
            OggPage.replace(file, pages, new)

    def others(self, keys: Collection[str]) -> dict[str, str]:
        # Chained and multiplexed streams have comments of their own, which the digest of the audio leaves out.
        found: dict[int, str] = {}
        with open_bytes(self._path) as file:
            mine = 0
            for serial, begins, lacing, data in ogg.ogg_pages(file, sniff(file)[1]):
                mine += serial == self._serial and begins
                if serial != self._serial or mine > 1:
                    found[serial] = fingerprint(found.get(serial, "").encode() + lacing + data)
        streams = {f"stream {index}": value for index, value in enumerate(found.values())}
        return super().others(keys) | streams


def _container(name: str, title: str, codec: bytes, comment_prefix: bytes) -> Container:
    def open_file(path: Path, join: str) -> _OggFile:
        return _OggFile(path, codec, comment_prefix)

    return Container(name, title, ogg.OGG, ("Vorbis comments",), open_file, magic=(codec,))


CONTAINERS = (
    _container("vorbis", "Ogg Vorbis", ogg.VORBIS, b"\x03vorbis"),
    _container("opus", "Opus", ogg.OPUS, b"OpusTags"),
    _container("speex", "Speex", ogg.SPEEX, b""),
    _container("oggflac", "Ogg FLAC", ogg.FLAC, b"\x04"),
)
