"""MagnaTagATune: 25,863 clips of 29 s with the tags that players of a game agreed on.

annotations_final.csv    clip_id, 188 columns of 0 and 1, mp3_path; tab separated, all quoted
clip_info_final.csv      clip_id, artist, segmentStart, segmentEnd, ...; used if it exists
0/ .. f/                 the mp3s, here or in mp3/
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

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
from musictagger.paths import read_toml

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


def read(folder: Path, *, vocabulary: Vocabulary = "top50", split: SplitRule = "folders", seed: int = 0) -> Dataset:
    """The clips, with the usual 50 tags or the 50 most frequent after merging synonyms (mtat.toml).

    `split`: folders 0-b, c and d-f, without the clips that have none of the 50 (Wang et al. 2019), or all clips at
    random by `seed` in the proportions of Panwar et al. 2017, where clips of one song fall into several splits.
    Raises BadRequestError for files that are missing or not in this format.
    """
    root = absolute(folder)
    table = find_file(root, ("annotations_final.csv", "annotations/annotations_final.csv"), "MagnaTagATune's table")
    columns, clips = _read_annotations(table)
    tags, tag_of = _vocabulary(table, vocabulary, columns, clips.values())
    info, notes = _read_info(table.with_name("clip_info_final.csv"))
    folders = (root, root / "mp3", root / "mp3s", root / "audio")
    audio = find_root(folders, [clip.path for clip in clips.values()]) or root
    found = {key: clip for key, clip in clips.items() if present(audio / clip.path)}
    missing = sorted(audio / clip.path for key, clip in clips.items() if key not in found)
    splits = _by_folder(table, found) if split == "folders" else _at_random(found, seed)
    examples = []
    for key, clip in sorted(found.items(), key=lambda item: str(item[1].path)):
        tagged = {tag_of[column] for column in clip.tags if column in tag_of}
        if tagged or split == "random":
            known = tuple(tag for tag in tags if tag in tagged)
            examples.append(Example(audio / clip.path, known, splits[key], *info.get(key, (None, None))))
    notes += _notes(split, seed, vocabulary, len(clips), len(found) - len(examples), examples)
    return Dataset(NAME, "tags", tags, tuple(examples), tuple(missing), tuple(notes))


def _read_annotations(path: Path) -> tuple[list[str], dict[str, Example]]:
    """The tags of the columns, and the clips by number, with relative paths and these tags."""
    rows = read_rows(path, delimiter="\t")
    _, header = next(rows, (0, []))
    if header[:1] != ["clip_id"] or header[-1:] != ["mp3_path"]:
        raise BadRequestError(f"{printable(path)}: does not begin with clip_id and end with mp3_path, tab separated")
    columns = header[1:-1]
    clips: dict[str, Example] = {}
    seen: dict[str, int] = {}
    for line, row in rows:
        if unknown := set(row[1:-1]) - {"0", "1"}:
            bad_line(path, line, f"has {min(unknown)!r} where only 0 and 1 are allowed")
        if (before := seen.setdefault(row[0], line)) != line:
            bad_line(path, line, f"clip {row[0]} was already in line {before}")
        tags = tuple(column for column, value in zip(columns, row[1:-1], strict=True) if value == "1")
        clips[row[0]] = Example(Path(row[-1]), tags, "train")
    if not clips:
        raise BadRequestError(f"{printable(path)}: has no clips")
    return columns, clips


def _vocabulary(
    path: Path, vocabulary: Vocabulary, columns: Sequence[str], clips: Iterable[Example]
) -> tuple[tuple[str, ...], dict[str, str]]:
    """The tags in order, and the tag of each column that has one."""
    data = read_toml(Path(__file__).with_name("mtat.toml"))
    if vocabulary == "top50":
        if absent := [tag for tag in data["top50"] if tag not in columns]:
            raise BadRequestError(f"{printable(path)}: has no column for {', '.join(absent[:5])}")
        return tuple(data["top50"]), {tag: tag for tag in data["top50"]}
    synonyms = {synonym: tag for tag, merged in data["merged"].items() for synonym in merged}
    tag_of = {column: synonyms.get(column, column) for column in columns}
    counts = Counter(tag for clip in clips for tag in {tag_of[column] for column in clip.tags})
    order = {tag: index for index, tag in enumerate(dict.fromkeys(tag_of.values()))}
    tags = tuple(sorted(counts, key=lambda tag: (-counts[tag], order[tag]))[:TAGS])
    return tags, {column: tag for column, tag in tag_of.items() if tag in tags}


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


def _by_folder(path: Path, clips: Mapping[str, Example]) -> dict[str, Split]:
    splits: dict[str, Split] = {}
    for key, clip in clips.items():
        name = clip.path.parts[0]
        if len(name) != 1 or name not in "0123456789abcdef":
            raise BadRequestError(f"{printable(path)}: {printable(clip.path)} is not in one of the folders 0 to f")
        splits[key] = "train" if name <= "b" else "valid" if name == "c" else "test"
    return splits


def _at_random(clips: Iterable[str], seed: int) -> dict[str, Split]:
    keys = shuffled(clips, seed)
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
        notes.append("synonyms are merged as in mtat.toml")
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
