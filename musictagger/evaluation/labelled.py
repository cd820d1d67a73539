"""Labelled tracks with a model's scores, ready to be measured or fitted on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from musictagger.datasets.base import Dataset, Example, Split
from musictagger.evaluation.matching import Matching, truth_of
from musictagger.evaluation.scoring import TrackScores
from musictagger.models.calibration import calibrated
from musictagger.models.card import Card
from musictagger.records import Aggregator, FloatArray
from musictagger.scores.aggregate import aggregate_tracks, merge_outputs

SplitOrAll = Split | Literal["all"]
"""The split that is looked at, or all of the dataset."""


def examples_of(dataset: Dataset, split: SplitOrAll) -> tuple[Example, ...]:
    """The examples of a split, or all; without those that nobody labelled."""
    examples = dataset.examples if split == "all" else dataset.split(split)
    return tuple(example for example in examples if example.tags or not dataset.partial)


@dataclass(frozen=True, eq=False)
class LabelledScores:
    """Labelled tracks with their scores; `raw` and `scores` hold all tags of the card, `columns` says which match."""

    names: tuple[str, ...]
    columns: npt.NDArray[np.intp]
    paths: tuple[Path, ...]
    truth: npt.NDArray[np.bool_]
    """bool [tracks, names]."""
    frame_scores: tuple[FloatArray, ...]
    """Of each track float32 [frames, names]."""
    raw: FloatArray
    """float32 [tracks, tags], merged and aggregated."""
    scores: FloatArray
    """float32 [tracks, tags], calibrated as well."""
    embeddings: FloatArray
    missing: tuple[Path, ...]
    """Tracks without scores."""

    def only(self, rows: npt.NDArray[np.intp]) -> LabelledScores:
        """Some of the tracks."""
        return dataclasses.replace(
            self,
            paths=tuple(self.paths[row] for row in rows),
            truth=self.truth[rows],
            frame_scores=tuple(self.frame_scores[row] for row in rows),
            raw=self.raw[rows],
            scores=self.scores[rows],
            embeddings=self.embeddings[rows],
        )


def scored_tracks(
    card: Card, track_scores: TrackScores, examples: Sequence[Example], matching: Matching, aggregator: Aggregator
) -> LabelledScores:
    """Bring examples together with what was judged, in the order of the examples."""
    position = {path: index for index, path in enumerate(track_scores.paths)}
    labelled = [example for example in examples if example.path in position]
    places = [position[example.path] for example in labelled]
    tags = [tag.name for tag in card.tags]
    names = tuple(matching.tags)
    columns = np.array([tags.index(name) for name in names], np.intp)
    merged = [merge_outputs(track_scores.frame_scores[place], card) for place in places]
    joined = np.concatenate(merged) if merged else np.zeros((0, len(tags)), np.float32)
    raw = aggregate_tracks(joined, [len(frames) for frames in merged], aggregator)
    return LabelledScores(
        names=names,
        columns=columns,
        paths=tuple(example.path for example in labelled),
        truth=truth_of(labelled, matching),
        frame_scores=tuple(frames[:, columns] for frames in merged),
        raw=raw,
        scores=calibrated(raw, card.curves, tags),
        embeddings=track_scores.embeddings[places],
        missing=tuple(example.path for example in examples if example.path not in position),
    )
