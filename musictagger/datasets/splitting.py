"""Splits where a dataset brings none: stratified by tag, one artist in one split, decided by a seed.

Nothing depends on the order of the tracks, on the folder they lie in, or on Python's random numbers: tracks are
shuffled by a digest of the seed and their own key.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from musictagger.datasets.base import SPLITS, Split, artist_key
from musictagger.errors import BadRequestError


@dataclass(frozen=True)
class Item:
    """What a split is decided by: a key of the track's own, its tags, its artist."""

    key: str
    tags: tuple[str, ...]
    artist: str | None = None

    @property
    def group(self) -> tuple[str, str]:
        """What may not be torn apart: all tracks of an artist, or else the track alone."""
        artist = artist_key(self.artist)
        return ("track", self.key) if artist is None else ("artist", artist)


def shuffled(keys: Iterable[str], seed: int) -> list[str]:
    """The keys in an order that the seed alone decides."""
    return sorted(keys, key=lambda key: (_digest(seed, key), key))


def _digest(seed: int, key: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{key}".encode("utf-8", "surrogateescape")).digest()


def fractions(valid: float, test: float) -> dict[Split, float]:
    """The share of each split. Raises BadRequestError where one would get nothing; test may be 0."""
    if not (0 < valid < 1 and 0 <= test < 1 and valid + test < 1):
        raise BadRequestError(
            f"valid={valid:g} and test={test:g} leave {1 - valid - test:g} to train on; they are shares of all tracks, "
            "together less than 1, and valid more than 0"
        )
    return {"train": 1 - valid - test, "valid": valid, "test": test}


def groups_per_tag(items: Iterable[Item]) -> dict[str, int]:
    """How many artists (tracks, where they are unknown) each tag has: one that has fewer than splits is lacking."""
    groups: dict[str, set[tuple[str, str]]] = {}
    for item in items:
        for tag in item.tags:
            groups.setdefault(tag, set()).add(item.group)
    return {tag: len(found) for tag, found in groups.items()}


def stratified(items: Sequence[Item], shares: Mapping[Split, float], seed: int) -> dict[str, Split]:
    """The split of each key: each tag in proportion to `shares`, as far as artists, who stay whole, allow.

    Iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011) over artists instead of single tracks: the
    rarest tag first, and of its artists those with most tracks first. A tag with as many artists as there are splits
    is in all of them; with fewer it is in train, then in valid.
    """
    groups: dict[tuple[str, str], list[Item]] = defaultdict(list)
    for item in sorted(items, key=lambda item: (_digest(seed, item.key), item.key)):
        groups[item.group].append(item)
    allocation = _Allocation(shares, groups)
    waiting = dict.fromkeys(groups)
    while waiting:
        members: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for group in waiting:
            for tag in allocation.tags[group]:
                members[tag].append(group)
        if not members:
            for group in waiting:
                allocation.place(group, None, left=len(waiting))
            break
        tag = min(members, key=lambda tag: (len(members[tag]), tag))
        chosen = sorted(members[tag], key=lambda group: -allocation.tags[group][tag])
        for index, group in enumerate(chosen):
            allocation.place(group, tag, left=len(chosen) - index)
            del waiting[group]
    return {item.key: allocation.splits[group] for group, found in groups.items() for item in found}


class _Allocation:
    """Which group went where, and how many tracks of each tag every split still wants."""

    def __init__(self, shares: Mapping[Split, float], groups: Mapping[tuple[str, str], Sequence[Item]]) -> None:
        self.tags = {group: Counter(tag for item in found for tag in item.tags) for group, found in groups.items()}
        self.sizes = {group: len(found) for group, found in groups.items()}
        self.splits: dict[tuple[str, str], Split] = {}
        totals = Counter[str]()
        for counts in self.tags.values():
            totals.update(counts)
        used = [split for split in SPLITS if shares[split] > 0]
        self._wanted = {split: {tag: shares[split] * count for tag, count in totals.items()} for split in used}
        self._room = {split: shares[split] * sum(self.sizes.values()) for split in used}
        self._has: dict[Split, set[str]] = {split: set() for split in used}

    def place(self, group: tuple[str, str], tag: str | None, left: int) -> None:
        """Put a group where its `tag` is wanted most; `left` groups with that tag, this one included, are to come."""
        splits = list(self._room)
        if tag is not None:
            empty = [split for split in splits if tag not in self._has[split]]
            splits = empty[:left] if len(empty) >= left else splits
        split = max(splits, key=lambda name: (self._wanted[name][tag] if tag else 0.0, self._room[name]))
        self.splits[group] = split
        self._room[split] -= self.sizes[group]
        for name, count in self.tags[group].items():
            self._wanted[split][name] -= count
            self._has[split].add(name)
