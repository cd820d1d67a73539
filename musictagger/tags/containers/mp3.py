"""MP3: an ID3v2 tag at the very beginning. Tags behind the audio (ID3v1, APEv2, Lyrics3) are not changed."""

from __future__ import annotations

import struct
from pathlib import Path

from mutagen import MutagenError
from mutagen.mp3 import HeaderNotFoundError, MPEGInfo

from musictagger.audio.formats.base import open_bytes
from musictagger.audio.formats.stream import STREAM, skip_id3v2, trailing_tags
from musictagger.tags.containers.base import Container, fingerprint_span, raise_oserror, splice
from musictagger.tags.containers.id3 import Id3File, tag_bytes
from musictagger.tags.containers.systems import ID3_SYSTEMS


class _Mp3File(Id3File):
    """The first ID3v2 tag of an MP3 file."""

    def __init__(self, path: Path, join: str) -> None:
        with open_bytes(path) as file:
            self._old_bytes = tag_bytes(file.at(0, min(10, file.size)))
            tag = file.at(0, self._old_bytes)
            audio = skip_id3v2(file)
            around = {
                "more tags in front": fingerprint_span(file, self._old_bytes, audio),
                "tags behind": fingerprint_span(file, trailing_tags(file, audio), file.size),
            }
        super().__init__(path, tag, join, around)

    def save(self) -> None:
        splice(self._path, 0, self._old_bytes, self._render(self._old_bytes))


def _has_mpeg_frames(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            MPEGInfo(file)
    except (HeaderNotFoundError, EOFError, struct.error):
        return False
    except MutagenError as error:
        raise_oserror(error)
        raise
    return True


CONTAINER = Container("mp3", "MP3", STREAM, ID3_SYSTEMS, _Mp3File, probe=_has_mpeg_frames)
