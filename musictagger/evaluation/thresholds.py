"""From which score a track has a tag, and what a score is worth: fitted on a validation split, kept in a model's card.

Both are fitted on the scores that will be held against them: those of tracks, after their frames were aggregated.
Calibration comes first; thresholds are then fitted on calibrated scores. Applying either needs numpy alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from musictagger.errors import BadRequestError
from musictagger.evaluation.checks import DoubleArray, Truth, validate_tags
from musictagger.evaluation.metrics import tied_ranges
from musictagger.models.calibration import METHODS, Calibration, Curve, Method, logit, sigmoid

MIN_POSITIVES = 5
"""A tag with fewer positives (or negatives) is not calibrated: an isotonic curve would learn them by heart."""

LIFT = 6.0
"""How many times the usual odds make a tag a track's (docs/decisions/0009-models-that-ship.md)."""
SPREAD = 2.0
"""How many standard deviations of its logit a tag lies above the usual, too, unless it is one of several that exclude
each other: one genre is the best of all, but a harp is not there because everything else is even less."""
LIFT_THRESHOLD = 0.5


@dataclass(frozen=True)
class Thresholds:
    """A threshold for each tag, in the order of the names. A track has a tag whose score is its threshold or more."""

    values: Mapping[str, float]
    f1: Mapping[str, float]
    """On the data they were fitted on, so higher than on any other; only of fitted tags."""
    kept_default: tuple[str, ...]
    """Tags with too few positives, or with no negative, to fit anything."""
    below_floor: tuple[str, ...]
    """Tags that reach the precision asked for at no threshold; theirs is the one of their highest precision."""


def fit_thresholds(
    truth: npt.ArrayLike,
    scores: npt.ArrayLike,
    names: Sequence[str],
    *,
    default: float = 0.5,
    min_precision: float = 0.0,
    min_positives: int = 1,
) -> Thresholds:
    """The threshold of the best F1 of each tag, from [tracks, tags]; among equals the highest.

    With `min_precision` only thresholds that reach this precision are looked at. A threshold lies half-way between the
    two scores it separates. Raises BadRequestError as `validate_tags` does, or for a floor outside 0 to 1.
    """
    flags, checked = validate_tags(truth, scores, names)
    if not 0 <= min_precision <= 1:
        raise BadRequestError(f"the least precision is {min_precision}; it lies between 0 and 1")
    values, f1 = dict.fromkeys(names, float(default)), dict[str, float]()
    below = []
    fit = _can_be_fitted(flags, min_positives)
    for name, tag_truth, tag_scores in _columns(names, flags, checked, fit):
        values[name], f1[name], reached = _best_threshold(tag_truth, tag_scores, min_precision)
        if not reached:
            below.append(name)
    return Thresholds(values, f1, _unfitted(names, fit), tuple(below))


def _best_threshold(truth: Truth, scores: DoubleArray, min_precision: float) -> tuple[float, float, bool]:
    """Threshold, F1, and whether the precision was reached; of [tracks], with at least one positive."""
    order, _, end = (line[0] for line in tied_ranges(scores[None]))
    cuts = np.unique(end)
    right = np.cumsum(truth[order])[cuts - 1]
    precision, f1 = right / cuts, 2 * right / (cuts + truth.sum())
    reached = precision >= min_precision
    allowed = reached if reached.any() else precision == precision.max()
    best = int(np.where(allowed, f1, -1.0).argmax())
    lowest_in = scores[order[cuts[best] - 1]]
    highest_out = scores[order[cuts[best]]] if cuts[best] < len(scores) else lowest_in
    return _between(float(highest_out), float(lowest_in)), float(f1[best]), bool(reached.any())


def _between(low: float, high: float) -> float:
    """Half-way, but above `low` even where no number lies between the two, in the float32 of scores."""
    middle = float(np.float32(low + (high - low) / 2))
    return middle if middle > np.float32(low) else high


def fit_calibration(
    truth: npt.ArrayLike,
    scores: npt.ArrayLike,
    names: Sequence[str],
    method: Method = "platt",
    *,
    min_positives: int = MIN_POSITIVES,
) -> Calibration:
    """A curve for each tag, from [tracks, tags] with scores from 0 to 1.

    `platt` needs few tracks (two numbers a tag); `isotonic` follows any rising shape but needs hundreds, and makes
    scores equal that were not. Raises BadRequestError for a score outside 0 to 1 or an unknown method.
    """
    flags, checked = validate_tags(truth, scores, names)
    require_unit_scores(checked, names)
    if method not in METHODS:
        raise BadRequestError(f"calibration {method!r} is not one of {', '.join(METHODS)}")
    fit = _can_be_fitted(flags, min_positives) & (flags.sum(axis=0) <= len(flags) - min_positives)
    fit_curve = _fit_isotonic if method == "isotonic" else _fit_platt
    fitted = {name: fit_curve(truth, scores) for name, truth, scores in _columns(names, flags, checked, fit)}
    curves = {name: curve for name, curve in fitted.items() if curve is not None}
    return Calibration(curves, tuple(name for name in names if name not in curves))


def fit_lift(scores: npt.ArrayLike, names: Sequence[str], alternatives: Collection[str] = ()) -> Calibration:
    """A curve for each tag that says how much more than usual it is heard, from [tracks, tags] with scores from 0 to 1.

    A calibrated score is 0.5 where the odds that the model gives are LIFT times the usual, the geometric mean over
    these tracks. So tags compare, whether listeners type them for every second track or for every hundredth; where all
    are as likely as each other, the highest lift is the most probable one (Bayes). A tag that is none of the
    `alternatives` needs SPREAD standard deviations as well. Needs no labels.
    """
    checked = np.asarray(scores, np.float64)
    require_unit_scores(checked, names)
    logits = logit(checked)
    usual, spread = logits.mean(axis=0), SPREAD * logits.std(axis=0)
    alone = np.array([name not in alternatives for name in names])
    begin = usual + np.maximum(np.log(LIFT), np.where(alone, spread, 0.0))
    return Calibration({name: Curve("platt", offset=-each) for name, each in zip(names, begin.tolist(), strict=True)})


def require_unit_scores(scores: DoubleArray, names: Sequence[str]) -> None:
    """Raise BadRequestError naming the first of [tracks, tags] that does not lie between 0 and 1."""
    bad = np.argwhere((scores < 0) | (scores > 1))
    if len(bad):
        row, column = bad[0]
        raise BadRequestError(f"scores: row {row}, {names[column]!r} is {scores[row, column]}, not between 0 and 1")


def _fit_isotonic(truth: Truth, scores: DoubleArray) -> Curve | None:
    """Least squares among rising step functions, by pooling adjacent violators (Ayer et al. 1955); of [tracks]."""
    x, tracks = np.unique(scores, return_counts=True)
    hits = np.bincount(np.searchsorted(x, scores), weights=truth)
    blocks: list[tuple[float, int, int]] = []  # positives, tracks, distinct scores
    for hit, size in zip(hits.tolist(), tracks.tolist(), strict=True):
        block = (hit, size, 1)
        while blocks and blocks[-1][0] * block[1] >= block[0] * blocks[-1][1]:
            last = blocks.pop()
            block = (last[0] + block[0], last[1] + block[1], last[2] + block[2])
        blocks.append(block)
    if len(blocks) < 2:
        return None
    ends = np.cumsum([block[2] for block in blocks])
    knots = np.unique(np.concatenate([[0], ends[:-1], ends - 1]))
    y = np.repeat([block[0] / block[1] for block in blocks], [block[2] for block in blocks])
    return Curve("isotonic", tuple(x[knots].tolist()), tuple(y[knots].tolist()))


def _fit_platt(truth: Truth, scores: DoubleArray) -> Curve | None:
    """Maximum likelihood by Newton's method with softened targets (Platt 1999, Lin et al. 2007); of [tracks]."""
    if scores.min() == scores.max():
        return None
    positives, negatives = int(truth.sum()), int((~truth).sum())
    target = np.where(truth, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    design = np.stack([logit(scores), np.ones(len(scores))], axis=1)
    weights = np.array([0.0, np.log((positives + 1) / (negatives + 1))])
    loss = _cross_entropy(design @ weights, target)
    for _ in range(100):
        p = sigmoid(design @ weights)
        hessian = (design * (p * (1 - p))[:, None]).T @ design + 1e-12 * np.eye(2)
        step = np.linalg.solve(hessian, design.T @ (p - target))
        while (new := _cross_entropy(design @ (weights - step), target)) > loss and np.abs(step).max() > 1e-9:
            step = step / 2
        weights, loss = (weights - step, new) if new <= loss else (weights, loss)
        if np.abs(step).max() <= 1e-9:
            break
    slope, offset = weights.tolist()
    return Curve("platt", slope=slope, offset=offset) if slope > 0 else None


def _cross_entropy(logits: DoubleArray, target: DoubleArray) -> float:
    return float((np.logaddexp(0, logits) - target * logits).sum())


def _can_be_fitted(truth: Truth, min_positives: int) -> Truth:
    fit: Truth = (truth.sum(axis=0) >= max(min_positives, 1)) & ~truth.all(axis=0)
    return fit


def _columns(
    names: Sequence[str], truth: Truth, scores: DoubleArray, wanted: Truth
) -> list[tuple[str, Truth, DoubleArray]]:
    return [(names[column], truth[:, column], scores[:, column]) for column in np.flatnonzero(wanted).tolist()]


def _unfitted(names: Sequence[str], fit: Truth) -> tuple[str, ...]:
    return tuple(name for name, fitted in zip(names, fit, strict=True) if not fitted)
