"""MTG-Jamendo: 55,000 whole tracks with tags of genre, instrument, and mood or theme, in splits that share no artist.

    data/splits/split-0/autotagging-train.tsv    -validation, -test; autotagging_genre-train.tsv and other subsets
    14/214.mp3, or 14/214.low.mp3                here, or in audio/, raw_30s/audio/ and the like

A line of a split is TRACK_ID, ARTIST_ID, ALBUM_ID, PATH, DURATION (s) and any number of tags (`genre---rock`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from musictagger.audio.walk import absolute
from musictagger.datasets.base import Dataset, Example, Split, tag_names
from musictagger.datasets.reading import bad_line, existing, find_file, find_root, number, read_rows
from musictagger.errors import BadRequestError, printable
from musictagger.models.card import Category

NAME = "jamendo"
SOURCE = "Bogdanov et al., The MTG-Jamendo Dataset for Automatic Music Tagging, ICML 2019 workshop; mtg.github.io"
LICENCE = "metadata CC BY-NC-SA 4.0; audio under each track's own Creative Commons licence"

Subset = Literal["all", "genre", "instrument", "moodtheme", "top50tags"]
SPLIT_COUNT = 5
SEPARATOR = "---"

_HEADER = ["TRACK_ID", "ARTIST_ID", "ALBUM_ID", "PATH", "DURATION", "TAGS"]
_CATEGORIES: Mapping[str, Category] = {"genre": "genre", "instrument": "instrument", "mood/theme": "mood"}
_FILES: Mapping[Split, str] = {"train": "train", "valid": "validation", "test": "test"}
_AUDIO = ("", "audio", "raw_30s", "raw_30s/audio", "audio-low", "raw_30s/audio-low", "data/audio", "data")


def read(folder: Path, *, subset: Subset = "all", split: int = 0, audio: Path | None = None) -> Dataset:
    """The tracks of a subset in its split number `split` (0 to 4). `audio` is the folder of 00 to 99, if it is apart.

    Tags are the words after the prefix, which gives the category; a word under two prefixes keeps them. Raises
    BadRequestError for tables that are missing or not in this format.
    """
    if not 0 <= split < SPLIT_COUNT:
        raise BadRequestError(f"jamendo: no split {split}; there are 0 to {SPLIT_COUNT - 1}")
    root = absolute(folder)
    stem = "autotagging" if subset == "all" else f"autotagging_{subset}"
    tracks = _read_splits(root, f"split-{split}", stem)
    names = _short_names(tag_names(tracks))
    tracks = [replace(track, tags=tuple(names[tag] for tag in track.tags)) for track in tracks]
    examples, missing = _located([absolute(audio)] if audio else [root / name for name in _AUDIO], tracks)
    return Dataset(
        name=NAME,
        task="tags",
        tags=tuple(names.values()),
        examples=examples,
        missing=missing,
        notes=(f"split-{split} of {stem}",),
        categories={name: _CATEGORIES[tag.partition(SEPARATOR)[0]] for tag, name in names.items()},
    )


def _read_splits(root: Path, folder: str, stem: str) -> list[Example]:
    """The tracks of the three splits, sorted by path."""
    tracks: dict[str, Example] = {}
    for split, word in _FILES.items():
        file = f"{folder}/{stem}-{word}.tsv"
        table = find_file(root, (f"data/splits/{file}", f"splits/{file}", file), f"MTG-Jamendo's {word} list")
        for line, name, track in _read_table(table, split):
            if name in tracks:
                bad_line(table, line, f"{name} is already in the {tracks[name].split} list")
            tracks[name] = track
    return [tracks[name] for name in sorted(tracks)]


def _read_table(path: Path, split: Split) -> Iterator[tuple[int, str, Example]]:
    """Line, path as written, and the track with its prefixed tags."""
    rows = read_rows(path, delimiter="\t", quoted=False, open_end=True)
    _, header = next(rows, (0, []))
    if header != _HEADER:
        raise BadRequestError(f"{printable(path)}: does not begin with the columns {', '.join(_HEADER)}, tab separated")
    for line, (_, artist, _, name, duration, *tags) in rows:
        for tag in tags:
            prefix, separator, word = tag.partition(SEPARATOR)
            if prefix not in _CATEGORIES or not separator or not word:
                expected = ", ".join(f"{prefix}{SEPARATOR}WORD" for prefix in _CATEGORIES)
                bad_line(path, line, f"{tag!r} is not a tag; expected {expected}")
        yield line, name, Example(Path(name), tuple(dict.fromkeys(tags)), split, artist, number(path, line, duration))


def _short_names(tags: Sequence[str]) -> dict[str, str]:
    """The name of each tag, without its prefix unless another tag has the same word."""
    uses = Counter(tag.partition(SEPARATOR)[2] for tag in tags)
    return {tag: word if uses[word := tag.partition(SEPARATOR)[2]] == 1 else tag for tag in tags}


def _located(folders: Sequence[Path], tracks: Sequence[Example]) -> tuple[tuple[Example, ...], tuple[Path, ...]]:
    """The tracks whose files exist, and the missing files: named as in the lists or as in the smaller audio."""
    low = [replace(track, path=track.path.with_suffix(".low.mp3")) for track in tracks]
    for named in (tracks, low):
        if (root := find_root(folders, [track.path for track in named])) is not None:
            return existing(named, root)
    return existing(tracks, folders[0])
