"""How good scores are, held against the truth: numbers in, numbers out, no file and no model.

Sources: Wang et al. 2019 (V.D) for tags and genres, Roy et al. 2020 (III) for frame level and song level.

Every metric is written over `counts`, int32 [resamples, rows]: how often each row (a track, or a frame) is in each
sample. The plain figure is the metric at one sample that holds every row once; its bootstrap interval comes from the
same lines at resampled counts. A figure that is not defined (a tag with no positive) is NaN, never 0, and no mean
takes it in. Wrong input raises BadRequestError with the value that is wrong (`checks.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from musictagger.errors import BadRequestError
from musictagger.evaluation.bootstrap import Counts, Statistic, mean_defined, once, ratio
from musictagger.evaluation.checks import (
    DoubleArray,
    Indices,
    Truth,
    count_rows,
    validate_genres,
    validate_indices,
    validate_k,
    validate_predicted,
    validate_scores,
    validate_tags,
)
from musictagger.records import Aggregator
from musictagger.scores.aggregate import aggregate_tracks


@dataclass(frozen=True)
class TagScores:
    """A figure for each tag that has one, their mean, and the tags that have none."""

    macro: float
    """NaN where no tag has a figure."""
    per_tag: Mapping[str, float]
    left_out: tuple[str, ...]


class ClassScores(NamedTuple):
    """Recall, precision and F1, each float64 [..., genres]; NaN for a genre that no row is of."""

    recall: DoubleArray
    precision: DoubleArray
    f1: DoubleArray


# Tags: how well each tag sorts the tracks


def ranking_statistic(truth: Truth, scores: DoubleArray) -> Statistic:
    """AUC-ROC and average precision of each tag: a statistic giving [resamples, 2, tags], over [tracks, tags].

    AUC = P(score of a positive > score of a negative) + P(the two are equal) / 2 (Mann and Whitney 1947).
    AP = sum over the thresholds of (R_n - R_(n-1)) P_n, equal scores being one threshold.
    Both are NaN where a sample has no positive or no negative of the tag.
    """
    order, start, end = tied_ranges(np.ascontiguousarray(scores.T))
    sorted_truth = np.take_along_axis(truth.T, order, axis=1)
    tags = [_Ranked.of(*columns) for columns in zip(order, start, end, sorted_truth, strict=True)]
    return lambda counts: np.stack([tag.figures(counts) for tag in tags], axis=-1)


def auc_roc(truth: npt.ArrayLike, scores: npt.ArrayLike, names: Sequence[str]) -> TagScores:
    """AUC-ROC of each tag and their mean, from [tracks, tags]; see `ranking_statistic` and `validate_tags`."""
    checked = validate_tags(truth, scores, names)
    return _tag_scores(ranking_statistic(*checked)(once(len(checked[0])))[0, 0], names)


def average_precision(truth: npt.ArrayLike, scores: npt.ArrayLike, names: Sequence[str]) -> TagScores:
    """Average precision of each tag and their mean, from [tracks, tags]; see `ranking_statistic`, `validate_tags`.

    A tag that every track has is left out as one that none has: 1.0 would say nothing about the scores.
    """
    checked = validate_tags(truth, scores, names)
    return _tag_scores(ranking_statistic(*checked)(once(len(checked[0])))[0, 1], names)


def tied_ranges(values: DoubleArray) -> tuple[Indices, Indices, Indices]:
    """For each line of [lines, n]: the order from highest to lowest, and where each place's run of equals starts, ends.

    All are [lines, n] over places, not columns; `end` is the first place after the run.
    """
    order = np.argsort(-values, axis=1, kind="stable")
    ranked = np.take_along_axis(values, order, axis=1)
    first = np.ones(ranked.shape, np.bool_)
    first[:, 1:] = ranked[:, 1:] != ranked[:, :-1]
    last = np.ones(ranked.shape, np.bool_)
    last[:, :-1] = first[:, 1:]
    places = np.arange(ranked.shape[1])
    start = np.maximum.accumulate(np.where(first, places, 0), axis=1)
    end = np.minimum.accumulate(np.where(last, places + 1, len(places))[:, ::-1], axis=1)[:, ::-1]
    return order, start, end


@dataclass(frozen=True)
class _Ranked:
    """One tag's tracks from highest to lowest score, and where each positive's run of equals starts and ends."""

    order: Indices
    positives: Indices
    start: Indices
    end: Indices
    start_positive: Indices
    end_positive: Indices

    @classmethod
    def of(cls, order: Indices, start: Indices, end: Indices, truth: Truth) -> _Ranked:
        places = np.flatnonzero(truth)
        before = np.concatenate([[0], np.cumsum(truth)])
        start, end = start[places], end[places]
        return cls(order, places, start, end, before[start], before[end])

    def figures(self, counts: Counts) -> DoubleArray:
        """AUC and AP in each sample, [resamples, 2]."""
        ranked = counts[:, self.order]
        weights = ranked[:, self.positives]
        all_before, positives_before = _running(ranked), _running(weights)
        over, equal_or_over = all_before[:, self.start], all_before[:, self.end]
        true_over, true_equal_or_over = positives_before[:, self.start_positive], positives_before[:, self.end_positive]
        positive = positives_before[:, -1].astype(np.float64)
        negative = all_before[:, -1] - positive
        lost = (over - true_over) + (equal_or_over - true_equal_or_over)
        auc = 1 - ratio((weights * lost.astype(np.float64)).sum(axis=1), 2 * positive * negative)
        precision = np.where(weights > 0, true_equal_or_over / np.maximum(equal_or_over, 1), 0.0)
        ap = np.where(negative > 0, ratio((weights * precision).sum(axis=1), positive), np.nan)
        return np.stack([auc, ap], axis=1)


def _running(counts: Counts) -> Counts:
    """[resamples, n] -> [resamples, n + 1]: the sum before each place and after the last one."""
    sums = np.zeros((counts.shape[0], counts.shape[1] + 1), np.int32)
    np.cumsum(counts, axis=1, out=sums[:, 1:])
    return sums


def _tag_scores(values: DoubleArray, names: Sequence[str]) -> TagScores:
    per_tag = {name: float(value) for name, value in zip(names, values, strict=True) if not np.isnan(value)}
    return TagScores(float(mean_defined(values)), per_tag, tuple(name for name in names if name not in per_tag))


# Tags: how well each track's tags are found


def recall_per_track(truth: npt.ArrayLike, scores: npt.ArrayLike, k: int, *, capped: bool = False) -> DoubleArray:
    """Recall@k of each track, [tracks], from [tracks, tags]: |G ∩ R_1:k| / |G| (Wang et al. 2019, equation 4).

    G are the track's tags, R_1:k its k highest scores; NaN for a track with no tag. `capped` divides by min(k, |G|),
    the letter of the equation's G_1:k; the paper's own figures are those of |G|: docs/decisions/0006-metrics.md.
    Among equal scores the mean over all their orders is taken, so that the order of the tags decides nothing.
    """
    flags, checked = validate_tags(truth, scores)
    validate_k(k)
    above, tied = _places(checked)
    found = np.clip((k - above) / tied, 0.0, 1.0)
    relevant = flags.sum(axis=1)
    return ratio((found * flags).sum(axis=1), np.minimum(relevant, k) if capped else relevant)


def ndcg_per_track(truth: npt.ArrayLike, scores: npt.ArrayLike, k: int) -> DoubleArray:
    """NDCG@k of each track, [tracks], from [tracks, tags] (Wang et al. 2019, equations 5 to 7).

    DCG = sum for i to k of rel_i / log2(i + 1), over that of all the track's tags coming first; NaN without any tag.
    Equal scores share the discounts of their places (McSherry and Najork 2008).
    """
    flags, checked = validate_tags(truth, scores)
    validate_k(k)
    above, tied = _places(checked)
    k = min(k, flags.shape[1])
    discounts = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(k) + 2))])
    gain = (discounts[np.minimum(above + tied, k)] - discounts[np.minimum(above, k)]) / tied
    return ratio((gain * flags).sum(axis=1), discounts[np.minimum(flags.sum(axis=1), k)])


def recall_at_k(truth: npt.ArrayLike, scores: npt.ArrayLike, k: int, *, capped: bool = False) -> float:
    """The mean of `recall_per_track` over the tracks that have a tag; NaN where none has."""
    return float(mean_defined(recall_per_track(truth, scores, k, capped=capped)))


def ndcg_at_k(truth: npt.ArrayLike, scores: npt.ArrayLike, k: int) -> float:
    """The mean of `ndcg_per_track` over the tracks that have a tag; NaN where none has."""
    return float(mean_defined(ndcg_per_track(truth, scores, k)))


def jaccard_per_track(truth: npt.ArrayLike, predicted: npt.ArrayLike) -> DoubleArray:
    """JSC of each track, |G ∩ R| / |G ∪ R| (equation 8), from bool [tracks, tags]; NaN where both sets are empty."""
    flags, said = validate_predicted(truth, predicted)
    return ratio((flags & said).sum(axis=1), (flags | said).sum(axis=1))


def jaccard(truth: npt.ArrayLike, predicted: npt.ArrayLike, over: Literal["tracks", "tags"] = "tracks") -> float:
    """The mean JSC over tracks, or over tags (then the sets are of tracks). Where both sets are empty: left out."""
    flags, said = validate_predicted(truth, predicted)
    return float(
        mean_defined(jaccard_per_track(flags, said) if over == "tracks" else jaccard_per_track(flags.T, said.T))
    )


def _places(scores: DoubleArray) -> tuple[Indices, Indices]:
    """For each track and tag how many tags score higher, and how many score the same (itself too): [tracks, tags]."""
    order, start, end = tied_ranges(scores)
    above, tied = np.empty_like(start), np.empty_like(start)
    np.put_along_axis(above, order, start, axis=1)
    np.put_along_axis(tied, order, end - start, axis=1)
    return above, tied


def tag_confusion(truth: npt.ArrayLike, predicted: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """For each tag how many tracks are rightly given it, wrongly given it, wrongly not, rightly not: [tags, 4]."""
    flags, said = validate_predicted(truth, predicted)
    quarters = (flags & said, ~flags & said, flags & ~said, ~flags & ~said)
    return np.stack([quarter.sum(axis=0, dtype=np.int64) for quarter in quarters], axis=1)


# Genres: one of several, by frame or by song


def predict_genres(scores: npt.ArrayLike, names: Sequence[str]) -> Indices:
    """The genre of the highest score of each row, [rows] indices into `names`, from [rows, genres].

    Of equal scores the first name in alphabetical order counts, as everywhere in this program.
    """
    checked = validate_scores(scores, names)
    alphabetical = np.array(sorted(range(len(names)), key=names.__getitem__), np.intp)
    chosen: Indices = alphabetical[checked[:, alphabetical].argmax(axis=1)]
    return chosen


def songs_from_frames(
    scores: npt.ArrayLike, track_of_frame: npt.ArrayLike, tracks: int, how: Aggregator = "mean"
) -> DoubleArray:
    """Scores of tracks, [tracks, genres], from those of their frames, [frames, genres], in any order (Roy et al. 2020).

    `track_of_frame` [frames] counts from 0. The mean is the product's own, in float32. Raises BadRequestError for a
    track that has no frame.
    """
    checked = validate_scores(scores)
    track = validate_indices(track_of_frame, len(checked), tracks, "track_of_frame")
    frames = np.bincount(track, minlength=tracks)
    if not frames.all():
        raise BadRequestError(f"track {int(np.flatnonzero(frames == 0)[0])} has no frame")
    order = np.argsort(track, kind="stable")
    return aggregate_tracks(checked[order].astype(np.float32), frames.tolist(), how).astype(np.float64)


def confusion_statistic(truth: Indices, predicted: Indices, genres: int) -> Statistic:
    """A statistic giving confusion matrices [resamples, genres, genres]: rows are the truth, columns what was said."""
    cell = truth * genres + predicted

    def confusion(counts: Counts) -> DoubleArray:
        cells = [np.bincount(cell, weights=row, minlength=genres * genres) for row in counts]
        return np.stack(cells).astype(np.float64).reshape(-1, genres, genres)

    return confusion


def confusion_matrix(truth: npt.ArrayLike, predicted: npt.ArrayLike, genres: int) -> npt.NDArray[np.int64]:
    """How many rows of each genre (a row of the matrix) were said to be of each (a column): [genres, genres]."""
    rows = count_rows(truth, "truth")
    said = validate_indices(predicted, rows, genres, "predicted")
    matrix = confusion_statistic(validate_indices(truth, rows, genres, "truth"), said, genres)(once(rows))[0]
    whole: npt.NDArray[np.int64] = matrix.astype(np.int64)
    return whole


def accuracy(confusion: npt.ArrayLike) -> DoubleArray:
    """The share of rows whose genre was found, [...], from confusion matrices [..., genres, genres]."""
    matrix = np.asarray(confusion, np.float64)
    return ratio(np.trace(matrix, axis1=-2, axis2=-1), matrix.sum(axis=(-2, -1)))


def class_scores(confusion: npt.ArrayLike) -> ClassScores:
    """Recall, precision and F1 of each genre, [..., genres], from confusion matrices [..., genres, genres].

    A genre that no row is of has none of the three. One that rows are of but that was never said has precision 0.
    """
    matrix = np.asarray(confusion, np.float64)
    right = np.diagonal(matrix, axis1=-2, axis2=-1)
    actual, said = matrix.sum(axis=-1), matrix.sum(axis=-2)
    precision = np.where(actual > 0, right / np.maximum(said, 1), np.nan)
    f1 = np.where(actual > 0, ratio(2 * right, actual + said), np.nan)
    return ClassScores(ratio(right, actual), precision, f1)


def auc_one_vs_rest(truth: npt.ArrayLike, scores: npt.ArrayLike, names: Sequence[str]) -> TagScores:
    """AUC-ROC of each genre against all others, and their mean: `truth` [rows] indices, `scores` [rows, genres]."""
    indices, checked = validate_genres(truth, scores, names)
    return auc_roc(one_hot(indices, len(names)), checked, names)


def one_hot(indices: Indices, columns: int) -> Truth:
    """Indices [rows] as bool [rows, columns]."""
    flags: Truth = indices[:, None] == np.arange(columns)
    return flags
