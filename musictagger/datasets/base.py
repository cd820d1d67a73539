"""What every dataset gives: tracks with their tags and split, and what it found and missed on the way.

A dataset is one file in this folder with `NAME`, `SOURCE`, `LICENCE` and `read(folder, **options) -> Dataset`. It
reads labels and looks which files are there; it decodes nothing. What it gives is the same on every machine and run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from musictagger.errors import BadRequestError, printable
from musictagger.models.card import Category, Task

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

_SHOWN = 5
"""How many examples a message names; the rest are counted."""
_NOBODY = frozenset({"", "various artists", "various", "va", "v.a.", "unknown", "unknown artist"})


@dataclass(frozen=True)
class Example:
    """One track: its file, its tags in the dataset's own words, its split, and who made it where that is known."""

    path: Path
    tags: tuple[str, ...]
    split: Split
    artist: str | None = None
    duration_s: float | None = None
    """As the labels have it; None where they do not say."""


@dataclass(frozen=True)
class Dataset:
    """Labelled tracks. `tags` is the vocabulary in the order of the outputs; in a genre task each track has one."""

    name: str
    task: Task
    tags: tuple[str, ...]
    examples: tuple[Example, ...]
    missing: tuple[Path, ...] = ()
    """Files that the labels name and that are not there, or are empty."""
    notes: tuple[str, ...] = ()
    """What a reader of the figures should know: how the split was made, what was left out."""
    categories: Mapping[str, Category] = field(default_factory=dict)
    """The category of each tag, as far as the dataset tells."""
    partial: bool = False
    """Whether a track without tags is one that nobody labelled, not one that no tag fits. Only then may `tags` be
    empty, and only teachers make such a dataset fit for training."""

    def split(self, split: Split) -> tuple[Example, ...]:
        """The examples of one split."""
        return tuple(example for example in self.examples if example.split == split)

    def counts(self) -> Mapping[Split, Counter[str]]:
        """For each split how many tracks have each tag."""
        return {name: Counter(tag for example in self.split(name) for tag in example.tags) for name in SPLITS}


def require_usable(dataset: Dataset, splits: Sequence[Split] = SPLITS, *, taught: bool = False) -> None:
    """Raise BadRequestError, saying what to do, for a dataset that nothing can be learnt from.

    Of the `splits` that are looked at only test may be empty; those that are not need a track of every tag. Where
    teachers say what a track has (`taught`), it needs no tags, nor the dataset any.
    """
    _require_sound(dataset)
    if not taught:
        _require_labels(dataset)
    counts = dataset.counts()
    for name in splits:
        if not dataset.split(name):
            if name != "test":
                raise BadRequestError(f"dataset {dataset.name}: the {name} split is empty")
            continue
        lacking = [tag for tag in dataset.tags if not counts[name][tag]]
        if lacking and not taught:
            raise BadRequestError(
                f"dataset {dataset.name}: no track of the {name} split has {some(lacking)}; add tracks of these "
                "(by other artists), take these tags out, or split differently"
            )


def _require_sound(dataset: Dataset) -> None:
    """What holds whichever split is used."""
    if not dataset.examples:
        raise BadRequestError(f"dataset {dataset.name}: no track was found{_gone(dataset.missing)}")
    twice = [path for path, count in Counter(example.path for example in dataset.examples).items() if count > 1]
    if twice:
        raise BadRequestError(f"dataset {dataset.name}: named more than once: {some(map(printable, twice))}")
    known = frozenset(dataset.tags)
    for example in dataset.examples:
        if not known.issuperset(example.tags) or (dataset.task == "genre" and len(example.tags) != 1):
            raise BadRequestError(
                f"dataset {dataset.name}: {printable(example.path)} has the tags {list(example.tags)}; "
                f"expected {'exactly one' if dataset.task == 'genre' else 'some'} of {some(dataset.tags)}"
            )


def _require_labels(dataset: Dataset) -> None:
    """What holds where the dataset's own tags are all that is learnt."""
    if dataset.partial and not all(example.tags for example in dataset.examples):
        raise BadRequestError(
            f"dataset {dataset.name}: has tracks that nobody labelled; name teachers whose scores are learnt, "
            "or take a dataset with labels"
        )
    if len(dataset.tags) < 2:
        found = f"only one tag, {dataset.tags[0]!r}" if dataset.tags else "no tag"
        raise BadRequestError(f"dataset {dataset.name}: has {found}; at least two are needed")


def artist_key(artist: str | None) -> str | None:
    """Equal for two spellings of one artist; None for nobody and for names that stand for many."""
    folded = " ".join((artist or "").casefold().split())
    return None if folded in _NOBODY else folded


def shared_artists(examples: Iterable[Example]) -> list[str]:
    """Artists with tracks in more than one split: what is learnt of them in one is tested in the other."""
    splits: dict[str, set[Split]] = {}
    names: dict[str, str] = {}
    for example in examples:
        key = artist_key(example.artist)
        if key is not None:
            names.setdefault(key, example.artist or "")
            splits.setdefault(key, set()).add(example.split)
    return [names[key] for key in sorted(splits) if len(splits[key]) > 1]


def shared_audio(digests: Mapping[Path, str], examples: Sequence[Example]) -> list[tuple[Path, Path]]:
    """Pairs of tracks with the same sound in different splits. `digests` are those of audio.digest, by path.

    A track without a digest (one that could not be read) is passed over.
    """
    firsts: dict[str, dict[Split, Path]] = {}
    pairs: list[tuple[Path, Path]] = []
    for example in examples:
        if (digest := digests.get(example.path)) is None:
            continue
        seen = firsts.setdefault(digest, {})
        pairs.extend((path, example.path) for split, path in seen.items() if split != example.split)
        seen.setdefault(example.split, example.path)
    return pairs


def check_leaks(dataset: Dataset, digests: Mapping[Path, str] | None = None, *, allow: bool = False) -> list[str]:
    """What stands in two splits at once: artists and, with `digests`, sounds; one line a kind, none where all is well.

    Raises BadRequestError with these lines unless `allow`: figures measured so are better than the model.
    """
    found = []
    if artists := shared_artists(dataset.examples):
        found.append(f"{_counted(len(artists), 'artist')} in more than one split: {some(artists)}")
    if pairs := shared_audio(digests or {}, dataset.examples):
        named = (f"{printable(one)} = {printable(other)}" for one, other in pairs)
        found.append(f"the same sound in two splits, {_counted(len(pairs), 'pair')}: {some(named)}")
    if found and not allow:
        raise BadRequestError(
            f"dataset {dataset.name}: {'; '.join(found)}. Figures from such a split are too good; "
            "split differently, or allow the leak"
        )
    return found


def describe(dataset: Dataset) -> list[str]:
    """What was found, as lines for people: tracks, tags, hours and tags per split, missing files, notes."""
    kind = "genre" if dataset.task == "genre" else "tag"
    total = len(dataset.examples)
    size = f"{_counted(total, 'track')}, {_counted(len(dataset.tags), kind)}, {_hours(dataset.examples)}"
    return [
        f"{dataset.name}: {size}",
        *split_lines(dataset),
        *_missing_lines(dataset.missing),
        *(f"note: {note}" for note in dataset.notes),
    ]


def split_lines(dataset: Dataset) -> Iterator[str]:
    """For each split how many tracks it has, how long they are, and its most and least frequent tag."""
    kind = "genre" if dataset.task == "genre" else "tag"
    counts = dataset.counts()
    for name in SPLITS:
        examples = dataset.split(name)
        if not examples:
            yield f"  {name}: empty"
            continue
        share = 100 * len(examples) / len(dataset.examples)
        ranked = sorted(dataset.tags, key=lambda tag: (-counts[name][tag], tag))
        ends = [f"{tag} {counts[name][tag]:,}" for tag in (ranked[0], ranked[-1])] if ranked else []
        tags = f"; {kind}s from {ends[0]} to {ends[1]}" if ends else ""
        yield f"  {name}: {_counted(len(examples), 'track')} ({share:.1f} %), {_hours(examples)}{tags}"


def _missing_lines(missing: Sequence[Path]) -> Iterator[str]:
    if missing:
        yield f"missing: {_counted(len(missing), 'file')}"
        yield from (f"  {printable(path)}" for path in missing[:_SHOWN])
    if len(missing) > _SHOWN:
        yield f"  and {len(missing) - _SHOWN:,} more"


def _hours(examples: Sequence[Example]) -> str:
    known = [example.duration_s for example in examples if example.duration_s is not None]
    if not known:
        return "length unknown"
    hours = f"{sum(known) / 3600:,.1f} h"
    return hours if len(known) == len(examples) else f"{hours} in the {len(known):,} of known length"


def _gone(missing: Sequence[Path]) -> str:
    if not missing:
        return ""
    return f"; {_counted(len(missing), 'file')} that it names are missing or empty: {some(map(printable, missing))}"


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def some(names: Iterable[str], most: int = _SHOWN) -> str:
    """The first `most` of the names; the rest are counted."""
    listed = list(names)
    rest = len(listed) - most
    return ", ".join(listed[:most]) + (f" and {rest:,} more" if rest > 0 else "")
