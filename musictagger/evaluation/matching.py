"""The tags that a model and a dataset have in common, and scored tracks with their ground truth."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from musictagger.datasets.base import Dataset, Example, Split, some
from musictagger.errors import BadRequestError
from musictagger.evaluation.checks import Indices, Truth
from musictagger.evaluation.scoring import TrackScores
from musictagger.models.calibration import calibrated
from musictagger.models.card import Card
from musictagger.models.vocabulary import meaning, word_key
from musictagger.records import Aggregator, FloatArray
from musictagger.scores.aggregate import aggregate_tracks, merge_outputs
from musictagger.scores.genres import thresholds

SplitOrAll = Split | Literal["all"]
"""A split of a dataset, or the whole dataset."""

_SHOWN = 8


@dataclass(frozen=True)
class Matching:
    """The model's tags with the dataset's tags of the same meaning, and the tags that only one of them has."""

    tags: Mapping[str, tuple[str, ...]]
    """By the name of the model's tag, in the card's order; each holds at least one tag of the dataset."""
    only_dataset: tuple[str, ...]
    only_model: tuple[str, ...]

    def describe(self) -> list[str]:
        """Lines of text: the tags that match, and those that do not."""
        lines = [f"{len(self.tags)} of the model's tags are in the dataset"]
        renamed = [
            f"{', '.join(words)} as {name}"
            for name, words in self.tags.items()
            if any(word_key(word) != word_key(name) for word in words)
        ]
        if renamed:
            lines.append(f"taken to mean the same: {some(renamed, _SHOWN)}")
        if self.only_dataset:
            lines.append(f"not known to the model, so not measured: {some(self.only_dataset, _SHOWN)}")
        if self.only_model:
            lines.append(f"not in the dataset, so not measured: {some(self.only_model, _SHOWN)}")
        return lines


def match_tags(card: Card, dataset: Dataset, *, require: bool = True) -> Matching:
    """Match by the network's outputs, then by meaning (`models.vocabulary`).

    With `require`, raises BadRequestError where no tag matches, or fewer than two genres of a genre dataset.
    """
    outputs = {output: tag.name for tag in card.tags for output in tag.outputs}
    meanings: dict[str, str] = {}
    for tag in card.tags:
        for word in (tag.name, *tag.outputs):
            meanings.setdefault(_key(word), tag.name)
    found: dict[str, list[str]] = {tag.name: [] for tag in card.tags}
    lacking = []
    for word in dataset.tags:
        name = outputs.get(word) or meanings.get(_key(word))
        found[name].append(word) if name else lacking.append(word)
    tags = {name: tuple(words) for name, words in found.items() if words}
    matching = Matching(tags, tuple(lacking), tuple(name for name, words in found.items() if not words))
    if require:
        _require_enough(matching, card, dataset)
    return matching


def _require_enough(matching: Matching, card: Card, dataset: Dataset) -> None:
    if len(matching.tags) >= least_tags(dataset):
        return
    common = f"only {next(iter(matching.tags))!r}" if matching.tags else "no tag"
    raise BadRequestError(
        f"model {card.name} and dataset {dataset.name} have {common} in common: the model knows "
        f"{some((tag.name for tag in card.tags), _SHOWN)}; the dataset has {some(dataset.tags, _SHOWN)}"
    )


def least_tags(dataset: Dataset) -> int:
    """The number of common tags that a measurement needs: a single genre is always right."""
    return 2 if dataset.task == "genre" else 1


def truth_of(examples: Sequence[Example], matching: Matching) -> Truth:
    """The ground truth, bool [examples, tags]: whether an example has any of the words for a matched tag."""
    columns = {word: column for column, words in enumerate(matching.tags.values()) for word in words}
    truth = np.zeros((len(examples), len(matching.tags)), np.bool_)
    for row, example in enumerate(examples):
        truth[row, [columns[word] for word in example.tags if word in columns]] = True
    return truth


def _key(word: str) -> str:
    """Equal for words of the same meaning, and for spellings of a word that is not in the vocabulary."""
    return word_key(meaning(word)[0])


def examples_of(dataset: Dataset, split: SplitOrAll) -> tuple[Example, ...]:
    """The examples of a split, or of all, without unlabelled ones."""
    examples = dataset.examples if split == "all" else dataset.split(split)
    return tuple(example for example in examples if example.tags or not dataset.partial)


@dataclass(frozen=True, eq=False)
class LabelledScores:
    """Labelled tracks with their scores. `raw` and `scores` have the card's tags, `columns` are those of `names`."""

    names: tuple[str, ...]
    """The model's tags that match, in the card's order."""
    columns: Indices
    thresholds: FloatArray
    """float32 [names]."""
    paths: tuple[Path, ...]
    truth: Truth
    """bool [tracks, names]."""
    frame_scores: tuple[FloatArray, ...]
    """For each track float32 [frames, names]."""
    raw: FloatArray
    """float32 [tracks, tags], merged and aggregated."""
    scores: FloatArray
    """float32 [tracks, tags], calibrated as well."""
    embeddings: FloatArray
    """float32 [tracks, dim]."""
    missing: tuple[Path, ...]
    """Tracks without scores."""

    @property
    def genres(self) -> Indices:
        """The column of each track's genre, [tracks], where each track has exactly one."""
        genres: Indices = self.truth.argmax(axis=1)
        return genres

    @property
    def matched_raw(self) -> FloatArray:
        """float32 [tracks, names], merged and aggregated."""
        return self.raw[:, self.columns]

    @property
    def matched_scores(self) -> FloatArray:
        """float32 [tracks, names], calibrated as well."""
        return self.scores[:, self.columns]

    def only(self, rows: npt.NDArray[np.intp]) -> LabelledScores:
        """A selection of the tracks."""
        return dataclasses.replace(
            self,
            paths=tuple(self.paths[row] for row in rows),
            truth=self.truth[rows],
            frame_scores=tuple(self.frame_scores[row] for row in rows),
            raw=self.raw[rows],
            scores=self.scores[rows],
            embeddings=self.embeddings[rows],
        )


def label_scores(
    card: Card, track_scores: TrackScores, examples: Sequence[Example], matching: Matching, aggregator: Aggregator
) -> LabelledScores:
    """Join examples with their scores, in the order of the examples."""
    position = {path: index for index, path in enumerate(track_scores.paths)}
    labelled = [example for example in examples if example.path in position]
    rows = [position[example.path] for example in labelled]
    tags = [tag.name for tag in card.tags]
    names = tuple(matching.tags)
    columns = np.array([tags.index(name) for name in names], np.intp)
    merged = [merge_outputs(track_scores.frame_scores[row], card) for row in rows]
    joined = np.concatenate(merged) if merged else np.zeros((0, len(tags)), np.float32)
    raw = aggregate_tracks(joined, [len(frames) for frames in merged], aggregator)
    return LabelledScores(
        names=names,
        columns=columns,
        thresholds=thresholds(card)[columns],
        paths=tuple(example.path for example in labelled),
        truth=truth_of(labelled, matching),
        frame_scores=tuple(frames[:, columns] for frames in merged),
        raw=raw,
        scores=calibrated(raw, card.curves, tags),
        embeddings=track_scores.embeddings[rows],
        missing=tuple(example.path for example in examples if example.path not in position),
    )
