"""The values that every dataset returns, and the checks that apply to all of them.

A dataset is one file in this folder with `NAME`, `SOURCE`, `LICENCE` and `read(folder, **options) -> Dataset`. It
reads labels and checks which files exist, but decodes nothing. Its result is the same on every machine and run.
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
"""Examples that a message names; the rest are counted."""
_NOBODY = frozenset({"", "various artists", "various", "va", "v.a.", "unknown", "unknown artist"})


@dataclass(frozen=True)
class Example:
    """One track: its file, its tags as the dataset spells them, its split, and its artist where that is known."""

    path: Path
    tags: tuple[str, ...]
    split: Split
    artist: str | None = None
    duration_s: float | None = None
    """As given by the labels; None where they do not give it."""


@dataclass(frozen=True)
class Dataset:
    """Labelled tracks. `tags` is the vocabulary in the order of the outputs; in a genre task each track has one."""

    name: str
    task: Task
    tags: tuple[str, ...]
    examples: tuple[Example, ...]
    missing: tuple[Path, ...] = ()
    """Files that the labels name but that do not exist or are empty."""
    notes: tuple[str, ...] = ()
    """Facts that matter to readers of the metrics: how the split was made, what was left out."""
    categories: Mapping[str, Category] = field(default_factory=dict)
    """The category of each tag, as far as the dataset gives it."""
    partial: bool = False
    """Whether a track without tags is unlabelled, instead of labelled as having none. Only then may `tags` be empty;
    training on such a dataset needs teachers."""

    def split(self, split: Split) -> tuple[Example, ...]:
        """The examples of one split."""
        return tuple(example for example in self.examples if example.split == split)

    def counts(self) -> Mapping[Split, Counter[str]]:
        """The number of tracks with each tag, by split."""
        return {name: Counter(tag for example in self.split(name) for tag in example.tags) for name in SPLITS}


def tag_names(examples: Iterable[Example]) -> tuple[str, ...]:
    """All tags of the examples, sorted."""
    return tuple(sorted({tag for example in examples for tag in example.tags}))


def split_sizes(splits: Iterable[Split]) -> tuple[int, ...]:
    """The numbers of train, valid and test among the given splits."""
    counts = Counter(splits)
    return tuple(counts[split] for split in SPLITS)


def slashed(counts: Iterable[int]) -> str:
    """Counts as in "19,773 / 1,521 / 4,566"."""
    return " / ".join(f"{count:,}" for count in counts)


def require_usable(dataset: Dataset, splits: Sequence[Split] = SPLITS, *, with_teachers: bool = False) -> None:
    """Raise BadRequestError, with a remedy, for a dataset that is unsuitable for training.

    Of the `splits` only test may be empty; the others need a track of every tag. With teachers, neither tracks nor the
    dataset need tags.
    """
    _require_consistent(dataset)
    if not with_teachers:
        _require_labels(dataset)
    counts = dataset.counts()
    for name in splits:
        if not dataset.split(name):
            if name != "test":
                raise BadRequestError(f"dataset {dataset.name}: the {name} split is empty")
            continue
        lacking = [tag for tag in dataset.tags if not counts[name][tag]]
        if lacking and not with_teachers:
            raise BadRequestError(
                f"dataset {dataset.name}: no track of the {name} split has {some(lacking)}; add tracks of these "
                "(by other artists), take these tags out, or split differently"
            )


def _require_consistent(dataset: Dataset) -> None:
    """The checks that do not depend on the split."""
    if not dataset.examples:
        raise BadRequestError(f"dataset {dataset.name}: no track was found{_missing_text(dataset.missing)}")
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
    """The checks where the dataset's own tags are the only targets."""
    if dataset.partial and not all(example.tags for example in dataset.examples):
        raise BadRequestError(
            f"dataset {dataset.name}: has unlabelled tracks; name teachers to learn from, or use a dataset with labels"
        )
    if len(dataset.tags) < 2:
        found = f"only one tag, {dataset.tags[0]!r}" if dataset.tags else "no tag"
        raise BadRequestError(f"dataset {dataset.name}: has {found}; at least two are needed")


def artist_key(artist: str | None) -> str | None:
    """The same text for all spellings of an artist; None for an unknown one and for names like "Various Artists"."""
    folded = " ".join((artist or "").casefold().split())
    return None if folded in _NOBODY else folded


def shared_artists(examples: Iterable[Example]) -> list[str]:
    """Artists with tracks in more than one split, so that a test on one benefits from training on the other."""
    spelt: dict[str, dict[Split, str]] = {}
    for example in examples:
        if (key := artist_key(example.artist)) is not None:
            spelt.setdefault(key, {}).setdefault(example.split, example.artist or "")
    return [next(iter(by_split.values())) for _, by_split in sorted(spelt.items()) if len(by_split) > 1]


def shared_audio(digests: Mapping[Path, str], examples: Sequence[Example]) -> list[tuple[Path, Path]]:
    """Pairs of tracks with the same audio in different splits. `digests` are those of audio.digest, by path.

    Tracks without a digest, which could not be read, are skipped.
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
    """One line for artists in two splits and, with `digests`, one for audio in two splits; none without leaks.

    Raises BadRequestError with these lines unless `allow`: metrics measured on such splits are too good.
    """
    found = []
    if artists := shared_artists(dataset.examples):
        found.append(f"{counted(len(artists), 'artist')} in more than one split: {some(artists)}")
    if pairs := shared_audio(digests or {}, dataset.examples):
        named = (f"{printable(one)} = {printable(other)}" for one, other in pairs)
        found.append(f"the same audio in two splits, {counted(len(pairs), 'pair')}: {some(named)}")
    if found and not allow:
        raise BadRequestError(
            f"dataset {dataset.name}: {'; '.join(found)}. Metrics from such a split are too good; "
            "split differently, or allow the leak"
        )
    return found


def describe(dataset: Dataset) -> list[str]:
    """A summary in lines: tracks, tags, hours and tags per split, missing files, notes."""
    kind = "genre" if dataset.task == "genre" else "tag"
    total = len(dataset.examples)
    size = f"{counted(total, 'track')}, {counted(len(dataset.tags), kind)}, {_hours(dataset.examples)}"
    return [
        f"{dataset.name}: {size}",
        *split_lines(dataset),
        *_missing_lines(dataset.missing),
        *(f"note: {note}" for note in dataset.notes),
    ]


def split_lines(dataset: Dataset) -> Iterator[str]:
    """A line for each split: the number of its tracks, their length, and its most and least frequent tag."""
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
        yield f"  {name}: {counted(len(examples), 'track')} ({share:.1f} %), {_hours(examples)}{tags}"


def _missing_lines(missing: Sequence[Path]) -> Iterator[str]:
    if missing:
        yield f"missing: {counted(len(missing), 'file')}"
        yield from (f"  {printable(path)}" for path in missing[:_SHOWN])
    if len(missing) > _SHOWN:
        yield f"  and {len(missing) - _SHOWN:,} more"


def _hours(examples: Sequence[Example]) -> str:
    known = [example.duration_s for example in examples if example.duration_s is not None]
    if not known:
        return "length unknown"
    hours = f"{sum(known) / 3600:,.1f} h"
    return hours if len(known) == len(examples) else f"{hours} in the {len(known):,} of known length"


def _missing_text(missing: Sequence[Path]) -> str:
    if not missing:
        return ""
    return f"; {counted(len(missing), 'file')} that it names are missing or empty: {some(map(printable, missing))}"


def counted(count: int, noun: str) -> str:
    """ "1 track", "1,234 tracks"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def some(names: Iterable[str], count: int = _SHOWN) -> str:
    """The first names, up to `count`, and the number of the others."""
    listed = list(names)
    rest = len(listed) - count
    return ", ".join(listed[:count]) + (f" and {rest:,} more" if rest > 0 else "")
