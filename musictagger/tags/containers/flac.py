"""FLAC (RFC 9639): the block of Vorbis comments among its metadata."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from musictagger.audio.formats.base import MalformedError, open_bytes
from musictagger.audio.formats.flac import FLAC, metadata_blocks
from musictagger.audio.formats.stream import trailing_tags
from musictagger.audio.formats.table import sniff
from musictagger.tags.containers.base import Container, fingerprint, fingerprint_span, splice
from musictagger.tags.containers.vorbis import BLOCK_MAX_BYTES, CommentFile

PADDING_BYTES = 4096
_PADDING, _VORBIS_COMMENT = 1, 4


class _FlacFile(CommentFile):
    """The metadata blocks of FLAC. Only the comments and the last padding block ever change."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._blocks: list[tuple[int, bytes]] = []
        with open_bytes(path) as file:
            self._start = sniff(file)[1] + 4
            for kind, body, length in metadata_blocks(file, self._start - 4):
                self._blocks.append((kind, file.at(body, length)))
                self._end = body + length
            self._around = {
                "tags in front": fingerprint_span(file, 0, self._start),
                "tags behind": fingerprint_span(file, trailing_tags(file, self._end), file.size),
            }
        comments = [index for index, (kind, _) in enumerate(self._blocks) if kind == _VORBIS_COMMENT]
        if len(comments) > 1:
            raise MalformedError("it has two blocks of comments")
        if comments:
            self._index = comments[0]
            self._parse_comments(self._blocks[self._index][1])
        else:
            self._index = 1
            self._items = []
            self._blocks.insert(1, (_VORBIS_COMMENT, b""))

    def save(self) -> None:
        blocks = list(self._blocks)
        blocks[self._index] = (_VORBIS_COMMENT, self._render_comments() + self._tail)
        paddings = [index for index, (kind, _) in enumerate(blocks) if kind == _PADDING]
        spare = self._end - self._start - sum(4 + len(data) for _, data in blocks)
        if paddings:
            room = len(blocks[paddings[-1]][1]) + spare
            blocks[paddings[-1]] = (_PADDING, bytes(room if 0 <= room <= BLOCK_MAX_BYTES else PADDING_BYTES))
        elif spare != 0:
            blocks.append((_PADDING, bytes(spare - 4 if spare >= 4 else PADDING_BYTES)))
        if any(len(data) > BLOCK_MAX_BYTES for _, data in blocks):
            raise MalformedError("its comments would grow beyond 16 MB")
        heads = [bytes([kind]) + len(data).to_bytes(3, "big") for kind, data in blocks]
        heads[-1] = bytes([heads[-1][0] | 0x80]) + heads[-1][1:]
        new = b"".join(head + data for head, (_, data) in zip(heads, blocks, strict=True))
        splice(self._path, self._start, self._end - self._start, new)

    def others(self, keys: Collection[str]) -> dict[str, str]:
        rest = [(kind, data) for kind, data in self._blocks if kind not in (_PADDING, _VORBIS_COMMENT)]
        blocks = {f"block {index} of type {kind}": fingerprint(data) for index, (kind, data) in enumerate(rest)}
        return super().others(keys) | blocks


CONTAINER = Container("flac", "FLAC", FLAC, ("Vorbis comments",), lambda path, join: _FlacFile(path))
