"""GTZAN: 1,000 excerpts of 30 s, 100 of each of 10 genres, artists unknown.

    genres/blues/blues.00000.wav    .au in the original, .mp3 in some copies; genres_original/ in others

It has repetitions, mislabellings and one artist in many excerpts (Sturm 2013), so metrics from random folds are too
good; the fault-filtered lists (Kereliuk, Sturm and Larsen 2015) leave out the worst and share no artist.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

from musictagger.audio.walk import absolute
from musictagger.datasets.base import SPLITS, Dataset, Example, Split, slashed, split_sizes
from musictagger.datasets.reading import bad_line, present, read_rows, require_folder
from musictagger.datasets.splitting import shuffled
from musictagger.errors import BadRequestError, printable

NAME = "gtzan"
SOURCE = "Tzanetakis and Cook, Musical Genre Classification of Audio Signals, IEEE TSAP 2002"
LICENCE = "none stated; for research"

GENRES = ("blues", "classical", "country", "disco", "hiphop", "jazz", "metal", "pop", "reggae", "rock")
FOLDS = 10
EXCERPTS = 1_000
EXCERPT_S = 30.0
FILTERED_COUNTS = (443, 197, 290)
BROKEN = "jazz.00054"
"""Not a WAV file, despite its name, in a widely used copy; the original .au is intact."""

_SUFFIXES = (".wav", ".au", ".mp3", ".flac")
_NAME = re.compile(r"([a-z]+)\.(\d{5})")
_FOLDERS = ("", "genres", "genres_original", "Data/genres_original")


def read(
    folder: Path,
    *,
    split: Literal["folds", "filtered"] = "folds",
    fold: int = 0,
    seed: int = 0,
    lists: Path | None = None,
) -> Dataset:
    """The excerpts, split for 10-fold cross-validation or by the fault-filtered lists.

    Folds are stratified and drawn by `seed`; fold number `fold` (0 to 9) is test, the next one valid, the rest train.
    The lists gtzan_train_filtered.txt, gtzan_valid_filtered.txt and gtzan_test_filtered.txt are searched for in
    `lists`, or else beside the data. Raises BadRequestError for excerpts or lists that are missing or not in this
    format.
    """
    root = absolute(folder)
    files = _find(root)
    base = next(iter(files.values())).parent.parent
    if split == "folds":
        splits, notes = _folds(list(files), fold, seed)
    else:
        splits, notes = _filtered(_list_folder([absolute(lists)] if lists else [root, base, root.parent]))
    suffix = next(iter(files.values())).suffix
    missing = tuple(base / _genre(name) / f"{name}{suffix}" for name in splits if name not in files)
    broken = [name for name in (BROKEN,) if name in splits and name in files and not _is_wav(files[name])]
    notes += [f"{name} is left out: the file is not audio, as in every copy of this kind" for name in broken]
    examples = tuple(
        Example(path, (_genre(name),), splits[name], None, EXCERPT_S)
        for name, path in files.items()
        if name in splits and name not in broken
    )
    genres = tuple(genre for genre in GENRES if any(example.tags == (genre,) for example in examples))
    return Dataset(NAME, "genre", genres, examples, missing, tuple(notes), dict.fromkeys(genres, "genre"))


def _genre(name: str) -> str:
    return name.partition(".")[0]


def _find(root: Path) -> dict[str, Path]:
    """The excerpts by name (`blues.00000`), sorted. Raises BadRequestError where there are none."""
    require_folder(root)
    for name in _FOLDERS:
        found = {
            path.stem: path
            for genre in GENRES
            for path in sorted((root / name / genre).glob(f"{genre}.*"))
            if path.suffix.lower() in _SUFFIXES and _NAME.fullmatch(path.stem) and present(path)
        }
        if found:
            return found
    raise BadRequestError(f"{printable(root)}: has no GTZAN excerpts, such as genres/blues/blues.00000.wav")


def _is_wav(path: Path) -> bool:
    """Return whether a .wav file begins like one; other files are not checked."""
    if path.suffix.lower() != ".wav":
        return True
    with path.open("rb") as file:
        return file.read(4) == b"RIFF"


def _folds(names: Sequence[str], fold: int, seed: int) -> tuple[dict[str, Split], list[str]]:
    if not 0 <= fold < FOLDS:
        raise BadRequestError(f"gtzan: no fold {fold}; there are 0 to {FOLDS - 1}")
    splits: dict[str, Split] = {}
    for genre in GENRES:
        for index, name in enumerate(shuffled((name for name in names if _genre(name) == genre), seed)):
            offset = (index - fold) % FOLDS
            splits[name] = "test" if offset == 0 else "valid" if offset == 1 else "train"
    notes = [
        f"fold {fold} of {FOLDS} by seed {seed} is test, the next one valid; artists, unknown here, are in several"
    ]
    if len(names) != EXCERPTS:
        notes.append(f"{len(names):,} excerpts were found; the whole set has {EXCERPTS:,}")
    return splits, notes


def _list_folder(folders: Sequence[Path]) -> Path:
    for folder in folders:
        if all(present(folder / _list_name(split)) for split in SPLITS):
            return folder
    looked = ", ".join(printable(folder) for folder in dict.fromkeys(folders))
    raise BadRequestError(
        f"gtzan: {', '.join(map(_list_name, SPLITS))} are not all in {looked}; give their folder with lists="
    )


def _list_name(split: Split) -> str:
    return f"gtzan_{split}_filtered.txt"


def _filtered(folder: Path) -> tuple[dict[str, Split], list[str]]:
    splits: dict[str, Split] = {}
    for split in SPLITS:
        path = folder / _list_name(split)
        for line, (entry, *_) in read_rows(path, delimiter="\t", quoted=False, open_end=True):
            # Lines are `blues/blues.00029.wav`, whatever the suffix of the files.
            name = PurePosixPath(entry.strip()).stem
            if not _NAME.fullmatch(name) or _genre(name) not in GENRES:
                bad_line(path, line, f"{printable(entry)!r} is not an excerpt; expected blues/blues.00029.wav")
            if splits.setdefault(name, split) != split:
                bad_line(path, line, f"{name} is in the {splits[name]} list as well")
    found = split_sizes(splits.values())
    notes = ["the fault-filtered split (Kereliuk, Sturm and Larsen 2015)"]
    if found != FILTERED_COUNTS:
        notes.append(f"the lists name {slashed(found)} excerpts; the usual ones {slashed(FILTERED_COUNTS)}")
    return splits, notes
