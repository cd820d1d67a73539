"""Other programs read the written tags of every container: FFmpeg (through PyAV), TagLib and mutagen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import media
import mutagen
import mutagen.id3
import pytest

from musictagger.tags.containers.systems import Field
from musictagger.tags.fields import read_tags
from musictagger.tags.safewrite import Edit, write_fields

LINE = '{"model": "größer", "version": "1.0", "time": null, "scores": {"Jazz/Funk": 0.5}}'
NEW: dict[Field, tuple[str, ...]] = {
    "genre": ("Volksmusik für Größe", "椎名 & Jazz"),
    "mood": ("träumerisch", "calm"),
    "provenance": (LINE,),
}
JOINED = {field: ("; ".join(values),) for field, values in NEW.items()}
OLD_ID3 = {"ID3v2.3": b"ID3\3\0\0\0\0\0\x0dTIT2\0\0\0\3\0\0\0Hi", "ID3v2.2": b"ID3\2\0\0\0\0\0\x09TT2\0\0\3\0Hi"}

# The names under which mutagen shows the three fields, by the class of its tags.
MUTAGEN_KEYS = {
    "ID3": ("TCON", "TMOO", "TXXX:MUSICTAGGER"),
    "ID3v2.3": ("TCON", "TXXX:MOOD", "TXXX:MUSICTAGGER"),
    "MP4Tags": ("\xa9gen", "----:com.apple.iTunes:MOOD", "----:com.apple.iTunes:MUSICTAGGER"),
    "ASFTags": ("WM/Genre", "WM/Mood", "MUSICTAGGER"),
}
UNKNOWN_TO_TAGLIB: frozenset[str] = frozenset()
"""Containers that TagLib cannot read."""
VORBIS = ("flac", "vorbis", "opus", "speex", "oggflac")


def written(container: str, folder: Path) -> Path:
    path = media.make(container, folder, tags={"title": "Hi", "genre": "Rock"})
    return write(path)


def written_old(version: str, folder: Path, values: dict[Field, tuple[str, ...]]) -> Path:
    """An MP3 with a tag of an old version, which is kept."""
    path = media.make("mp3", folder)
    path.write_bytes(OLD_ID3[version] + path.read_bytes())
    return write(path, values)


def write(path: Path, values: dict[Field, tuple[str, ...]] = NEW) -> Path:
    write_fields(Edit(path, {}, values))
    return path


# ---- FFmpeg -------------------------------------------------------------------------------------------------------


def ffmpeg(path: Path) -> dict[str, str]:
    with av.open(path) as file:
        return {key.upper(): value for key, value in {**file.metadata, **file.streams[0].metadata}.items()}


@pytest.mark.parametrize("container", media.TAGGABLE)
def test_ffmpeg(container: str, tmp_path: Path) -> None:
    seen = ffmpeg(written(container, tmp_path))
    mood = {"mp3": "TMOO", "wav": "TMOO", "aiff": "TMOO", "wma": "WM/MOOD"}.get(container, "MOOD")
    assert (seen["TITLE"], seen["MUSICTAGGER"]) == ("Hi", LINE)
    # It joins several values of Vorbis comments, and shows the first value in all other containers.
    shown = slice(None) if container in VORBIS else slice(1)
    assert seen["GENRE"] == ";".join(NEW["genre"][shown])
    assert seen[mood] == ";".join(NEW["mood"][shown])


@pytest.mark.parametrize("version", OLD_ID3)
def test_ffmpeg_and_old_id3(version: str, tmp_path: Path) -> None:
    values: dict[Field, tuple[str, ...]] = {"genre": NEW["genre"], "mood": ("dreamy", "calm")}
    seen = ffmpeg(written_old(version, tmp_path, values))
    assert (seen["TITLE"], seen["GENRE"], seen["MOOD"]) == ("Hi", "; ".join(NEW["genre"]), "dreamy; calm")


@pytest.mark.parametrize("version", OLD_ID3)
def test_ffmpeg_and_user_texts_beyond_ascii_in_old_id3(version: str, tmp_path: Path) -> None:
    seen = ffmpeg(written_old(version, tmp_path, NEW))
    assert (seen.get("MOOD"), seen.get("MUSICTAGGER")) == ("; ".join(NEW["mood"]), LINE)


# ---- TagLib -------------------------------------------------------------------------------------------------------


def taglib_tags(path: Path) -> tuple[dict[str, list[str]], list[str]]:
    """All tags by TagLib's own names, and the keys of those without one."""
    taglib = pytest.importorskip("taglib", reason="pytaglib is not installed")
    with taglib.File(path) as file:
        return file.tags, file.unsupported


@pytest.mark.parametrize("container", [name for name in media.TAGGABLE if name not in UNKNOWN_TO_TAGLIB])
def test_taglib(container: str, tmp_path: Path) -> None:
    seen, unnamed = taglib_tags(written(container, tmp_path))
    genres, moods = list(NEW["genre"]), list(NEW["mood"])
    assert seen["TITLE"] == ["Hi"]
    if container == "wma":
        # It reads the header extension, which holds the second values, first, and names only attributes that it knows.
        assert (seen["GENRE"], seen["MOOD"]) == (genres[::-1], moods[::-1])
        assert unnamed == ["MUSICTAGGER"]
    else:
        assert (seen["GENRE"], seen["MOOD"], seen["MUSICTAGGER"]) == (genres, moods, [LINE])
        assert unnamed == []


@pytest.mark.parametrize("version", OLD_ID3)
def test_taglib_and_old_id3(version: str, tmp_path: Path) -> None:
    seen, _ = taglib_tags(written_old(version, tmp_path, NEW))
    assert seen["TITLE"] == ["Hi"]
    assert tuple(tuple(seen[name]) for name in ("GENRE", "MOOD", "MUSICTAGGER")) == tuple(JOINED.values())


# ---- mutagen ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("container", media.TAGGABLE)
def test_mutagen(container: str, tmp_path: Path) -> None:
    tags: Any = mutagen.File(written(container, tmp_path)).tags
    style = "ID3" if isinstance(tags, mutagen.id3.ID3) else type(tags).__name__
    for key, values in zip(MUTAGEN_KEYS.get(style, ("genre", "mood", "musictagger")), NEW.values(), strict=True):
        found = tags[key].text if style == "ID3" else tags[key]
        assert tuple(value.decode() if isinstance(value, bytes) else str(value) for value in found) == values


@pytest.mark.parametrize("version", OLD_ID3)
def test_mutagen_and_old_id3(version: str, tmp_path: Path) -> None:
    path = written_old(version, tmp_path, NEW)
    tags = mutagen.id3.ID3(path)
    assert f"ID3v{tags.version[0]}.{tags.version[1]}" == version
    assert tuple(tuple(tags[key].text) for key in MUTAGEN_KEYS["ID3v2.3"]) == tuple(JOINED.values())
    assert read_tags(path).title == "Hi"
