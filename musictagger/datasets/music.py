"""Any music in a folder, with or without labels, for students that learn the scores of teachers.

MUSIC/any/depth/track.ogg
or LISTING.jsonl             {"file": "a.ogg", "artist": "...", "album": "...", "genre": "...", "split": "train"},
                             of which only the file is required; all lines have a split, or none
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from musictagger.audio.walk import FoundFile, LeftOver, absolute, walk
from musictagger.datasets.base import SPLITS, Dataset, Example, Split, artist_key, counted, tag_names
from musictagger.datasets.reading import bad_line, genre_names, json_lines, present, read_file_tags, require_folder
from musictagger.datasets.splitting import Item, RandomSplit, frequent_tags
from musictagger.errors import BadRequestError, printable
from musictagger.scores.genretree import GenreTree, load_tree

NAME = "music"
SOURCE = "any music, labelled or not"
LICENCE = "that of the music"

_LISTED = ("artist", "album", "genre", "split")
_EVERY = ""
"""A tag of all tracks while splits are drawn, so that each split gets its share of all; no genre is empty."""


@dataclass(frozen=True)
class _Track:
    path: Path
    key: str
    """Its path inside the folder, so that other machines draw the same split."""
    artist: str | None
    package: str | None
    """The album, folder or package of a distribution that it belongs to."""
    genres: tuple[str, ...]


def read(
    folder: Path,
    *,
    genres: bool = False,
    min_tracks_per_genre: int = 10,
    depth: int = 0,
    valid: float = 0.15,
    test: float = 0.15,
    seed: int = 0,
    genres_file: Path | None = None,
) -> Dataset:
    """Every music file under `folder`, without tags or, with `genres`, with the genres in the file.

    The split is drawn by `seed`, and neither an artist nor a package is in two splits: a package is the folder of a
    file or, with `depth`, the folder so many levels below `folder`. Files without an artist are grouped by package.
    Instead of a folder this may be a listing, a file of JSON lines: then the dataset consists of its files, its artist,
    album and genre override tags and folders, and its splits replace drawn ones (`valid`, `test` and `seed` are
    ignored). Genres are named as in dataset library; those with fewer than `min_tracks_per_genre` tracks, or in fewer
    groups than splits, are left out. Raises BadRequestError for a folder without music, for too little to be split,
    and for a damaged listing.
    """
    split = RandomSplit(valid, test, seed)
    given = absolute(folder)
    root = given.parent if given.is_file() else given
    if depth < 0:
        raise BadRequestError(f"option depth of dataset {NAME} is {depth}; it counts folders, 0 being a file's own")
    listed = _read_listing(given) if given.is_file() else {}
    paths, missing = _listed_files(given, listed) if listed else _find(given)
    tree = load_tree(genres_file) if genres else None
    tracks = [_track(path, root, depth, listed.get(path), tree) for path in paths]
    groups = _groups(tracks)
    splits = _given_splits(given, listed, tracks)
    note = "split as in the listing"
    splits_used = len(set(splits.values())) or len(split.shares)
    if not splits:
        _require_enough(root, groups, splits_used)
    # A genre must be possible in each split: in as many groups or, where splits are given, in each of them.
    kept = frequent_tags(_items(tracks, splits or groups), min_tracks_per_genre, splits_used)
    left_out = len({genre for track in tracks for genre in track.genres} - kept)
    tracks = [replace(track, genres=tuple(genre for genre in track.genres if genre in kept)) for track in tracks]
    if not splits:
        splits = split.draw(_items(tracks, groups, every=True))
        note = _drawn_note(split, groups, splits)
    examples = tuple(Example(track.path, track.genres, splits[track.key], track.artist) for track in tracks)
    tags = tag_names(examples)
    return Dataset(
        name=NAME,
        task="tags",
        tags=tags,
        examples=examples,
        missing=missing,
        notes=(note, *_label_notes(tracks, genres, left_out)),
        categories=dict.fromkeys(tags, "genre"),
        partial=True,
    )


def _listed_files(listing: Path, listed: Mapping[Path, object]) -> tuple[list[Path], tuple[Path, ...]]:
    """The files of a listing in sorted order; those that are missing or empty."""
    found = sorted(path for path in listed if present(path))
    if not found:
        raise BadRequestError(f"{printable(listing)}: none of the {len(listed):,} files that it names exists")
    return found, tuple(sorted(set(listed) - set(found)))


def _find(root: Path) -> tuple[list[Path], tuple[Path, ...]]:
    """Music files in sorted order; those that are empty or unreadable. Raises BadRequestError without any music."""
    require_folder(root)
    found: list[Path] = []
    missing: list[Path] = []
    for entry in walk([root]):
        if isinstance(entry, FoundFile) and present(entry.path):
            found.append(entry.path)
        elif not isinstance(entry, LeftOver):
            missing.append(entry.path)
    if not found:
        raise BadRequestError(f"{printable(root)}: no music in it, at any depth")
    return found, tuple(missing)


def _track(path: Path, root: Path, depth: int, line: Mapping[str, str] | None, tree: GenreTree | None) -> _Track:
    inside = path.relative_to(root) if path.is_relative_to(root) else path
    folders = inside.parts[:-1]
    package = "/".join(folders[:depth] if depth else folders) or None
    tags = read_file_tags(path)
    artist, genres = tags.artist, tags.genres
    if line is not None:
        # A folder may hold music by many, so the listing takes precedence.
        package = line.get("album") or (package if artist_key(line.get("artist")) is None else None)
        artist = line.get("artist") or artist
        genres = (line["genre"],) if line.get("genre") else genres
    artist = package if artist_key(artist) is None else artist
    return _Track(path, inside.as_posix(), artist, package, tuple(genre_names(genres, tree).values()) if tree else ())


def _read_listing(path: Path) -> dict[Path, Mapping[str, str]]:
    """The fields of a listing by absolute path; its `file` (or `path`) is relative to its own folder."""
    listed: dict[Path, Mapping[str, str]] = {}
    for number, values in json_lines(path):
        name = values.get("file") or values.get("path")
        if not isinstance(name, str):
            bad_line(path, number, 'names no "file"')
        fields = {key: values[key].strip() for key in _LISTED if isinstance(values.get(key), str)}
        if values.get("split") is not None and fields.get("split") not in SPLITS:
            bad_line(path, number, f"unknown split {values['split']!r}; expected {', '.join(SPLITS)}")
        file = absolute(path.parent / name)
        if fields.get("split") != listed.get(file, fields).get("split"):
            bad_line(path, number, f"{printable(file)} is in another split than on an earlier line")
        listed[file] = fields
    if not listed:
        raise BadRequestError(f"{printable(path)}: an empty listing")
    return listed


def _given_splits(
    listing: Path, listed: Mapping[Path, Mapping[str, str]], tracks: Sequence[_Track]
) -> dict[str, Split]:
    """The split of each track's key as the listing gives it; empty where it gives none."""
    splits = {fields.get("split") for fields in listed.values()}
    if splits <= {None}:
        return {}
    if None in splits:
        raise BadRequestError(f'{printable(listing)}: some lines have a "split" and some have none; give one to all')
    return {track.key: cast(Split, listed[track.path]["split"]) for track in tracks}


def _groups(tracks: Sequence[_Track]) -> dict[str, str]:
    """The group of each track's key: tracks linked by an artist or a package, directly or through others."""
    leader: dict[tuple[str, str], tuple[str, str]] = {}

    def find(node: tuple[str, str]) -> tuple[str, str]:
        while (above := leader.setdefault(node, node)) != node:
            leader[node] = leader[above]
            node = leader[node]
        return node

    for track in tracks:
        own = ("track", track.key)
        for node in _links(track):
            one, other = sorted((find(own), find(node)))
            leader[other] = one
    return {track.key: "\0".join(find(("track", track.key))) for track in tracks}


def _links(track: _Track) -> Iterator[tuple[str, str]]:
    if (artist := artist_key(track.artist)) is not None:
        yield "artist", artist
    if track.package is not None:
        yield "package", track.package


def _items(tracks: Sequence[_Track], groups: Mapping[str, str], *, every: bool = False) -> list[Item]:
    extra = (_EVERY,) if every else ()
    return [Item(track.key, track.genres + extra, groups[track.key]) for track in tracks]


def _require_enough(root: Path, groups: Mapping[str, str], splits: int) -> None:
    found = len(set(groups.values()))
    if found < splits:
        raise BadRequestError(
            f"{printable(root)}: its {len(groups):,} tracks hang together by artist and folder in "
            f"{counted(found, 'group')}; {splits} are the fewest that can be split. Add music by others in other "
            "folders, or name the artists in a listing"
        )


def _drawn_note(split: RandomSplit, groups: Mapping[str, str], splits: Mapping[str, Split]) -> str:
    sizes = Counter(groups.values())
    by_split = Counter(splits[key] for key in {group: key for key, group in groups.items()}.values())
    each = ", ".join(f"{count} in {name}" for name, count in sorted(by_split.items()))
    return (
        f"{split}; neither artist nor folder in two splits: {len(sizes):,} groups ({each}), the largest of "
        f"{max(sizes.values()):,} tracks"
    )


def _label_notes(tracks: Sequence[_Track], genres: bool, left_out: int) -> Iterator[str]:
    if genres:
        labelled = sum(bool(track.genres) for track in tracks)
        yield f"{labelled:,} of {len(tracks):,} tracks carry a genre that is used; the others are unlabelled"
    if left_out:
        yield f"{counted(left_out, 'genre')} with too few tracks or groups left out"
