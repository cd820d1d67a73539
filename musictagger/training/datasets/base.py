"""What every dataset gives: tracks with their tags and split, and what it found and missed on the way.

A dataset is one file in this folder with `NAME`, `SOURCE`, `LICENCE` and `read(folder, **options) -> Dataset`. It
reads labels and looks which files are there; it decodes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from musictagger.errors import BadRequestError
from musictagger.models.card import Task

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True)
class Example:
    """One track: its file, its tags in the dataset's own words, its split, and who made it where that is known."""

    path: Path
    tags: tuple[str, ...]
    split: Split
    artist: str | None = None


@dataclass(frozen=True)
class Dataset:
    """Labelled tracks. `tags` is the vocabulary in the order of the outputs; in a genre task each track has one."""

    name: str
    task: Task
    tags: tuple[str, ...]
    examples: tuple[Example, ...]
    missing: tuple[Path, ...] = ()
    """Files that the labels name and that are not there."""
    notes: tuple[str, ...] = field(default_factory=tuple)
    """What a reader of the figures should know: how the split was made, what was left out."""

    def split(self, split: Split) -> tuple[Example, ...]:
        """The examples of one split."""
        return tuple(example for example in self.examples if example.split == split)

    def counts(self) -> Mapping[Split, Counter[str]]:
        """For each split how many tracks have each tag."""
        return {name: Counter(tag for example in self.split(name) for tag in example.tags) for name in SPLITS}


def require_usable(dataset: Dataset) -> None:
    """Raise BadRequestError, saying what to do, for a dataset that nothing can be learnt from."""
    if not dataset.examples:
        raise BadRequestError(f"dataset {dataset.name}: no track was found")
    if len(dataset.tags) < 2:
        raise BadRequestError(f"dataset {dataset.name}: has {len(dataset.tags)} tag; at least two are needed")
    counts = dataset.counts()
    for name in ("train", "valid"):
        if not dataset.split(name):
            raise BadRequestError(f"dataset {dataset.name}: the {name} split is empty")
        lacking = [tag for tag in dataset.tags if not counts[name][tag]]
        if lacking and name == "train":
            raise BadRequestError(f"dataset {dataset.name}: no track of the train split has {', '.join(lacking[:5])}")


def shared_artists(examples: Iterable[Example]) -> list[str]:
    """Artists with tracks in more than one split: what is learnt of them in one is tested in the other."""
    splits: dict[str, set[Split]] = {}
    for example in examples:
        if example.artist:
            splits.setdefault(example.artist.casefold(), set()).add(example.split)
    return sorted(artist for artist, found in splits.items() if len(found) > 1)


def shared_audio(digests: Mapping[Path, str], examples: Sequence[Example]) -> list[tuple[Path, Path]]:
    """Pairs of tracks with the same sound in different splits. `digests` are those of audio.digest, by path."""
    first: dict[str, Example] = {}
    pairs = []
    for example in examples:
        other = first.setdefault(digests[example.path], example)
        if other.split != example.split:
            pairs.append((other.path, example.path))
    return pairs
