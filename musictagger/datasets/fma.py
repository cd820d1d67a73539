"""FMA, the Free Music Archive's dump: clips of 30 s, 16 root genres, with a split of its own that shares no artist.

fma_metadata/tracks.csv       three header rows: group, column, and the name of the index
fma_medium/000/000002.mp3     or fma_small, fma_large; a larger one holds the smaller
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from musictagger.audio.walk import absolute
from musictagger.datasets.base import Dataset, Example, Split, slashed, split_sizes, tag_names
from musictagger.datasets.reading import bad_line, existing, find_file, find_root, number, read_rows
from musictagger.errors import BadRequestError, printable

NAME = "fma"
SOURCE = "Defferrard et al., FMA: A Dataset for Music Analysis, ISMIR 2017; github.com/mdeff/fma"
LICENCE = "metadata CC BY 4.0; audio under each artist's own licence"

SUBSETS = ("small", "medium", "large")
"""Each contains those before it."""
CLIP_S = 30.0
"""Length of the excerpts in all three sets, the middle of longer tracks."""
COUNTS: Mapping[str, tuple[int, int, int]] = {"small": (6_400, 800, 800), "medium": (19_922, 2_505, 2_573)}
"""Sizes of train, valid and test in the paper."""
_SPLITS: Mapping[str, Split] = {"training": "train", "validation": "valid", "test": "test"}
_COLUMNS = (
    ("set", "subset"),
    ("set", "split"),
    ("track", "genre_top"),
    ("artist", "id"),
    ("artist", "name"),
    ("track", "duration"),
)


def read(folder: Path, *, subset: Literal["small", "medium", "large"] = "medium") -> Dataset:
    """The tracks of a subset with their root genre (`genre_top`), without those in large that have none.

    Raises BadRequestError for a table that is missing or not in this format.
    """
    root = absolute(folder)
    table = find_file(root, ("fma_metadata/tracks.csv", "tracks.csv"), "FMA's table of tracks")
    all_tracks = list(_read_tracks(table, SUBSETS[: SUBSETS.index(subset) + 1]))
    tracks = [track for track in all_tracks if track.tags]
    larger = [root / f"fma_{name}" for name in SUBSETS[SUBSETS.index(subset) :]]
    audio = find_root((*larger, root), [track.path for track in tracks]) or larger[0]
    examples, missing = existing(tracks, audio)
    genres = tag_names(tracks)
    notes = tuple(_notes(subset, len(all_tracks) - len(tracks), examples))
    return Dataset(NAME, "genre", genres, examples, missing, notes, dict.fromkeys(genres, "genre"))


def _read_tracks(path: Path, subsets: Sequence[str]) -> Iterator[Example]:
    """The tracks of some subsets in the order of the table, their paths relative to the audio's folder."""
    rows = read_rows(path)
    groups, names, index = (next(rows, (0, []))[1] for _ in range(3))
    columns = list(zip(groups, names, strict=False))
    absent = [" ".join(name) for name in _COLUMNS if name not in columns]
    if absent or index[:1] != ["track_id"]:
        lacking = f"lacks {', '.join(absent)}" if absent else "has no third header row that begins with track_id"
        raise BadRequestError(f"{printable(path)}: {lacking}; expected FMA's tracks.csv with its three header rows")
    indices = [columns.index(name) for name in _COLUMNS]
    for line, row in rows:
        subset, split, genre, artist_id, artist, duration = (row[index].strip() for index in indices)
        if subset not in subsets:
            continue
        if not row[0].isdecimal():
            bad_line(path, line, f"{row[0]!r} is not a track number")
        if split not in _SPLITS:
            bad_line(path, line, f"unknown split {split!r}; expected {', '.join(_SPLITS)}")
        seconds = number(path, line, duration)
        # Two artists may have the same name.
        artist = f"{artist} (artist {artist_id})" if artist_id else artist
        length_s = None if seconds is None else min(seconds, CLIP_S)
        file = Path(_file(int(row[0])))
        yield Example(file, (genre,) if genre else (), _SPLITS[split], artist or None, length_s)


def _file(number: int) -> str:
    return f"{number // 1000:03d}/{number:06d}.mp3"


def _notes(subset: str, without_genre: int, examples: Sequence[Example]) -> Iterator[str]:
    yield f"FMA's own split of the {subset} set"
    if without_genre:
        yield f"{without_genre:,} tracks without a root genre are left out"
    found = split_sizes(example.split for example in examples)
    expected = COUNTS.get(subset)
    if expected and found != expected:
        yield f"train / valid / test are {slashed(found)}; the whole set has {slashed(expected)}"
