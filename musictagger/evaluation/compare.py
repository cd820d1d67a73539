"""Models side by side on the same tracks and tags: plain values, nothing is printed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from musictagger.config import Settings, frame_rule
from musictagger.datasets.base import Dataset
from musictagger.errors import BadRequestError, MusictaggerError
from musictagger.evaluation.bootstrap import Intervals, Statistic, bootstrap, mean_defined, mean_of_rows
from musictagger.evaluation.checks import DoubleArray, Truth
from musictagger.evaluation.labelled import LabelledScores, SplitOrAll, examples_of, scored_tracks
from musictagger.evaluation.matching import Matching, match_tags
from musictagger.evaluation.metrics import (
    accuracy,
    class_scores,
    confusion_statistic,
    jaccard_per_track,
    predict_genres,
    ranking_statistic,
    recall_per_track,
)
from musictagger.evaluation.overlap import count_overlap
from musictagger.evaluation.results import RECALL_AT, Json
from musictagger.evaluation.scoring import TrackScores, score_tracks
from musictagger.evaluation.speed import measure_speed
from musictagger.models.inference import Predictor
from musictagger.models.weights import Model
from musictagger.pipeline.pool import DEFAULT_TIMEOUT_S
from musictagger.progress import Progress
from musictagger.records import Aggregator, FloatArray
from musictagger.scores.genres import thresholds as card_thresholds

TAG_METRICS = ("auc", "average_precision", *(f"recall@{k}" for k in RECALL_AT), "jaccard")
GENRE_METRICS = ("accuracy", "f1", "auc", "frame_accuracy")


@dataclass(frozen=True)
class Contender:
    """A loaded model and the weights file it came from."""

    model: Model
    weights: Path


def compare(
    contenders: Sequence[Contender],
    dataset: Dataset,
    split: SplitOrAll = "test",
    *,
    device: str = "auto",
    batch_frames: int | None = None,
    trim_edges_s: float = 5.0,
    frames: int | None = None,
    aggregator: Aggregator = "mean",
    workers: int | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    resamples: int = 1000,
    seed: int = 0,
    speed_rounds: int = 5,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Json:
    """Figures of at least two models on the tracks that all of them could score and the tags that all of them have.

    `trim_edges_s` and `frames` slice tracks as the settings of these names do.

    A FIGURE is {"value": x, "low": x, "high": x} (95 % bootstrap interval over tracks), each null where undefined.

    {"dataset": "mtat", "split": "test", "task": "tags" or "genre", "device": "cpu",
     "tracks": 123,                      tracks in the comparison
     "left_out": {"PATH": "why", ...},   tracks of the split that are not
     "tags": ["Rock", ...],              names as the first model has them
     "only_some": ["polka", ...],        tags of the dataset that not every model has
     "resamples": 1000, "seed": 0,       of the bootstrap
     "metrics": ["auc", ...],            the keys of "figures", best known first; higher is better in all of them
     "models": [
       {"name": "musicnn-msd", "weights": "PATH", "backbone": "musicnn",
        "parameters": 787000, "file_bytes": 3200000,
        "figures": {"auc": FIGURE, ...},
        "difference": {"auc": FIGURE, ...},   this model minus the first, on the same resamples; null for the first
        "speed": {"frames_per_s": x, "realtime": x, "ratio": x, "ratio_low": x, "ratio_high": x},
        "heard_in_training": 0},              tracks of a split other than train that this model was trained on
       ...]}

    metrics: tags: auc, average_precision, recall@1, recall@3, recall@5, recall@10, jaccard (at the card's thresholds);
    genre: accuracy, f1, auc, frame_accuracy. "realtime" is seconds of audio per second, without decoding; "ratio" is
    how many times as fast as the first model (in seconds of audio), the median over rounds in which all models took
    turns, with its lowest and highest round; "speed" is null with `speed_rounds` 0.

    Raises BadRequestError for fewer than two models, no common tag or fewer than two common tracks, MusictaggerError
    once `stop` says True.
    """
    if len(contenders) < 2:
        raise BadRequestError(f"{len(contenders)} models: at least two are needed to compare")
    matchings = [match_tags(one.model.card, dataset) for one in contenders]
    common = common_tags(matchings, contenders, dataset)
    predictors = [Predictor(one.model, device, batch_frames) for one in contenders]
    paths = [example.path for example in examples_of(dataset, split)]
    track_scores = []
    for predictor in predictors:
        if progress is not None:
            progress.start(predictor.card.name, len(paths), "tracks")
        rule = frame_rule(predictor.card.front_end, Settings(trim_edges=trim_edges_s, frames=frames))
        track_scores.append(
            score_tracks(
                predictor, paths, rule=rule, workers=workers, timeout_s=timeout_s, progress=progress, stop=stop
            )
        )
        if track_scores[-1].interrupted:
            raise MusictaggerError("interrupted before all models had judged all tracks; there is nothing to compare")
    sides, left_out = _sides(contenders, dataset, split, common, track_scores, aggregator)
    values = [_statistic(side, dataset.task) for side in sides]
    tracks, digests = len(sides[0].truth), track_scores[0].digests
    found = [bootstrap(statistic, tracks, resamples=resamples, seed=seed) for statistic in values]
    apart = [bootstrap(_minus(each, values[0]), tracks, resamples=resamples, seed=seed) for each in values[1:]]
    metrics = GENRE_METRICS if dataset.task == "genre" else TAG_METRICS
    speeds = measure_speed(predictors, speed_rounds) if speed_rounds else [None] * len(predictors)
    differences = [None, *(_named(each, metrics) for each in apart)]
    return {
        "dataset": dataset.name,
        "split": split,
        "task": dataset.task,
        "device": str(predictors[0].device),
        "tracks": tracks,
        "left_out": left_out,
        "tags": [*common],
        "only_some": [word for word in dataset.tags if not any(word in words for words in common.values())],
        "metrics": [*metrics],
        "resamples": resamples,
        "seed": seed,
        "models": [
            _side_json(one, _named(each, metrics), difference, speed, count_overlap(one.model.card, split, digests))
            for one, each, difference, speed in zip(contenders, found, differences, speeds, strict=True)
        ],
    }


def common_tags(
    matchings: Sequence[Matching], contenders: Sequence[Contender], dataset: Dataset
) -> dict[str, tuple[str, ...]]:
    """The dataset's words behind each tag that every model has, by the first model's name of it.

    Two models have the same tag where the same words of the dataset mean it. Raises BadRequestError for no such tag,
    or a single genre.
    """
    others = [set(matching.tags.values()) for matching in matchings[1:]]
    common = {name: words for name, words in matchings[0].tags.items() if all(words in other for other in others)}
    if len(common) < (2 if dataset.task == "genre" else 1):
        models = ", ".join(one.model.card.name for one in contenders)
        raise BadRequestError(
            f"{models} have {len(common) or 'none'} of the tags of dataset {dataset.name} in common; "
            "compare models that know the same tags"
        )
    return common


@dataclass(frozen=True, eq=False)
class Side:
    """One model's scores of the common tracks [tracks, tags] and their frames, with what is true of the tracks."""

    names: tuple[str, ...]
    truth: Truth
    scores: FloatArray
    frame_scores: tuple[FloatArray, ...]
    thresholds: FloatArray


def _sides(
    contenders: Sequence[Contender],
    dataset: Dataset,
    split: SplitOrAll,
    common: Mapping[str, tuple[str, ...]],
    track_scores: Sequence[TrackScores],
    aggregator: Aggregator,
) -> tuple[list[Side], dict[str, str]]:
    """What each model says of the tracks that all have scores for, and why the others are not among them."""
    left_out: dict[str, str] = {}
    for one, each in zip(contenders, track_scores, strict=True):
        for path, reason in each.failures.items():
            left_out.setdefault(str(path), f"{one.model.card.name}: {reason}")
    examples = [example for example in examples_of(dataset, split) if str(example.path) not in left_out]
    if dataset.task == "genre":
        words = {word for group in common.values() for word in group}
        strange = [example for example in examples if not words.intersection(example.tags)]
        left_out |= {str(example.path): "its genre is not one that all models know" for example in strange}
        examples = [example for example in examples if words.intersection(example.tags)]
    if len(examples) < 2:
        raise BadRequestError(
            f"dataset {dataset.name}: {len(examples)} tracks of split {split} can be compared, at least 2 are needed"
        )
    sides = []
    for one, each in zip(contenders, track_scores, strict=True):
        card = one.model.card
        named = {group: name for name, group in match_tags(card, dataset).tags.items()}
        matching = Matching({named[group]: group for group in common.values()}, (), ())
        rows = scored_tracks(card, each, examples, matching, aggregator)
        sides.append(_side(rows, card_thresholds(card), tuple(common)))
    return sides, dict(sorted(left_out.items()))


def _side(rows: LabelledScores, limits: FloatArray, names: tuple[str, ...]) -> Side:
    return Side(names, rows.truth, rows.scores[:, rows.columns], rows.frame_scores, limits[rows.columns])


def _statistic(side: Side, task: str) -> Statistic:
    """[resamples, metrics] in the order of TAG_METRICS or GENRE_METRICS."""
    scores = side.scores.astype(np.float64)
    ranking = ranking_statistic(side.truth, scores)
    if task == "genre":
        return _genre_statistic(side, scores, ranking)
    rows = [recall_per_track(side.truth, scores, k) for k in RECALL_AT]
    rows.append(jaccard_per_track(side.truth, side.scores >= side.thresholds))
    return lambda counts: np.concatenate(
        [mean_defined(ranking(counts)), np.stack([mean_of_rows(row, counts) for row in rows], axis=1)], axis=1
    )


def _genre_statistic(side: Side, scores: DoubleArray, ranking: Statistic) -> Statistic:
    genre = side.truth.argmax(axis=1)
    songs = confusion_statistic(genre, predict_genres(scores, side.names), len(side.names))
    track = np.repeat(np.arange(len(genre)), [len(frames) for frames in side.frame_scores])
    said = predict_genres(np.concatenate(side.frame_scores), side.names)
    right = (said == genre[track]).astype(np.float64)

    def figures(counts: npt.NDArray[np.int32]) -> DoubleArray:
        matrices = songs(counts)
        columns = (
            accuracy(matrices),
            mean_defined(class_scores(matrices).f1),
            mean_defined(ranking(counts)[:, 0]),
            mean_of_rows(right, counts[:, track]),
        )
        return np.stack(columns, axis=1)

    return figures


def _minus(one: Statistic, other: Statistic) -> Statistic:
    return lambda counts: one(counts) - other(counts)


def _named(found: Intervals, metrics: Sequence[str]) -> Json:
    parts = found._asdict().items()
    return {
        name: {part: None if np.isnan(values[column]) else float(values[column]) for part, values in parts}
        for column, name in enumerate(metrics)
    }


def _side_json(one: Contender, figures: Json, difference: Json | None, speed: Json | None, heard: int) -> Json:
    return {
        "name": one.model.card.name,
        "weights": str(one.weights),
        "backbone": one.model.card.backbone,
        "parameters": sum(parameter.numel() for parameter in one.model.backbone.parameters()),
        "file_bytes": one.weights.stat().st_size,
        "figures": figures,
        "difference": difference,
        "speed": speed,
        "heard_in_training": heard,
    }
