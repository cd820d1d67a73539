"""The example tracks: they exist, are small, free to distribute and decodable; some have a genre and some do not."""

from __future__ import annotations

import subprocess
from pathlib import Path

import av
import mutagen
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
AUDIO = {".flac", ".m4a", ".mp3", ".ogg", ".opus"}
TRACKS = sorted(path for path in EXAMPLES.iterdir() if path.suffix in AUDIO)
names = pytest.mark.parametrize("path", TRACKS, ids=lambda path: path.name)


def decoded_s(path: Path) -> float:
    """Seconds of audio that decoding `path` gives."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        return sum(frame.samples for frame in container.decode(stream)) / stream.rate


def has_genre(path: Path) -> bool:
    return bool(mutagen.File(path, easy=True).get("genre"))


def test_about_six_tracks_cover_all_common_formats() -> None:
    assert 5 <= len(TRACKS) <= 8
    assert {path.suffix for path in TRACKS} == AUDIO


def test_the_tracks_are_small() -> None:
    assert sum(path.stat().st_size for path in TRACKS) < 4_000_000


def as_shipped(path: Path, folder: Path) -> Path:
    """A copy of `path` as it was committed; a scan of examples/ itself would have written genres into it."""
    command = ["git", "-C", str(EXAMPLES), "show", f"HEAD:./{path.name}"]
    committed = subprocess.run(command, capture_output=True, check=False)
    copy = folder / path.name
    copy.write_bytes(committed.stdout if committed.returncode == 0 else path.read_bytes())
    return copy


def test_some_have_a_genre_and_some_have_none(tmp_path: Path) -> None:
    with_genre = [path.name for path in TRACKS if has_genre(as_shipped(path, tmp_path))]
    assert len(with_genre) >= 2
    assert len(TRACKS) - len(with_genre) >= 2


@names
def test_a_track_decodes_to_35_to_60_seconds(path: Path) -> None:
    assert 35 <= decoded_s(path) <= 60


@names
def test_a_track_names_artist_title_and_licence(path: Path) -> None:
    tags = mutagen.File(path, easy=True)
    assert all(tags.get(key) for key in ("artist", "title", "copyright"))


@names
def test_the_origin_of_a_track_is_attributed(path: Path) -> None:
    text = (EXAMPLES / "ATTRIBUTION.md").read_text(encoding="utf-8")
    section = text.split(f"## {path.name}\n")[1].split("\n## ")[0]
    assert all(f"- {item}" in section for item in ("Title, artist:", "Licence:", "Source: package", "Changes:"))
