"""Metrics of scores against the ground truth, computed from arrays, without files or models.

Sources: Wang et al. 2019 (V.D) for tags and genres, Roy et al. 2020 (III) for frame level and song level.

Every metric is a function of `counts`, int32 [resamples, rows]: how often each row (a track, or a frame) is in each
sample. The plain metric is its value at the one sample that holds every row once; the bootstrap interval comes from
the same code at resampled counts. A metric that is undefined (a tag without a positive) is NaN, never 0, and is left
out of every mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from musictagger.evaluation.bootstrap import Counts, Statistic, once, ratio
from musictagger.evaluation.checks import DoubleArray, Indices, Truth, validate_tags


class ClassScores(NamedTuple):
    """Recall, precision and F1, each float64 [..., genres]; NaN for a genre without rows."""

    recall: DoubleArray
    precision: DoubleArray
    f1: DoubleArray


# Tags: how well each tag ranks the tracks


def ranking_statistic(truth: Truth, scores: DoubleArray) -> Statistic:
    """A statistic of AUC-ROC and average precision of each tag, [resamples, 2, tags], from [tracks, tags].

    AUC = P(score of a positive > score of a negative) + P(the two are equal) / 2 (Mann and Whitney 1947).
    AP = sum over the thresholds of (R_n - R_(n-1)) P_n, equal scores being one threshold.
    Both are NaN where a sample has no positive or no negative of the tag: an AP of 1.0 for a tag that every track has
    would show nothing about the scores.
    """
    tags = [_Ranked.of(*columns) for columns in zip(truth.T, scores.T, strict=True)]
    return lambda counts: np.stack([tag.metrics(counts) for tag in tags], axis=-1)


def auc_roc(truth: npt.ArrayLike, scores: npt.ArrayLike, names: Sequence[str]) -> DoubleArray:
    """AUC-ROC of each tag, float64 [tags], from [tracks, tags]; NaN for a tag that all tracks have, or none.

    Raises BadRequestError as `validate_tags` does.
    """
    statistic = ranking_statistic(*validate_tags(truth, scores, names))
    auc: DoubleArray = statistic(once(len(np.asarray(truth))))[0, 0]
    return auc


@dataclass(frozen=True)
class _Ranked:
    """One tag's tracks from highest to lowest score, and the start and end of each positive's run of ties."""

    order: Indices
    positives: Indices
    start: Indices
    end: Indices
    start_positive: Indices
    end_positive: Indices

    @classmethod
    def of(cls, truth: Truth, scores: DoubleArray) -> _Ranked:
        order = np.argsort(-scores, kind="stable")
        rising, ranked_truth = -scores[order], truth[order]
        positives = np.flatnonzero(ranked_truth)
        start, end = (np.searchsorted(rising, rising[positives], side) for side in ("left", "right"))
        before = np.concatenate([[0], np.cumsum(ranked_truth)])
        return cls(order, positives, start, end, before[start], before[end])

    def metrics(self, counts: Counts) -> DoubleArray:
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
    """[resamples, n] -> [resamples, n + 1]: the sum before each column, and the total."""
    sums = np.zeros((counts.shape[0], counts.shape[1] + 1), np.int32)
    np.cumsum(counts, axis=1, out=sums[:, 1:])
    return sums


# Tags: how well each track's tags are found


def recall_per_track(truth: Truth, scores: DoubleArray, k: int) -> DoubleArray:
    """Recall@k of each track, [tracks], from [tracks, tags]: |G ∩ R_1:k| / |G| (Wang et al. 2019, equation 4).

    G are the track's tags, R_1:k its k highest scores; NaN for a track without tags. The equation's G_1:k would divide
    by min(k, |G|); the paper's published results are those of |G| (docs/decisions/0006-metrics.md).
    Tied scores count with the mean over all their orders, so that the order of the tags has no influence.
    """
    above, tied = _ranks(scores)
    found = np.clip((k - above) / tied, 0.0, 1.0)
    return ratio((found * truth).sum(axis=1), truth.sum(axis=1))


def ndcg_per_track(truth: Truth, scores: DoubleArray, k: int) -> DoubleArray:
    """NDCG@k of each track, [tracks], from [tracks, tags] (Wang et al. 2019, equations 5 to 7).

    DCG = sum for i to k of rel_i / log2(i + 1), divided by the DCG with all the track's tags first; NaN for a track
    without tags. Tied scores share the discounts of their ranks (McSherry and Najork 2008).
    """
    above, tied = _ranks(scores)
    k = min(k, truth.shape[1])
    discounts = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(k) + 2))])
    gain = (discounts[np.minimum(above + tied, k)] - discounts[np.minimum(above, k)]) / tied
    return ratio((gain * truth).sum(axis=1), discounts[np.minimum(truth.sum(axis=1), k)])


def jaccard_per_track(truth: Truth, predicted: Truth) -> DoubleArray:
    """Jaccard index of each track, |G ∩ R| / |G ∪ R| (equation 8), from [tracks, tags]; NaN where both are empty."""
    return ratio((truth & predicted).sum(axis=1), (truth | predicted).sum(axis=1))


def _ranks(scores: DoubleArray) -> tuple[Indices, Indices]:
    """The number of tags with a higher score, and with the same score (itself included), both [tracks, tags]."""
    first, last = (rankdata(-scores, method, axis=1).astype(np.intp) for method in ("min", "max"))
    return first - 1, last - first + 1


def tag_confusion(truth: Truth, predicted: Truth) -> npt.NDArray[np.int64]:
    """True positives, false positives, false negatives and true negatives of each tag, [tags, 4]."""
    quarters = (truth & predicted, ~truth & predicted, truth & ~predicted, ~truth & ~predicted)
    return np.stack([quarter.sum(axis=0, dtype=np.int64) for quarter in quarters], axis=1)


# Genres: one of several, by frame or by song


def predict_genres(scores: npt.NDArray[np.floating], names: Sequence[str]) -> Indices:
    """The genre of the highest score of each row, [rows] indices into `names`, from [rows, genres].

    Ties go to the first name in alphabetical order, as everywhere in this program.
    """
    alphabetical = np.array(sorted(range(len(names)), key=names.__getitem__), np.intp)
    chosen: Indices = alphabetical[scores[:, alphabetical].argmax(axis=1)]
    return chosen


def confusion_statistic(truth: Indices, predicted: Indices, genres: int) -> Statistic:
    """A statistic of confusion matrices, [resamples, genres, genres]: a row for each true genre, columns predicted."""
    cell = truth * genres + predicted

    def confusion(counts: Counts) -> DoubleArray:
        cells = [np.bincount(cell, weights=row, minlength=genres * genres) for row in counts]
        return np.stack(cells).astype(np.float64).reshape(-1, genres, genres)

    return confusion


def accuracy(confusion: npt.ArrayLike) -> DoubleArray:
    """The share of rows with the right genre, [...], from confusion matrices [..., genres, genres]."""
    matrix = np.asarray(confusion, np.float64)
    return ratio(np.trace(matrix, axis1=-2, axis2=-1), matrix.sum(axis=(-2, -1)))


def class_scores(confusion: npt.ArrayLike) -> ClassScores:
    """Recall, precision and F1 of each genre, [..., genres], from confusion matrices [..., genres, genres].

    All three are NaN for a genre without rows. A genre that has rows but was never predicted has precision 0.
    """
    matrix = np.asarray(confusion, np.float64)
    right = np.diagonal(matrix, axis1=-2, axis2=-1)
    actual, predicted = matrix.sum(axis=-1), matrix.sum(axis=-2)
    precision = np.where(actual > 0, right / np.maximum(predicted, 1), np.nan)
    f1 = np.where(actual > 0, ratio(2 * right, actual + predicted), np.nan)
    return ClassScores(ratio(right, actual), precision, f1)


def one_hot(indices: Indices, columns: int) -> Truth:
    """Indices [rows] as bool [rows, columns]."""
    flags: Truth = indices[:, None] == np.arange(columns)
    return flags
