"""How good a model is on labelled tracks, by the way a scan scores them: what is measured is what users get."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from musictagger.audio.frames import FrameRule
from musictagger.models.card import Card, Task
from musictagger.models.inference import Predictor
from musictagger.pool import DEFAULT_TIMEOUT_S
from musictagger.tagging.aggregate import Aggregator
from musictagger.training.datasets.base import Dataset, Split
from musictagger.training.matching import Matching
from musictagger.training.options import TrainOptions
from musictagger.training.progress import Progress, Silent
from musictagger.training.report_data import Json

Floats = npt.NDArray[np.float32]
Part = Split | Literal["all"]
"""The split that is looked at, or all of the dataset."""


@dataclass(frozen=True, eq=False)
class Judged:
    """A model's word on tracks. `paths` are those with scores, in the order asked for; all others are in `failures`."""

    paths: tuple[Path, ...]
    frame_scores: tuple[Floats, ...]
    """For each of `paths` float32 [frames, outputs], at least one frame, rounded to float16 as the library stores them."""
    embeddings: Floats
    """float32 [tracks, dim], each the mean over the track's frames."""
    failures: Mapping[Path, str]
    """Tracks without scores and why: broken, too short, silent, not there."""
    audio_s: float
    """Length of the tracks that have scores, in seconds."""
    seconds: float
    interrupted: bool


@dataclass(frozen=True, eq=False)
class Evaluation:
    """How a model did on labelled tracks. Columns are the model's tags that the dataset knows, in the card's order."""

    model: str
    dataset: str
    split: Part
    task: Task
    """The dataset's: "genre" where each track has one of `names`."""
    matching: Matching
    names: tuple[str, ...]
    paths: tuple[Path, ...]
    """The tracks that count, in the dataset's order."""
    truth: npt.NDArray[np.bool_]
    """bool [tracks, names]."""
    scores: Floats
    """float32 [tracks, names] of tracks: merged, aggregated and calibrated."""
    raw_scores: Floats
    """float32 [tracks, names]: the same before calibration."""
    thresholds: Floats
    """float32 [names]."""
    embeddings: Floats
    """float32 [tracks, dim]."""
    figures: Json
    """See `evaluate_judged`."""
    judged: Judged


def score_tracks(
    predictor: Predictor,
    paths: Sequence[Path],
    *,
    rule: FrameRule | None = None,
    workers: int = 1,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Judged:
    """Scores of tracks by the scan's own path: worker processes, frames, batches of many tracks.

    `rule` says how tracks are sliced; None for what a scan does unless told otherwise. `progress` is advanced by
    tracks, within a stage that the caller has started. What befalls single files is in `failures`.
    """
    raise NotImplementedError


def fit_card(card: Card, judged: Judged, dataset: Dataset, options: TrainOptions) -> Card:
    """The card with thresholds and calibration fitted on `judged`, the tracks of the validation split."""
    raise NotImplementedError


def evaluate_model(
    predictor: Predictor,
    dataset: Dataset,
    split: Part = "test",
    *,
    rule: FrameRule | None = None,
    aggregator: Aggregator = "mean",
    workers: int = 1,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    resamples: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Evaluation:
    """Score the tracks of a split (`score_tracks`), then hold them against their labels (`evaluate_judged`)."""
    raise NotImplementedError


def evaluate_judged(
    card: Card,
    judged: Judged,
    dataset: Dataset,
    split: Part = "test",
    *,
    aggregator: Aggregator = "mean",
    resamples: int = 1000,
    seed: int = 0,
) -> Evaluation:
    """The figures of scored tracks. `figures` is JSON, each figure {"value", "low", "high"} or null where undefined:

    {"task": "tags", ...all of `report_data.tag_figures`},
    {"task": "genre", ...all of `report_data.genre_figures`,
     "tags": tag_figures of the same tracks, "written": {"right": n, "wrong": n, "none": n}}:
    "written" counts tracks by whether the first genre that a scan would write is theirs.

    Raises BadRequestError where nothing matches (no tag, no track).
    """
    raise NotImplementedError


def card_metrics(evaluation: Evaluation) -> Json:
    """The short figures that a card keeps: dataset, split, tracks, version, front end, and the figures over all tags."""
    raise NotImplementedError


def save_metrics(weights: Path, evaluation: Evaluation) -> str:
    """Put `card_metrics` into the card beside `weights`, under "DATASET/SPLIT", all or nothing.

    Gives a sentence for people: where it was written, or why not (the model is part of the program, or read-only).
    """
    raise NotImplementedError


_ = Silent
