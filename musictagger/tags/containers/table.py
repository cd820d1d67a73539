"""All containers. A new one is a module and a row here.

A container names its format, which decides which bytes are audio. Formats are in musictagger.audio.formats, because a
digest needs no tags and several containers share a format.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from musictagger.audio.formats.base import MalformedError, open_bytes
from musictagger.audio.formats.ogg import OGG
from musictagger.audio.formats.stream import ADTS, STREAM
from musictagger.audio.formats.table import MATROSKA, sniff
from musictagger.tags.containers import ape, asf, chunks, flac, mp3, mp4, ogg
from musictagger.tags.containers.base import Container

_REFUSED = (
    Container(
        "matroska", "Matroska", MATROSKA, refusal="Matroska files are read but never written: no safe writer exists"
    ),
    Container(
        "aac", "raw AAC", STREAM, refusal="a raw AAC stream has no place for tags; put it into an M4A file", magic=ADTS
    ),
    Container("ogg", "other Ogg", OGG, refusal="this Ogg file holds no Vorbis, Opus, Speex or FLAC stream first"),
    Container("unknown", "anything else", STREAM, refusal="its contents are of no kind that musictagger can tag"),
)

CONTAINERS: Mapping[str, Container] = {
    container.name: container
    for container in (
        mp3.CONTAINER,
        *chunks.CONTAINERS,
        flac.CONTAINER,
        *ogg.CONTAINERS,
        mp4.CONTAINER,
        asf.CONTAINER,
        *ape.CONTAINERS,
        *_REFUSED,
    )
}
"""By name, in the order of the documentation. Containers of one format without a magic are tried in this order."""


def container_of(path: Path) -> Container:
    """The container of the file at `path`, by its content. Raises OSError."""
    try:
        with open_bytes(path) as file:
            format_, start = sniff(file)
            heads = format_.heads(file, start)
    except MalformedError:
        return CONTAINERS["unknown"]
    candidates = [container for container in CONTAINERS.values() if container.format is format_]
    for head in heads:
        for container in candidates:
            if container.magic and head.startswith(container.magic):
                return container
    return next(container for container in candidates if not container.magic and container.probe(path))


def writable(container: str) -> bool:
    """Return whether files of the container of this name can be tagged."""
    return bool(CONTAINERS[container].systems)
