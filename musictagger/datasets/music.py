"""Any music in a folder, with or without labels, for students that learn the scores of teachers.

MUSIC/any/depth/track.ogg
or LISTING.jsonl             {"file": "a.ogg", "artist": "...", "album": "...", "genre": "...", "split": "train"},
                             only the file is required; all lines have a split, or none
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from musictagger.audio.walk import absolute
from musictagger.datasets.base import SPLITS, Dataset, Example, Split, artist_key, counted, tag_names
from musictagger.datasets.reading import (
    bad_line,
    genre_names,
    json_lines,
    music_files,
    present,
    read_file_tags,
    require_folder,
)
from musictagger.datasets.splitting import RandomSplit, Tracks, frequent_tags, with_tags
from musictagger.errors import BadRequestError, printable
from musictagger.scores.genretree import GenreTree, load_tree

NAME = "music"
SOURCE = "any music, labelled or not"
LICENCE = "that of the music"

_LISTED = ("artist", "album", "genre", "split")
_EVERY = ""
"""A tag of all tracks while splits are drawn, so that each split gets its share of all; no genre is empty."""


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
    file or, with `depth`, the folder that many levels below `folder`. Files without an artist are grouped by package.
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
    tracks, packages = {}, {}
    for path in paths:
        key, folders = _inside(root, path, depth)
        tracks[key], packages[key] = _track(path, folders, listed.get(path), tree)
    groups = _groups(tracks, packages)
    splits = _given_splits(given, listed, tracks)
    splits_used = len(set(splits.values())) or len(split.shares)
    if not splits:
        _require_enough(root, groups, splits_used)
    # A genre must be possible in each split: in as many groups or, where splits are given, in each of them.
    kept = frequent_tags(_grouped(tracks, splits or groups), min_tracks_per_genre, splits_used)
    left_out = len(set(tag_names(tracks.values())) - kept)
    tracks = with_tags(tracks, kept)
    note = "split as in the listing"
    if not splits:
        with_every = {key: replace(track, tags=(*track.tags, _EVERY)) for key, track in tracks.items()}
        splits = split.draw(_grouped(with_every, groups))
        note = _drawn_note(split, groups, splits)
    examples = tuple(replace(track, split=splits[key]) for key, track in tracks.items())
    tags = tag_names(examples)
    return Dataset(
        name=NAME,
        task="tags",
        tags=tags,
        examples=examples,
        missing=missing,
        notes=(note, *_label_notes(examples, genres, left_out)),
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
    found, missing = music_files(root)
    if not found:
        raise BadRequestError(f"{printable(root)}: contains no music, at any depth")
    return found, tuple(missing)


def _inside(root: Path, path: Path, depth: int) -> tuple[str, Sequence[str]]:
    """A key of a track that is the same on every machine: its path inside `root`; the folders that are its package."""
    inside = path.relative_to(root) if path.is_relative_to(root) else path
    return inside.as_posix(), inside.parts[:-1][: depth or None]


def _track(
    path: Path, folders: Sequence[str], line: Mapping[str, str] | None, tree: GenreTree | None
) -> tuple[Example, str | None]:
    """A track, its split not yet drawn, and its package: the album, folder or package of a distribution."""
    package = "/".join(folders) or None
    tags = read_file_tags(path)
    artist, genres = tags.artist, tags.genres
    if line is not None:
        # A folder may hold music by many artists, so the listing takes precedence.
        package = line.get("album") or (package if artist_key(line.get("artist")) is None else None)
        artist = line.get("artist") or artist
        genres = (line["genre"],) if line.get("genre") else genres
    artist = package if artist_key(artist) is None else artist
    return Example(path, tuple(genre_names(genres, tree).values()) if tree else (), "train", artist), package


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


def _given_splits(listing: Path, listed: Mapping[Path, Mapping[str, str]], tracks: Tracks) -> dict[str, Split]:
    """The split of each track's key as the listing gives it; empty where it gives none."""
    splits = {fields.get("split") for fields in listed.values()}
    if splits <= {None}:
        return {}
    if None in splits:
        raise BadRequestError(f'{printable(listing)}: some lines have a "split" and some have none; give one to all')
    return {key: cast(Split, listed[track.path]["split"]) for key, track in tracks.items()}


def _groups(tracks: Tracks, packages: Mapping[str, str | None]) -> dict[str, str]:
    """The group of each track: tracks linked by an artist or a package, directly or through others."""
    from scipy.cluster.hierarchy import DisjointSet  # imported late: no other dataset needs it

    linked = DisjointSet()
    for key, track in tracks.items():
        linked.add(("track", key))
        for link in (("artist", artist_key(track.artist)), ("package", packages[key])):
            if link[1] is not None:
                linked.add(link)
                linked.merge(("track", key), link)
    names = {node: "\0".join(min(nodes)) for nodes in linked.subsets() for node in nodes}
    return {key: names["track", key] for key in tracks}


def _grouped(tracks: Tracks, groups: Mapping[str, str]) -> dict[str, Example]:
    """The tracks with their groups as artists."""
    return {key: replace(track, artist=groups[key]) for key, track in tracks.items()}


def _require_enough(root: Path, groups: Mapping[str, str], splits: int) -> None:
    found = len(set(groups.values()))
    if found < splits:
        raise BadRequestError(
            f"{printable(root)}: its {len(groups):,} tracks are linked by artist and folder into "
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


def _label_notes(examples: Sequence[Example], genres: bool, left_out: int) -> Iterator[str]:
    if genres:
        labelled = sum(bool(example.tags) for example in examples)
        yield f"{labelled:,} of {len(examples):,} tracks carry a genre that is used; the others are unlabelled"
    if left_out:
        yield f"{counted(left_out, 'genre')} with too few tracks or groups left out"
