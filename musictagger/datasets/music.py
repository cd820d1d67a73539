"""Any music under a folder, with or without labels: what a student hears while its teachers say what they hear.

MUSIC/any/depth/track.ogg
or LISTING.jsonl             {"file": "a.ogg", "artist": "...", "album": "...", "genre": "...", "split": "train"},
                             of which only the file must be there; all lines have a split, or none
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from musictagger.audio.walk import FoundFile, LeftOver, absolute, walk
from musictagger.datasets.base import SPLITS, Dataset, Example, Split, artist_key
from musictagger.datasets.reading import bad_line, json_lines, present, require_folder
from musictagger.datasets.splitting import Item, fractions, groups_per_tag, stratified
from musictagger.errors import AudioError, BadRequestError, printable
from musictagger.scores.genretree import GenreTree, load_tree
from musictagger.tags.fields import FileTags, read_tags

NAME = "music"
SOURCE = "any music, labelled or not"
LICENCE = "that of the music"

_SEVERAL = re.compile(r"[;\0]")
"""ID3v2.3 has one value, in which programs put several genres behind a semicolon."""
_WORDS = ("artist", "album", "genre", "split")
_EVERY = ""
"""A tag that every track has while splits are drawn, so that each split gets a share of all; no genre is empty."""


@dataclass(frozen=True)
class _Track:
    path: Path
    key: str
    """Its path inside the folder, so that another machine draws the same split."""
    artist: str | None
    package: str | None
    """What it came with: an album, a folder, a distribution's package."""
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
    """Every music file under `folder`, without tags; with `genres`, those that files carry, where they carry some.

    The split is drawn by `seed`, and neither an artist nor a package stands in two splits: a package is the folder
    that a file lies in or, with `depth`, the folder so many levels below `folder`. Files without an artist count as by
    their package. Instead of a folder this may be a listing, a file of JSON lines: then its files are the dataset, and
    what it says of their artist, album and genre outweighs their tags and folders, and a split that it says is taken as
    it is (`valid`, `test` and `seed` then say nothing). Genres are named as in dataset
    library; those with fewer than `min_tracks_per_genre` tracks, or in fewer groups than splits, are left out.
    Raises BadRequestError for a folder without music, with too little to be split, or a listing that is none.
    """
    shares = fractions(valid, test)
    given = absolute(folder)
    root = given.parent if given.is_file() else given
    if depth < 0:
        raise BadRequestError(f"option depth of dataset {NAME} is {depth}; it counts folders, 0 being a file's own")
    listed = _read_listing(given) if given.is_file() else {}
    paths, missing = _present(given, listed) if listed else _find(given)
    tree = load_tree(genres_file) if genres else None
    tracks = [_track(path, root, depth, listed.get(path), tree) for path in paths]
    groups = _groups(tracks)
    splits = _given_splits(given, listed, tracks)
    how = "split as the listing says"
    splits_used = len(set(splits.values())) or sum(share > 0 for share in shares.values())
    if not splits:
        _require_enough(root, groups, splits_used)
    # A genre must be able to stand in each split: in as many groups or, where those are given, in each of them.
    tracks, left_out = _frequent(tracks, splits or groups, min_tracks_per_genre, splits_used)
    if not splits:
        splits = stratified(_items(tracks, groups, every=True), shares, seed)
        how = _how(groups, splits, valid, test, seed)
    tags = tuple(sorted({genre for track in tracks for genre in track.genres}))
    return Dataset(
        name=NAME,
        task="tags",
        tags=tags,
        examples=tuple(Example(track.path, track.genres, splits[track.key], track.artist) for track in tracks),
        missing=missing,
        notes=(how, *_labels(tracks, genres, left_out)),
        categories=dict.fromkeys(tags, "genre"),
        partial=True,
    )


def _present(listing: Path, listed: Mapping[Path, object]) -> tuple[list[Path], tuple[Path, ...]]:
    """The files of a listing in sorted order; those that are not there, or empty."""
    here = sorted(path for path in listed if present(path))
    if not here:
        raise BadRequestError(f"{printable(listing)}: none of the {len(listed):,} files that it names is there")
    return here, tuple(sorted(set(listed) - set(here)))


def _find(root: Path) -> tuple[list[Path], tuple[Path, ...]]:
    """Music files in sorted order; what is empty or cannot be read. Raises BadRequestError where there is no music."""
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
    tags = _tags(path)
    artist, genres = tags.artist, tags.genres
    if line is not None:
        # One folder may hold what many made; who wrote the listing knew better.
        package = line.get("album") or (package if artist_key(line.get("artist")) is None else None)
        artist = line.get("artist") or artist
        genres = (line["genre"],) if line.get("genre") else genres
    artist = package if artist_key(artist) is None else artist
    return _Track(path, inside.as_posix(), artist, package, _canonical(genres, tree) if tree else ())


def _tags(path: Path) -> FileTags:
    try:
        return read_tags(path)
    except (AudioError, OSError):
        # A file whose tags cannot be read may still play; it counts as one that says nothing of itself.
        return FileTags(path.suffix)


def _canonical(written: Sequence[str], tree: GenreTree) -> tuple[str, ...]:
    """Each genre once, as this program writes it."""
    genres: dict[str, str] = {}
    for name in filter(None, (part.strip() for value in written for part in _SEVERAL.split(value))):
        genres.setdefault(tree.key(name), tree.canonical(name))
    return tuple(genres.values())


def _read_listing(path: Path) -> dict[Path, Mapping[str, str]]:
    """What a listing says, by absolute path; its `file` (or `path`) is relative to where it lies itself."""
    listed: dict[Path, Mapping[str, str]] = {}
    for number, values in json_lines(path):
        name = (values.get("file") or values.get("path")) if isinstance(values, dict) else None
        if not isinstance(values, dict) or not isinstance(name, str):
            bad_line(path, number, 'names no "file"')
        words = {key: values[key].strip() for key in _WORDS if isinstance(values.get(key), str)}
        if values.get("split") is not None and words.get("split") not in SPLITS:
            bad_line(path, number, f"unknown split {values['split']!r}; expected {', '.join(SPLITS)}")
        file = absolute(path.parent / name)
        if words.get("split") != listed.get(file, words).get("split"):
            bad_line(path, number, f"{printable(file)} is in another split than on a line before")
        listed[file] = words
    if not listed:
        raise BadRequestError(f"{printable(path)}: an empty listing")
    return listed


def _given_splits(
    listing: Path, listed: Mapping[Path, Mapping[str, str]], tracks: Sequence[_Track]
) -> dict[str, Split]:
    """The split of each track's key where the listing says it; nothing where it says none."""
    splits = {words.get("split") for words in listed.values()}
    if splits <= {None}:
        return {}
    if None in splits:
        raise BadRequestError(f'{printable(listing)}: some lines have a "split" and some have none; say it in all')
    return {track.key: cast(Split, listed[track.path]["split"]) for track in tracks}


def _groups(tracks: Sequence[_Track]) -> dict[str, str]:
    """For each track's key that of its group: tracks joined by an artist or a package, also by way of others."""
    leader: dict[tuple[str, str], tuple[str, str]] = {}

    def find(node: tuple[str, str]) -> tuple[str, str]:
        while (above := leader.setdefault(node, node)) != node:
            leader[node] = leader[above]
            node = leader[node]
        return node

    for track in tracks:
        own = ("track", track.key)
        for node in _names(track):
            one, other = sorted((find(own), find(node)))
            leader[other] = one
    return {track.key: "\0".join(find(("track", track.key))) for track in tracks}


def _names(track: _Track) -> Iterator[tuple[str, str]]:
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
            f"{printable(root)}: its {len(groups):,} tracks hang together by artist and folder in {found} "
            f"group{'s' if found > 1 else ''}; {splits} are the fewest that can be split. Add music by others in other "
            "folders, or tell who made it with a listing"
        )


def _frequent(
    tracks: Sequence[_Track], groups: Mapping[str, str], min_tracks: int, splits: int
) -> tuple[list[_Track], int]:
    """Tracks with those of their genres that are frequent enough; how many genres are not."""
    counts = Counter(genre for track in tracks for genre in track.genres)
    spread = groups_per_tag(_items(tracks, groups))
    kept = {genre for genre in counts if counts[genre] >= min_tracks and spread[genre] >= splits}
    left = [replace(track, genres=tuple(genre for genre in track.genres if genre in kept)) for track in tracks]
    return left, len(counts) - len(kept)


def _how(groups: Mapping[str, str], splits: Mapping[str, Split], valid: float, test: float, seed: int) -> str:
    sizes = Counter(groups.values())
    largest = max(sizes.values())
    parts = Counter(splits[key] for key in {group: key for key, group in groups.items()}.values())
    each = ", ".join(f"{count} in {split}" for split, count in sorted(parts.items()))
    return (
        f"split by seed {seed}, {valid:g} for validation and {test:g} for test; neither artist nor folder in two "
        f"splits: {len(sizes):,} groups ({each}), the largest of {largest:,} tracks"
    )


def _labels(tracks: Sequence[_Track], genres: bool, left_out: int) -> Iterator[str]:
    if genres:
        labelled = sum(bool(track.genres) for track in tracks)
        yield f"{labelled:,} of {len(tracks):,} tracks carry a genre that is used; the others are unlabelled"
    if left_out:
        yield f"{left_out:,} genre{'s' if left_out > 1 else ''} with too few tracks or groups left out"
