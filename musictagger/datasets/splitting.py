"""Splits for datasets without their own: stratified by tag, each artist in one split, drawn by a seed.

They do not depend on the order of the tracks, on their folder or on Python's random numbers: tracks are shuffled by a
digest of the seed and their key.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from musictagger.datasets.base import Example, Split, artist_key
from musictagger.errors import BadRequestError

Tracks = Mapping[str, Example]
"""Tracks by a key that is the same on every machine; their own `split` is ignored."""
Group = tuple[str, str]


def group_of(key: str, track: Example) -> Group:
    """The tracks that stay in one split: those of one artist or, without an artist, the track alone."""
    artist = artist_key(track.artist)
    return ("track", key) if artist is None else ("artist", artist)


def shuffled(keys: Iterable[str], seed: int) -> list[str]:
    """The keys in an order that depends only on the seed."""

    def digest(key: str) -> bytes:
        return hashlib.sha256(f"{seed}\0{key}".encode("utf-8", "surrogateescape")).digest()

    return sorted(keys, key=lambda key: (digest(key), key))


@dataclass(frozen=True)
class RandomSplit:
    """A split drawn by `seed`, in which `valid` and `test` are shares of all tracks, test possibly 0."""

    valid: float
    test: float
    seed: int

    def __post_init__(self) -> None:
        """Raises BadRequestError where a split would be empty."""
        valid, test = self.valid, self.test
        if not (0 < valid < 1 and 0 <= test < 1 and valid + test < 1):
            raise BadRequestError(
                f"valid={valid:g} and test={test:g} leave {1 - valid - test:g} to train on; they are shares of all "
                "tracks, together less than 1, and valid more than 0"
            )

    @property
    def shares(self) -> dict[Split, float]:
        """The share of each split that is not empty."""
        shares: dict[Split, float] = {"train": 1 - self.valid - self.test, "valid": self.valid, "test": self.test}
        return {split: share for split, share in shares.items() if share > 0}

    def __str__(self) -> str:
        return f"split by seed {self.seed}, {self.valid:g} for validation and {self.test:g} for test"

    def draw(self, tracks: Tracks) -> dict[str, Split]:
        """The split of each key: each tag in proportion to the shares, as far as undivided artists allow.

        Iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011) over artists instead of single tracks: the
        rarest tag first, and of its artists those with most tracks first. A tag with as many artists as there are
        splits is in all of them; with fewer it is in train, then in valid.
        """
        groups: dict[Group, list[Example]] = defaultdict(list)
        for key in shuffled(tracks, self.seed):
            groups[group_of(key, tracks[key])].append(tracks[key])
        allocation = _Allocation(self.shares, groups)
        unassigned = dict.fromkeys(groups)
        while unassigned:
            members: dict[str, list[Group]] = defaultdict(list)
            for group in unassigned:
                for tag in allocation.tags[group]:
                    members[tag].append(group)
            if not members:
                for group in unassigned:
                    allocation.assign(group, None, left=len(unassigned))
                break
            tag = min(members, key=lambda tag: (len(members[tag]), tag))
            chosen = sorted(members[tag], key=lambda group: -allocation.tags[group][tag])
            for index, group in enumerate(chosen):
                allocation.assign(group, tag, left=len(chosen) - index)
                del unassigned[group]
        return {key: allocation.splits[group_of(key, track)] for key, track in tracks.items()}


def groups_per_tag(tracks: Tracks) -> Counter[str]:
    """The number of artists of each tag, or of tracks where artists are unknown."""
    return Counter(
        tag for tag, _ in {(tag, group_of(key, track)) for key, track in tracks.items() for tag in track.tags}
    )


def frequent_tags(tracks: Tracks, min_tracks: int, min_groups: int) -> set[str]:
    """The tags with at least this many tracks, in at least this many groups."""
    counts = Counter(tag for track in tracks.values() for tag in track.tags)
    return {tag for tag, groups in groups_per_tag(tracks).items() if groups >= min_groups and counts[tag] >= min_tracks}


def with_tags(tracks: Tracks, kept: Container[str]) -> dict[str, Example]:
    """The tracks with only those of their tags that are in `kept`."""
    return {key: replace(track, tags=tuple(tag for tag in track.tags if tag in kept)) for key, track in tracks.items()}


class _Allocation:
    """The split of each group so far, and the number of tracks of each tag that every split still needs."""

    def __init__(self, shares: Mapping[Split, float], groups: Mapping[Group, Sequence[Example]]) -> None:
        self.tags = {group: Counter(tag for track in found for tag in track.tags) for group, found in groups.items()}
        self.sizes = {group: len(found) for group, found in groups.items()}
        self.splits: dict[Group, Split] = {}
        totals = Counter(tag for found in groups.values() for track in found for tag in track.tags)
        self._wanted = {split: {tag: share * count for tag, count in totals.items()} for split, share in shares.items()}
        self._room = {split: share * sum(self.sizes.values()) for split, share in shares.items()}
        self._has: dict[Split, set[str]] = {split: set() for split in shares}

    def assign(self, group: Group, tag: str | None, left: int) -> None:
        """Put a group into the split that needs its `tag` most; with this one, `left` groups with that tag remain."""
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
