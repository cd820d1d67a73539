"""Ogg (RFC 3533): logical streams in pages. The second packet of a stream holds its comments."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from musictagger.audio.formats.base import BLOCK_BYTES, ByteReader, Digest, Format, hash_span

VORBIS, OPUS, SPEEX, FLAC, _THEORA = b"\x01vorbis", b"OpusHead", b"Speex   ", b"\x7fFLAC", b"\x80theora"
"""The first bytes of the first packet of a stream, by codec."""
_FLAC_STREAMINFO = 17
"""Offset of STREAMINFO in the first packet of Ogg FLAC."""
_PAGE_MAX_BYTES = 27 + 255 + 255 * 255


def ogg_pages(file: ByteReader, start: int) -> Iterator[tuple[int, bool, bytes, bytes]]:
    """Serial number, whether its stream begins here, segment table and bytes of each whole page from `start` on."""
    buffer, position = b"", 0
    file.seek(start)
    while True:
        if len(buffer) - position < _PAGE_MAX_BYTES:
            buffer, position = buffer[position:] + file.read(BLOCK_BYTES), 0
        head = buffer[position : position + 27]
        if len(head) < 27 or head[:4] != b"OggS":
            return
        body = position + 27 + head[26]
        lacing = buffer[position + 27 : body]
        end = body + sum(lacing)
        if end > len(buffer):
            return
        yield int.from_bytes(head[14:18], "little"), bool(head[5] & 2), lacing, buffer[body:end]
        position = end


def _first_packets(file: ByteReader, start: int) -> Sequence[bytes]:
    """The first page of each stream at the beginning of the file."""
    return [data for _, _, _, data in itertools.takewhile(lambda page: page[1], ogg_pages(file, start))]


@dataclass
class _LogicalStream:
    """A logical stream while it is read. Lacing and bytes are hashed separately, so page boundaries do not count."""

    body: Digest = field(default_factory=hashlib.sha256)
    lacing: Digest = field(default_factory=hashlib.sha256)
    codec: bytes = b""
    packet: int = -1
    packet_open: bool = False
    in_audio: bool = False

    def add_page(self, lacing: bytes, data: bytes) -> None:
        """Hash one page: its segment table and its bytes."""
        offset = 0
        for index, count in enumerate(lacing):
            if not self.packet_open and not self.in_audio:
                self._begin_packet(data[offset : offset + count])
            if self.in_audio:
                self.lacing.update(lacing[index:])
                self.body.update(data[offset:])
                return
            self._header_segment(lacing[index : index + 1], data[offset : offset + count])
            self.packet_open = count == 255
            offset += count

    def _begin_packet(self, data: bytes) -> None:
        self.packet += 1
        if self.packet == 0:
            codecs = (VORBIS, OPUS, SPEEX, FLAC, _THEORA)
            self.codec = next((magic for magic in codecs if data.startswith(magic)), b"")
        if not self.codec:
            self.in_audio = True
        elif self.codec == FLAC:
            # FLAC frames start with 0xFF, which no metadata block does.
            self.in_audio = self.packet > 0 and data[:1] == b"\xff"
        else:
            self.in_audio = self.packet > 1

    def _header_segment(self, lacing: bytes, data: bytes) -> None:
        if self.packet > 0:
            return  # the comment packet; in Ogg FLAC all the metadata after STREAMINFO
        # In front of STREAMINFO, Ogg FLAC has the number of its metadata packets, which changes with the tags.
        self.body.update(data[_FLAC_STREAMINFO:] if self.codec == FLAC else data)
        self.lacing.update(lacing)


def _hash_payload(file: ByteReader, start: int, digest: Digest) -> int:
    """The packets and lacing of every logical stream, without its comment packet."""
    current: dict[int, _LogicalStream] = {}
    in_order: list[_LogicalStream] = []
    offset = start
    for serial, begins, lacing, data in ogg_pages(file, start):
        if begins or serial not in current:
            current[serial] = _LogicalStream()
            in_order.append(current[serial])
        current[serial].add_page(lacing, data)
        offset += 27 + len(lacing) + len(data)
    for stream in in_order:
        digest.update(stream.lacing.digest() + stream.body.digest())
    # A last page that is cut off, or what other programs have appended.
    hash_span(file, offset, file.size, digest)
    return offset - start


OGG = Format(
    "ogg",
    ("ogg", "oga", "opus", "spx"),
    lambda head: head.startswith(b"OggS"),
    _hash_payload,
    heads=_first_packets,
)
