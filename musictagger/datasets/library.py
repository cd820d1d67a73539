"""Your own library: the tracks that `musictagger scan` has seen, with the genres that their files carry."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from musictagger.datasets.base import Dataset, Example
from musictagger.datasets.reading import present
from musictagger.datasets.splitting import Item, fractions, groups_per_tag, stratified
from musictagger.errors import BadRequestError, StoreError
from musictagger.library.opening import open_library
from musictagger.library.reader import TrackRow
from musictagger.scores.genretree import GenreTree, genre_key, load_tree

NAME = "library"
SOURCE = "your own library's database"
LICENCE = "that of the music"

_NO_MODEL = 0
"""An id that no model has: the files are wanted, not what was heard in them."""
_SEVERAL = re.compile(r"[;\0]")
"""ID3v2.3 has one value, in which programs put several genres behind a semicolon."""


@dataclass(frozen=True)
class _Track:
    path: Path
    key: str
    """The digest of the sound, so that moving the music changes no split."""
    genres: tuple[str, ...]
    artist: str | None
    duration_s: float | None


def read(
    folder: Path | str,
    *,
    min_tracks_per_genre: int = 10,
    task: Literal["auto", "tags", "genre"] = "auto",
    valid: float = 0.15,
    test: float = 0.15,
    seed: int = 0,
    genres_file: Path | None = None,
) -> Dataset:
    """Tracks of the database at `folder` (a path or URL) that carry a genre, or were given one with `musictagger fix`.

    Genres are named as this program writes them, `genres_file` being the user's own genres.toml. Those with fewer
    than `min_tracks_per_genre` tracks, or fewer artists than splits, are left out. The task is tags where tracks have
    several genres; with task=genre the first one counts. The split is drawn by `seed`, no artist in two of them.
    Raises StoreError where there is no database, and BadRequestError where no genre is left.
    """
    shares = fractions(valid, test)
    splits_used = sum(share > 0 for share in shares.values())
    rows = _rows(str(folder))
    tracks, copies, bare = _tracks(rows, load_tree(genres_file), first_only=task == "genre")
    tracks = _spelled_alike(tracks)
    kept = _kept(tracks, min_tracks_per_genre, splits_used)
    genres = tuple(sorted({genre for track in kept for genre in track.genres}))
    if not genres:
        raise BadRequestError(
            f"library {folder}: no genre has {min_tracks_per_genre} tracks by {splits_used} artists "
            f"({len(tracks):,} tracks carry a genre); lower min_tracks_per_genre, or tag more of them"
        )
    splits = stratified([Item(track.key, track.genres, track.artist) for track in kept], shares, seed)
    there = [track for track in kept if present(track.path)]
    several = any(len(track.genres) > 1 for track in kept)
    return Dataset(
        name=NAME,
        task="tags" if task == "tags" or several else "genre",
        tags=genres,
        examples=tuple(
            Example(track.path, track.genres, splits[track.key], track.artist, track.duration_s) for track in there
        ),
        missing=tuple(track.path for track in kept if not present(track.path)),
        notes=(
            f"split by seed {seed}, {valid:g} for validation and {test:g} for test; no artist in two splits",
            *_left_out(tracks, genres, copies, bare),
        ),
        categories=dict.fromkeys(genres, "genre"),
    )


def _rows(location: str) -> list[TrackRow]:
    try:
        with open_library(location) as library:
            return [row for rows in library.tracks(_NO_MODEL) for row in rows if row.failure is None]
    except StoreError as error:
        # The other commands call it --db.
        raise StoreError(str(error).replace("--db", "--data")) from error


def _tracks(rows: Iterable[TrackRow], tree: GenreTree, *, first_only: bool) -> tuple[list[_Track], int, int]:
    """Tracks with a genre, each sound once; how many were copies, how many had no genre."""
    found: dict[str, _Track] = {}
    copies = bare = 0
    for row in rows:
        genres = _genres(row, tree)[: 1 if first_only else None]
        key = row.digest or str(row.path)
        if not genres:
            bare += 1
        elif key in found:
            copies += 1
        else:
            found[key] = _Track(row.path, key, genres, row.artist, row.duration_s)
    return list(found.values()), copies, bare


def _genres(row: TrackRow, tree: GenreTree) -> tuple[str, ...]:
    """What the user decided for the track, or else what the file carries, as this program writes it."""
    written = row.genres if row.chosen_genres is None else row.chosen_genres
    excluded = {tree.key(name) for name in row.excluded_genres or ()}
    named = [part.strip() for value in written for part in _SEVERAL.split(value)]
    genres: dict[str, str] = {}
    for name in filter(None, named):
        if tree.key(name) not in excluded:
            genres.setdefault(tree.key(name), tree.canonical(name))
    return tuple(genres.values())


def _spelled_alike(tracks: Sequence[_Track]) -> list[_Track]:
    """With one spelling, the most frequent, for genres that the tree has not and that differ in case or spaces."""
    counts = Counter(genre for track in tracks for genre in track.genres)
    best: dict[str, str] = {}
    for genre in sorted(counts, key=lambda genre: (-counts[genre], genre)):
        best.setdefault(genre_key(genre), genre)
    return [replace(track, genres=tuple(best[genre_key(genre)] for genre in track.genres)) for track in tracks]


def _kept(tracks: Sequence[_Track], min_tracks: int, min_artists: int) -> list[_Track]:
    """Tracks with those of their genres that are frequent enough, if any."""
    counts = Counter(genre for track in tracks for genre in track.genres)
    artists = groups_per_tag(Item(track.key, track.genres, track.artist) for track in tracks)
    frequent = {genre for genre in counts if counts[genre] >= min_tracks and artists[genre] >= min_artists}
    left = [replace(track, genres=tuple(genre for genre in track.genres if genre in frequent)) for track in tracks]
    return [track for track in left if track.genres]


def _left_out(tracks: Sequence[_Track], genres: Sequence[str], copies: int, bare: int) -> list[str]:
    rare = Counter(genre for track in tracks for genre in track.genres if genre not in genres)
    notes = []
    if rare:
        names = ", ".join(f"{name} ({count})" for name, count in sorted(rare.items(), key=lambda r: (-r[1], r[0]))[:10])
        notes.append(f"{len(rare):,} genres with too few tracks or artists are left out: {names}")
    if bare:
        notes.append(f"{bare:,} tracks carry no genre")
    if copies:
        notes.append(f"{copies:,} copies of the same sound are left out")
    return notes
