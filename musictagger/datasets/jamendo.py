"""MTG-Jamendo: 55,000 whole tracks with tags of genre, instrument, and mood or theme, in splits that share no artist.

    data/splits/split-0/autotagging-train.tsv    -validation, -test; autotagging_genre-train.tsv and other subsets
    14/214.mp3, or 14/214.low.mp3                here, or in audio/, raw_30s/audio/ and the like

A line of a split is TRACK_ID, ARTIST_ID, ALBUM_ID, PATH, DURATION (s) and any number of tags (`genre---rock`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from musictagger.audio.walk import absolute
from musictagger.datasets.base import Dataset, Example, Split
from musictagger.datasets.reading import bad_line, find_file, find_root, number, present, read_rows
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


@dataclass(frozen=True)
class _Track:
    name: str
    artist: str
    duration_s: float | None
    tags: tuple[str, ...]
    split: Split


def read(folder: Path, *, subset: Subset = "all", split: int = 0, audio: Path | None = None) -> Dataset:
    """The tracks of a subset in its split number `split` (0 to 4). `audio` is the folder of 00 to 99, if it is apart.

    Tags are the words after the prefix, which gives the category; a word under two prefixes keeps them. Raises
    BadRequestError for tables that are not there or not in this format.
    """
    if not 0 <= split < SPLIT_COUNT:
        raise BadRequestError(f"jamendo: there is no split {split}; they are 0 to {SPLIT_COUNT - 1}")
    root = absolute(folder)
    stem = "autotagging" if subset == "all" else f"autotagging_{subset}"
    tracks = _read_splits(root, f"split-{split}", stem)
    words = _words(tag for track in tracks for tag in track.tags)
    files = _files([absolute(audio)] if audio else [root / name for name in _AUDIO], tracks)
    examples = tuple(
        Example(files[track.name], tuple(words[tag] for tag in track.tags), track.split, track.artist, track.duration_s)
        for track in tracks
        if present(files[track.name])
    )
    return Dataset(
        name=NAME,
        task="tags",
        tags=tuple(words.values()),
        examples=examples,
        missing=tuple(files[track.name] for track in tracks if not present(files[track.name])),
        notes=(f"split-{split} of {stem}",),
        categories={word: _CATEGORIES[tag.partition(SEPARATOR)[0]] for tag, word in words.items()},
    )


def _read_splits(root: Path, folder: str, stem: str) -> list[_Track]:
    """The tracks of the three splits, sorted by path."""
    tracks: dict[str, _Track] = {}
    for split, word in _FILES.items():
        name = f"{folder}/{stem}-{word}.tsv"
        table = find_file(root, (f"data/splits/{name}", f"splits/{name}", name), f"MTG-Jamendo's {word} list")
        for line, track in _read_table(table, split):
            if track.name in tracks:
                bad_line(table, line, f"{track.name} is in the {tracks[track.name].split} list already")
            tracks[track.name] = track
    return [tracks[name] for name in sorted(tracks)]


def _read_table(path: Path, split: Split) -> Iterator[tuple[int, _Track]]:
    rows = read_rows(path, delimiter="\t", quoted=False, open_end=True)
    _, header = next(rows, (0, []))
    if header != _HEADER:
        raise BadRequestError(f"{printable(path)}: does not begin with the columns {', '.join(_HEADER)}, tab separated")
    for line, (_, artist, _, name, duration, *tags) in rows:
        for tag in tags:
            prefix, separator, word = tag.partition(SEPARATOR)
            if prefix not in _CATEGORIES or not separator or not word:
                bad_line(path, line, f"{tag!r} is no tag; expected {', '.join(p + SEPARATOR for p in _CATEGORIES)}WORD")
        yield line, _Track(name, artist, number(path, line, duration), tuple(dict.fromkeys(tags)), split)


def _words(tags: Iterator[str]) -> dict[str, str]:
    """The name of each tag, sorted by category and word."""
    known = sorted(set(tags))
    uses = Counter(tag.partition(SEPARATOR)[2] for tag in known)
    return {tag: word if uses[word := tag.partition(SEPARATOR)[2]] == 1 else tag for tag in known}


def _files(folders: Sequence[Path], tracks: Sequence[_Track]) -> dict[str, Path]:
    """Where each track is or should be: as the lists name it, or else with the suffix of the smaller audio."""
    full = [track.name for track in tracks]
    root = find_root(folders, full)
    if root is not None:
        return {name: root / name for name in full}
    low = {name: name.removesuffix(".mp3") + ".low.mp3" for name in full}
    root = find_root(folders, list(low.values()))
    return {name: (root or folders[0]) / (low[name] if root else name) for name in full}
