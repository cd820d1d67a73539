"""Comparison of models on the same tracks and tags."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from musictagger.config import Settings
from musictagger.datasets.base import Dataset, Example
from musictagger.errors import BadRequestError, MusictaggerError
from musictagger.evaluation.bootstrap import (
    DEFAULT_RESAMPLING,
    Interval,
    Resampling,
    Statistic,
    bootstrap,
    mean_defined,
    mean_of_rows,
)
from musictagger.evaluation.matching import (
    LabelledScores,
    Matching,
    SplitOrAll,
    examples_of,
    label_scores,
    least_tags,
    match_tags,
)
from musictagger.evaluation.metrics import jaccard_per_track, predict_genres, ranking_statistic, recall_per_track
from musictagger.evaluation.overlap import count_overlap
from musictagger.evaluation.results import RECALL_AT, genre_statistic, row_means
from musictagger.evaluation.scoring import TrackScores, score_tracks
from musictagger.evaluation.speed import Speed, measure_speed
from musictagger.models.card import Task
from musictagger.models.inference import Predictor
from musictagger.models.weights import Model
from musictagger.progress import SILENT, Progress
from musictagger.records import Aggregator

TAG_METRICS = ("auc", "average_precision", *(f"recall@{k}" for k in RECALL_AT), "jaccard")
GENRE_METRICS = ("accuracy", "f1", "auc", "frame_accuracy")
"""The best-known first; higher is better in all of them."""


@dataclass(frozen=True)
class Contender:
    """A loaded model and the weights file it came from."""

    model: Model
    weights: Path


@dataclass(frozen=True)
class ModelResult:
    """One model of a comparison."""

    name: str
    weights: str
    backbone: str
    parameters: int
    file_bytes: int
    metrics: Mapping[str, Interval]
    difference: Mapping[str, Interval] | None
    """This model minus the first one, on the same resamples; None for the first one."""
    speed: Speed | None
    """Inference alone, without decoding."""
    overlap: int
    """Tracks of a split other than train that this model was trained on."""

    def to_json(self) -> dict[str, Any]:
        """The result as `compare --json` shows it (docs/json.md)."""
        keys = {"metrics": "figures", "overlap": "heard_in_training"}
        return {keys.get(name, name): value for name, value in dataclasses.asdict(self).items()}


@dataclass(frozen=True)
class Comparison:
    """The metrics of several models on the tracks that all of them could score and the tags that all of them have."""

    dataset: str
    split: SplitOrAll
    task: Task
    device: str
    tracks: int
    left_out: Mapping[str, str]
    """The reason for each track of the split that is not compared, by path."""
    tags: list[str]
    """Named as in the first model."""
    only_some: list[str]
    """Tags of the dataset that not every model has."""
    metrics: list[str]
    resamples: int
    seed: int
    models: list[ModelResult]

    def to_json(self) -> dict[str, Any]:
        """The comparison as `compare --json` shows it (docs/json.md)."""
        return dataclasses.asdict(self) | {"models": [model.to_json() for model in self.models]}


def compare(
    contenders: Sequence[Contender],
    dataset: Dataset,
    split: SplitOrAll = "test",
    settings: Settings | None = None,
    *,
    resampling: Resampling = DEFAULT_RESAMPLING,
    speed_rounds: int = 5,
    progress: Progress = SILENT,
) -> Comparison:
    """Compare at least two models. With `speed_rounds` 0 their speed is not measured.

    Raises BadRequestError for fewer than two models, no common tag or fewer than two common tracks, and
    MusictaggerError when `progress` is stopping.
    """
    if len(contenders) < 2:
        raise BadRequestError(f"{len(contenders)} models: at least two are needed to compare")
    settings = settings or Settings()
    common = common_tags(contenders, dataset)
    predictors = [Predictor(one.model, settings.device, settings.batch_size) for one in contenders]
    track_scores = _score_all(predictors, dataset, split, settings, progress)
    examples, left_out = _common_examples(contenders, track_scores, dataset, split, common)
    statistics = [
        _statistic(_labelled(one.model, scores, examples, dataset, common, settings.aggregate), dataset.task)
        for one, scores in zip(contenders, track_scores, strict=True)
    ]
    names = GENRE_METRICS if dataset.task == "genre" else TAG_METRICS
    metrics, differences = (
        [bootstrap(each, len(examples), resampling).named(names) for each in group]
        for group in (statistics, [_minus(each, statistics[0]) for each in statistics[1:]])
    )
    speeds = measure_speed(predictors, speed_rounds) if speed_rounds else [None] * len(predictors)
    return Comparison(
        dataset=dataset.name,
        split=split,
        task=dataset.task,
        device=str(predictors[0].device),
        tracks=len(examples),
        left_out=left_out,
        tags=[*common],
        only_some=[word for word in dataset.tags if not any(word in words for words in common.values())],
        metrics=[*names],
        resamples=resampling.resamples,
        seed=resampling.seed,
        models=[
            ModelResult(
                name=one.model.card.name,
                weights=str(one.weights),
                backbone=one.model.card.backbone,
                parameters=sum(parameter.numel() for parameter in one.model.backbone.parameters()),
                file_bytes=one.weights.stat().st_size,
                metrics=values,
                difference=difference,
                speed=speed,
                overlap=count_overlap(one.model.card, split, track_scores[0].digests),
            )
            for one, values, difference, speed in zip(contenders, metrics, [None, *differences], speeds, strict=True)
        ],
    )


def common_tags(contenders: Sequence[Contender], dataset: Dataset) -> dict[str, tuple[str, ...]]:
    """The dataset's words for each tag that every model has, by the first model's name of the tag.

    A tag is common where the same words of the dataset match it. Raises BadRequestError for no such tag, or a single
    genre.
    """
    first, *others = (match_tags(one.model.card, dataset).tags for one in contenders)
    common = {name: words for name, words in first.items() if all(words in other.values() for other in others)}
    if len(common) < least_tags(dataset):
        models = ", ".join(one.model.card.name for one in contenders)
        raise BadRequestError(
            f"{models} have {len(common) or 'none'} of the tags of dataset {dataset.name} in common; "
            "compare models that know the same tags"
        )
    return common


def _score_all(
    predictors: Sequence[Predictor], dataset: Dataset, split: SplitOrAll, settings: Settings, progress: Progress
) -> list[TrackScores]:
    paths = [example.path for example in examples_of(dataset, split)]
    found = []
    for predictor in predictors:
        progress.start(predictor.card.name, len(paths), "tracks")
        found.append(score_tracks(predictor, paths, settings, progress))
        if found[-1].interrupted:
            raise MusictaggerError("interrupted before all models had scored all tracks; there is nothing to compare")
    return found


def _common_examples(
    contenders: Sequence[Contender],
    track_scores: Sequence[TrackScores],
    dataset: Dataset,
    split: SplitOrAll,
    common: Mapping[str, tuple[str, ...]],
) -> tuple[list[Example], dict[str, str]]:
    """The examples that all models have scores for, and the reason for each of the others by path."""
    left_out: dict[str, str] = {}
    for one, scores in zip(contenders, track_scores, strict=True):
        for path, reason in scores.failures.items():
            left_out.setdefault(str(path), f"{one.model.card.name}: {reason}")
    words = {word for group in common.values() for word in group}
    examples = []
    for example in examples_of(dataset, split):
        if str(example.path) in left_out:
            continue
        if dataset.task == "genre" and not words.intersection(example.tags):
            left_out[str(example.path)] = "its genre is not one that all models know"
            continue
        examples.append(example)
    if len(examples) < 2:
        raise BadRequestError(
            f"dataset {dataset.name}: {len(examples)} tracks of split {split} can be compared, at least 2 are needed"
        )
    return examples, dict(sorted(left_out.items()))


def _labelled(
    model: Model,
    track_scores: TrackScores,
    examples: Sequence[Example],
    dataset: Dataset,
    common: Mapping[str, tuple[str, ...]],
    aggregator: Aggregator,
) -> LabelledScores:
    """The scores of one model, with the columns in the order of the common tags and under their names."""
    named = {words: name for name, words in match_tags(model.card, dataset).tags.items()}
    matching = Matching({named[words]: words for words in common.values()}, (), ())
    return dataclasses.replace(
        label_scores(model.card, track_scores, examples, matching, aggregator), names=tuple(common)
    )


def _statistic(rows: LabelledScores, task: Task) -> Statistic:
    """[resamples, metrics] in the order of TAG_METRICS or GENRE_METRICS."""
    scores = rows.matched_scores.astype(np.float64)
    if task == "genre":
        song = genre_statistic(rows.genres, scores, np.arange(len(scores)), rows.names)
        track = np.repeat(np.arange(len(scores)), [len(frames) for frames in rows.frame_scores])
        predicted = predict_genres(np.concatenate(rows.frame_scores), rows.names)
        frame = (predicted == rows.genres[track]).astype(np.float64)
        # Of the metrics of songs, accuracy, F1 and AUC.
        return lambda counts: np.column_stack([song(counts)[:, [0, 3, 4], 0], mean_of_rows(frame, counts[:, track])])
    ranking = ranking_statistic(rows.truth, scores)
    recalls = [recall_per_track(rows.truth, scores, k) for k in RECALL_AT]
    means = row_means([*recalls, jaccard_per_track(rows.truth, rows.matched_scores >= rows.thresholds)])
    return lambda counts: np.concatenate([mean_defined(ranking(counts)), means(counts)], axis=1)


def _minus(one: Statistic, other: Statistic) -> Statistic:
    return lambda counts: one(counts) - other(counts)
