"""All metrics of a model on labelled tracks, with their intervals."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from musictagger.evaluation.bootstrap import (
    Counts,
    Interval,
    Intervals,
    Resampling,
    Statistic,
    bootstrap,
    mean_defined,
    mean_of_rows,
    once,
)
from musictagger.evaluation.checks import DoubleArray, Indices, validate_tags
from musictagger.evaluation.metrics import (
    accuracy,
    class_scores,
    confusion_statistic,
    jaccard_per_track,
    ndcg_per_track,
    one_hot,
    predict_genres,
    ranking_statistic,
    recall_per_track,
    tag_confusion,
)
from musictagger.records import FloatArray

RECALL_AT = (1, 3, 5, 10)
NDCG_AT = (50,)
"""Both as in table I of Wang et al. 2019."""


@dataclass(frozen=True)
class PerTag:
    """A metric of each tag, and its mean over the tags for which it is defined."""

    macro: Interval
    per_tag: Mapping[str, Interval]

    @classmethod
    def of(cls, found: Intervals, row: int, names: Sequence[str]) -> PerTag:
        """From a row of [rows, 1 + tags], with the mean in front."""
        return cls(found.at((row, 0)), {name: found.at((row, column)) for column, name in enumerate(names, 1)})


@dataclass(frozen=True)
class TagMetrics:
    """All metrics of a tagging model."""

    tracks: int
    tracks_without_tags: int
    resamples: int
    seed: int
    auc: PerTag
    average_precision: PerTag
    per_track: Mapping[str, Interval]
    """Means over tracks: recall@k, ndcg@k and jaccard."""
    left_out: list[str]
    """Tags without a positive or without a negative."""
    confusion: Mapping[str, list[int]]
    """True positives, false positives, false negatives and true negatives of each tag at its threshold."""

    def to_json(self) -> dict[str, Any]:
        """The metrics as a JSON object; those of `per_track` are keys like the others."""
        document: dict[str, Any] = {}
        for name, value in dataclasses.asdict(self).items():
            document |= value if name == "per_track" else {name: value}
        return document


@dataclass(frozen=True)
class GenreLevel:
    """The metrics of a genre model over frames or over songs."""

    accuracy: Interval
    recall: PerTag
    precision: PerTag
    f1: PerTag
    auc: PerTag
    left_out: list[str]
    """Genres without a row."""
    confusion: list[list[int]]
    """A row for each true genre, with the number of predictions of each genre."""


@dataclass(frozen=True)
class GenreMetrics:
    """All metrics of a genre model, at frame level and at song level (Roy et al. 2020, III)."""

    tracks: int
    frames: int
    resamples: int
    seed: int
    genres: list[str]
    frame: GenreLevel
    song: GenreLevel


def tag_metrics(
    truth: npt.ArrayLike,
    scores: npt.ArrayLike,
    names: Sequence[str],
    thresholds: FloatArray | float,
    resampling: Resampling,
) -> TagMetrics:
    """All metrics of a tagging model, from `truth` and `scores` [tracks, tags].

    `thresholds` is one score for each tag, or one for all. Raises BadRequestError as `validate_tags` and `bootstrap`.
    """
    flags, checked = validate_tags(truth, scores, names)
    predicted = checked >= thresholds
    rows = {f"recall@{k}": recall_per_track(flags, checked, k) for k in RECALL_AT}
    rows |= {f"ndcg@{k}": ndcg_per_track(flags, checked, k) for k in NDCG_AT}
    rows["jaccard"] = jaccard_per_track(flags, predicted)
    ranking = bootstrap(_with_macro(ranking_statistic(flags, checked)), len(flags), resampling)
    means = bootstrap(row_means(list(rows.values())), len(flags), resampling)
    return TagMetrics(
        tracks=len(flags),
        tracks_without_tags=int((~flags.any(axis=1)).sum()),
        resamples=resampling.resamples,
        seed=resampling.seed,
        auc=PerTag.of(ranking, 0, names),
        average_precision=PerTag.of(ranking, 1, names),
        per_track=means.named(rows),
        left_out=_undefined(ranking, 0, names),
        confusion=dict(zip(names, tag_confusion(flags, predicted).tolist(), strict=True)),
    )


def genre_metrics(
    truth: Indices,
    scores: npt.NDArray[np.floating],
    frame_scores: Sequence[FloatArray],
    names: Sequence[str],
    resampling: Resampling,
) -> GenreMetrics:
    """All metrics of a genre model.

    `truth` [tracks] indexes `names`, `scores` are [tracks, genres], and `frame_scores` [frames, genres] of each track.
    Both levels resample whole tracks, since the frames of a track are not independent.
    """
    track = np.repeat(np.arange(len(truth)), [len(frames) for frames in frame_scores])
    return GenreMetrics(
        tracks=len(truth),
        frames=len(track),
        resamples=resampling.resamples,
        seed=resampling.seed,
        genres=list(names),
        frame=_genre_level(truth[track], np.concatenate(frame_scores), track, names, resampling),
        song=_genre_level(truth, scores, np.arange(len(truth)), names, resampling),
    )


def genre_statistic(
    truth: Indices, scores: npt.NDArray[np.floating], track: Indices, names: Sequence[str]
) -> Statistic:
    """A statistic of accuracy, recall, precision, F1 and AUC, [resamples, 5, 1 + genres], the mean over genres first.

    From `truth` [rows] and `scores` [rows, genres], where `track` [rows] is the track of each row.
    """
    matrices = confusion_statistic(truth, predict_genres(scores, names), len(names))
    ranking = _with_macro(ranking_statistic(one_hot(truth, len(names)), scores.astype(np.float64)))

    def metrics(counts: Counts) -> DoubleArray:
        rows = counts[:, track]
        matrix = matrices(rows)
        each = np.stack(class_scores(matrix), axis=1)
        overall = np.concatenate([accuracy(matrix)[:, None], np.full((len(counts), len(names)), np.nan)], axis=1)
        return np.concatenate([overall[:, None], _macro_first(each), ranking(rows)[:, :1]], axis=1)

    return metrics


def _genre_level(
    truth: Indices, scores: npt.NDArray[np.floating], track: Indices, names: Sequence[str], resampling: Resampling
) -> GenreLevel:
    found = bootstrap(genre_statistic(truth, scores, track, names), int(track[-1]) + 1, resampling)
    confusion = confusion_statistic(truth, predict_genres(scores, names), len(names))(once(len(truth)))[0]
    return GenreLevel(
        accuracy=found.at((0, 0)),
        recall=PerTag.of(found, 1, names),
        precision=PerTag.of(found, 2, names),
        f1=PerTag.of(found, 3, names),
        auc=PerTag.of(found, 4, names),
        left_out=_undefined(found, 1, names),
        confusion=confusion.astype(int).tolist(),
    )


def _undefined(found: Intervals, row: int, names: Sequence[str]) -> list[str]:
    return [name for name, value in zip(names, found.value[row, 1:], strict=True) if np.isnan(value)]


def _macro_first(each: DoubleArray) -> DoubleArray:
    """[..., tags] -> [..., 1 + tags], with their mean in front."""
    return np.concatenate([mean_defined(each)[..., None], each], axis=-1)


def _with_macro(statistic: Statistic) -> Statistic:
    return lambda counts: _macro_first(statistic(counts))


def row_means(columns: Sequence[DoubleArray]) -> Statistic:
    """A statistic of the means of `columns`, each [rows], in each sample: [resamples, columns]."""
    return lambda counts: np.stack([mean_of_rows(values, counts) for values in columns], axis=1)
