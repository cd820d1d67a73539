"""The content of stylebank.toml, the split of each style file, and the genre, split and styles of each track."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from random import Random

from musictagger.datasets.base import Split
from musictagger.errors import BadRequestError
from tools.stylebank_render import Backing

CYCLE: tuple[Split, ...] = ("train", "test", "train", "valid", "train", "test", "train", "train")
"""The splits of a genre's tracks in turn."""
SOUNDFONTS: Mapping[Split, tuple[str, ...]] = {
    "train": ("TimGM6mb", "GMbank"),
    "valid": ("TimGM6mb", "GMbank"),
    "test": ("FluidR3",),
}
_SALT = "stylebank 7651"
"""Chosen so that genres with drum-only styles have some of them in train and in test."""


@dataclass(frozen=True)
class Genre:
    """A genre of stylebank.toml. `tempo` is in quarters a minute."""

    name: str
    chords: tuple[str, ...]
    tempo: tuple[int, int]
    lead: tuple[str, ...]
    styles: tuple[str, ...]


@dataclass(frozen=True)
class Bank:
    """The content of stylebank.toml."""

    genres: tuple[Genre, ...]
    tempo: Mapping[str, tuple[int, int]]
    backing: Mapping[str, Backing]
    instruments: Mapping[str, frozenset[int]]


@dataclass(frozen=True)
class Slot:
    """The plan for a track: its split, its genre, and the styles to try, in this order."""

    split: Split
    genre: Genre
    styles: tuple[str, ...]


@cache
def load_bank(genres: int | None = None) -> Bank:
    """The bank with the first `genres` of its genres. Raises BadRequestError if it has fewer."""
    data = tomllib.loads(Path(__file__).with_name("stylebank.toml").read_text(encoding="utf-8"))
    every = [
        Genre(name, *(tuple(entry[key]) for key in ("chords", "tempo", "lead", "styles")))
        for name, entry in data["genre"].items()
    ]
    if genres is not None and not 2 <= genres <= len(every):
        raise BadRequestError(f"--genres {genres}: from 2 to {len(every)}")
    return Bank(
        genres=tuple(every[:genres]),
        tempo={style: (low, high) for style, (low, high) in data["tempo"].items()},
        backing={
            name: Backing(b["bass"], tuple(b["bass_voice"]), tuple(b["chords"]), tuple(b["voice"]))
            for name, b in data["backing"].items()
        },
        instruments={
            name: frozenset(program for low, high in ranges for program in range(low, high + 1))
            for name, ranges in data["instruments"].items()
        },
    )


def splits(genre: Genre) -> Mapping[Split, tuple[str, ...]]:
    """The style files of a genre by split: about a quarter (at least two) for test and a seventh for valid.

    The split depends on the names alone and not on the seed, so sets of several seeds can be used together.
    """
    ranked = sorted(genre.styles, key=lambda style: sha256(f"{_SALT} {style}".encode()).digest())
    test, valid = max(2, round(len(ranked) / 4)), max(1, round(len(ranked) / 7))
    return {
        "test": tuple(sorted(ranked[:test])),
        "valid": tuple(sorted(ranked[test : test + valid])),
        "train": tuple(sorted(ranked[test + valid :])),
    }


def deal(bank: Bank, seed: int, index: int) -> Slot:
    """The slot of track `index`: genres in turn, within a genre the splits of CYCLE, within a split its styles."""
    which, number = index % len(bank.genres), index // len(bank.genres)
    genre = bank.genres[which]
    lap, at = divmod(number + which, len(CYCLE))
    split = CYCLE[at]
    turn = lap * CYCLE.count(split) + CYCLE[:at].count(split)
    styles = list(splits(genre)[split])
    Random(f"{seed} {genre.name} {split}").shuffle(styles)
    turn %= len(styles)
    return Slot(split, genre, (*styles[turn:], *styles[:turn]))
