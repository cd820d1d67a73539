"""MagnaTagATune: 25,863 clips of 29 s with the tags that players of a game agreed on.

annotations_final.csv    clip_id, 188 columns of 0 and 1, mp3_path; tab separated, all quoted
clip_info_final.csv      clip_id, artist, segmentStart, segmentEnd, ...; used if it exists
0/ .. f/                 the mp3s, here or in mp3/
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from musictagger.audio.walk import absolute
from musictagger.datasets.base import Dataset, Example, Split, slashed, split_sizes
from musictagger.datasets.reading import (
    bad_line,
    column,
    find_file,
    find_root,
    number,
    present,
    read_rows,
)
from musictagger.datasets.splitting import shuffled
from musictagger.errors import BadRequestError, printable

NAME = "mtat"
SOURCE = "Law et al., Evaluation of Algorithms Using Games: The Case of Music Tagging, ISMIR 2009; mirg.city.ac.uk"
LICENCE = "audio by Magnatune, CC BY-NC-SA 1.0 (USA)"

TAGS = 50
CLIPS = 25_863
"""Rows of the real annotations; three of their mp3s have 0 bytes."""
FOLDER_COUNTS = (15_244, 1_529, 4_332)
"""Train, valid and test of Wang et al. 2019: those folders, top50, clips without any of the 50 left out."""
RANDOM_COUNTS = (19_773, 1_521, 4_566)
"""Of Panwar et al. 2017. They add up to all clips with a non-empty mp3, so clips without tags were included."""

Vocabulary = Literal["top50", "merged"]
SplitRule = Literal["folders", "random"]


@dataclass(frozen=True)
class _Clip:
    id: str
    name: str
    words: tuple[str, ...]


def read(folder: Path, *, vocabulary: Vocabulary = "top50", split: SplitRule = "folders", seed: int = 0) -> Dataset:
    """The clips, with the usual 50 words or the 50 most frequent after merging synonyms (mtat.toml).

    `split`: folders 0-b, c and d-f, without the clips that have none of the 50 (Wang et al. 2019), or all clips at
    random by `seed` in the proportions of Panwar et al. 2017, where clips of one song fall into several splits.
    Raises BadRequestError for files that are missing or not in this format.
    """
    root = absolute(folder)
    table = find_file(root, ("annotations_final.csv", "annotations/annotations_final.csv"), "MagnaTagATune's table")
    words, clips = _read_annotations(table)
    tags, tag_of = _vocabulary(table, vocabulary, words, clips)
    info, notes = _read_info(table.with_name("clip_info_final.csv"))
    audio = find_root((root, root / "mp3", root / "mp3s", root / "audio"), [Path(clip.name) for clip in clips]) or root
    there = [clip for clip in clips if present(audio / clip.name)]
    tagged = {clip.id: tuple(dict.fromkeys(tag_of[word] for word in clip.words if word in tag_of)) for clip in there}
    splits = _by_folder(table, there) if split == "folders" else _at_random(there, seed)
    kept = [clip for clip in there if split == "random" or tagged[clip.id]]
    order = {tag: index for index, tag in enumerate(tags)}
    examples = tuple(
        Example(
            audio / clip.name,
            tuple(sorted(tagged[clip.id], key=order.__getitem__)),
            splits[clip.id],
            *info.get(clip.id, (None, None)),
        )
        for clip in sorted(kept, key=lambda clip: clip.name)
    )
    missing = tuple(sorted(audio / clip.name for clip in clips if not present(audio / clip.name)))
    notes += _notes(split, seed, vocabulary, len(clips), len(there) - len(kept), examples)
    return Dataset(NAME, "tags", tags, examples, missing, tuple(notes))


def _read_annotations(path: Path) -> tuple[list[str], list[_Clip]]:
    """The words of the columns, and the clips."""
    rows = read_rows(path, delimiter="\t")
    _, header = next(rows, (0, []))
    if header[:1] != ["clip_id"] or header[-1:] != ["mp3_path"]:
        raise BadRequestError(f"{printable(path)}: does not begin with clip_id and end with mp3_path, tab separated")
    words = header[1:-1]
    clips: list[_Clip] = []
    seen: dict[str, int] = {}
    for line, row in rows:
        if unknown := set(row[1:-1]) - {"0", "1"}:
            bad_line(path, line, f"has {min(unknown)!r} where only 0 and 1 can be")
        if (before := seen.setdefault(row[0], line)) != line:
            bad_line(path, line, f"clip {row[0]} was in line {before} already")
        clips.append(
            _Clip(row[0], row[-1], tuple(word for word, on in zip(words, row[1:-1], strict=True) if on == "1"))
        )
    if not clips:
        raise BadRequestError(f"{printable(path)}: has no clips")
    return words, clips


def _vocabulary(
    path: Path, vocabulary: Vocabulary, words: Sequence[str], clips: Sequence[_Clip]
) -> tuple[tuple[str, ...], dict[str, str]]:
    """The tags in order, and the tag that each word stands for."""
    data = _word_lists()
    if vocabulary == "top50":
        if absent := [word for word in data["top50"] if word not in words]:
            raise BadRequestError(f"{printable(path)}: has no column for {', '.join(absent[:5])}")
        return tuple(data["top50"]), {word: word for word in data["top50"]}
    first = {synonym: tag for tag, synonyms in data["merged"].items() for synonym in synonyms}
    tag_of = {word: first.get(word, word) for word in words}
    counts = Counter(tag for clip in clips for tag in {tag_of[word] for word in clip.words})
    columns = {tag: index for index, tag in enumerate(dict.fromkeys(tag_of.values()))}
    tags = tuple(sorted(counts, key=lambda tag: (-counts[tag], columns[tag]))[:TAGS])
    return tags, {word: tag for word, tag in tag_of.items() if tag in tags}


def _word_lists() -> Mapping[str, Any]:
    with Path(__file__).with_name("mtat.toml").open("rb") as file:
        return tomllib.load(file)


def _read_info(path: Path) -> tuple[dict[str, tuple[str | None, float | None]], list[str]]:
    """Artist and length by clip, and a note where they are unknown."""
    if not path.is_file():
        return {}, [f"{path.name} is missing: artists and lengths are unknown"]
    rows = read_rows(path, delimiter="\t")
    _, header = next(rows, (0, []))
    names = ("clip_id", "artist", "segmentStart", "segmentEnd")
    clip, artist, start, end = (column(path, header, name) for name in names)
    found: dict[str, tuple[str | None, float | None]] = {}
    for line, row in rows:
        begins, ends = number(path, line, row[start]), number(path, line, row[end])
        length = None if begins is None or ends is None else max(0.0, ends - begins)
        found[row[clip]] = (row[artist] or None, length)
    return found, []


def _by_folder(path: Path, clips: Sequence[_Clip]) -> dict[str, Split]:
    splits: dict[str, Split] = {}
    for clip in clips:
        name = PurePosixPath(clip.name).parts[0]
        if len(name) != 1 or name not in "0123456789abcdef":
            raise BadRequestError(f"{printable(path)}: {printable(clip.name)} is in none of the folders 0 to f")
        splits[clip.id] = "train" if name <= "b" else "valid" if name == "c" else "test"
    return splits


def _at_random(clips: Sequence[_Clip], seed: int) -> dict[str, Split]:
    keys = shuffled((clip.id for clip in clips), seed)
    valid, test = (round(len(keys) * count / sum(RANDOM_COUNTS)) for count in RANDOM_COUNTS[1:])
    train = len(keys) - valid - test
    return {key: "train" if i < train else "valid" if i < train + valid else "test" for i, key in enumerate(keys)}


def _notes(
    split: SplitRule, seed: int, vocabulary: Vocabulary, clips: int, left_out: int, examples: Sequence[Example]
) -> list[str]:
    if split == "folders":
        notes = ["folders 0-b are train, c is valid, d-f are test"]
        notes += [f"{left_out:,} clips with none of the {TAGS} tags are left out"] if left_out else []
    else:
        notes = [f"all clips at random by seed {seed}: clips of one song and artist fall into several splits"]
    if vocabulary == "merged":
        notes.append("synonyms are merged as mtat.toml has them")
    if clips != CLIPS:
        return [*notes, f"the table has {clips:,} clips; the whole set has {CLIPS:,}"]
    if split == "folders" and vocabulary == "merged":
        return notes
    expected = RANDOM_COUNTS if split == "random" else FOLDER_COUNTS
    paper = "Panwar et al. 2017" if split == "random" else "Wang et al. 2019"
    found = split_sizes(example.split for example in examples)
    if found == expected:
        return [*notes, f"train / valid / test are as many as in {paper}"]
    return [*notes, f"train / valid / test are {slashed(found)}, but {slashed(expected)} in {paper}"]
