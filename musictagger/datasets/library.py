"""Your own library: the tracks that `musictagger scan` has stored, with the genres in their files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from musictagger.datasets.base import Dataset, Example, tag_names
from musictagger.datasets.reading import existing, genre_names
from musictagger.datasets.splitting import RandomSplit, Tracks, frequent_tags, with_tags
from musictagger.errors import BadRequestError, StoreError
from musictagger.library.opening import open_library
from musictagger.library.reader import TrackRow
from musictagger.scores.genretree import GenreTree, genre_key, load_tree

NAME = "library"
SOURCE = "your own library's database"
LICENCE = "that of the music"

_NO_MODEL = 0
"""An id that no model has: only files are read, not scores."""


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
    """Tracks of the database at `folder` (a path or URL) that have a genre, or were given one with `musictagger fix`.

    Genres are named as this program writes them, `genres_file` being the user's own genres.toml. Those with fewer
    than `min_tracks_per_genre` tracks, or fewer artists than splits, are left out. The task is tags where tracks have
    several genres; with task=genre the first one counts. The split is drawn by `seed`, no artist in two of them.
    Raises StoreError where there is no database, and BadRequestError where no genre is left.
    """
    split = RandomSplit(valid, test, seed)
    min_artists = len(split.shares)
    tracks, copies, bare = _tracks(_rows(str(folder)), load_tree(genres_file), first_only=task == "genre")
    tracks = _spelled_alike(tracks)
    rest = with_tags(tracks, frequent_tags(tracks, min_tracks_per_genre, min_artists))
    kept = {key: track for key, track in rest.items() if track.tags}
    genres = tag_names(kept.values())
    if not genres:
        raise BadRequestError(
            f"library {folder}: no genre has {min_tracks_per_genre} tracks by {min_artists} artists "
            f"({len(tracks):,} tracks carry a genre); lower min_tracks_per_genre, or tag more of them"
        )
    splits = split.draw(kept)
    examples, missing = existing(replace(track, split=splits[key]) for key, track in kept.items())
    several = any(len(track.tags) > 1 for track in kept.values())
    return Dataset(
        name=NAME,
        task="tags" if task == "tags" or several else "genre",
        tags=genres,
        examples=examples,
        missing=missing,
        notes=(f"{split}; no artist in two splits", *_left_out(tracks, genres, copies, bare)),
        categories=dict.fromkeys(genres, "genre"),
    )


def _rows(location: str) -> list[TrackRow]:
    try:
        with open_library(location) as library:
            return [row for rows in library.tracks(_NO_MODEL) for row in rows if row.failure is None]
    except StoreError as error:
        # The other commands call it --db.
        raise StoreError(str(error).replace("--db", "--data")) from error


def _tracks(rows: Iterable[TrackRow], tree: GenreTree, *, first_only: bool) -> tuple[dict[str, Example], int, int]:
    """Tracks with a genre by digest, so that moving files changes no split; how many were copies or had no genre."""
    found: dict[str, Example] = {}
    copies = bare = 0
    for row in rows:
        genres = _genres(row, tree)[: 1 if first_only else None]
        key = row.digest or str(row.path)
        if not genres:
            bare += 1
        elif key in found:
            copies += 1
        else:
            found[key] = Example(row.path, genres, "train", row.artist, row.duration_s)
    return found, copies, bare


def _genres(row: TrackRow, tree: GenreTree) -> tuple[str, ...]:
    """The genres that the user chose for the track, or else those in the file, as this program writes them."""
    written = row.genres if row.chosen_genres is None else row.chosen_genres
    excluded = {tree.key(name) for name in row.excluded_genres or ()}
    return tuple(genre for key, genre in genre_names(written, tree).items() if key not in excluded)


def _spelled_alike(tracks: Tracks) -> dict[str, Example]:
    """The tracks with the most frequent spelling of genres outside the tree that differ in case or spaces."""
    counts = Counter(genre for track in tracks.values() for genre in track.tags)
    best: dict[str, str] = {}
    for genre in sorted(counts, key=lambda genre: (-counts[genre], genre)):
        best.setdefault(genre_key(genre), genre)
    return {
        key: replace(track, tags=tuple(best[genre_key(genre)] for genre in track.tags)) for key, track in tracks.items()
    }


def _left_out(tracks: Tracks, genres: Sequence[str], copies: int, bare: int) -> list[str]:
    rare = Counter(genre for track in tracks.values() for genre in track.tags if genre not in genres)
    notes = []
    if rare:
        names = ", ".join(f"{name} ({count})" for name, count in sorted(rare.items(), key=lambda r: (-r[1], r[0]))[:10])
        notes.append(f"{len(rare):,} genres with too few tracks or artists are left out: {names}")
    if bare:
        notes.append(f"{bare:,} tracks carry no genre")
    if copies:
        notes.append(f"{copies:,} copies of the same audio are left out")
    return notes
