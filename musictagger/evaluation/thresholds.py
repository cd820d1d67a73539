"""Thresholds and calibration curves of tags, fitted on a validation split and kept in a model's card.

Both are fitted on the scores that they are applied to: those of tracks, after their frames were aggregated.
Calibration comes first; thresholds are then fitted on calibrated scores. Applying either needs numpy alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from musictagger.errors import BadRequestError
from musictagger.evaluation.checks import DoubleArray, Truth, validate_tags
from musictagger.models.calibration import METHODS, Calibration, Curve, Method, logit

MIN_CALIBRATION_POSITIVES = 5
"""A tag with fewer positives (or negatives) is not calibrated: an isotonic curve would overfit them."""

LIFT = 6.0
"""A track gets a tag at this multiple of the tag's usual odds (docs/decisions/0009-models-that-ship.md)."""
SPREAD = 2.0
"""The logit of a tag must also lie this many standard deviations above its mean, except for tags that exclude each
other: the most probable of several genres is a genre of the track, but a harp is not present because every other
instrument is even less likely."""
LIFT_THRESHOLD = 0.5


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of the tags with enough positives and a negative. A track gets a tag whose score reaches it."""

    values: Mapping[str, float]
    """By tag, in the order of the names."""
    f1: Mapping[str, float]
    """By tag, on the data of the fit, where it is higher than on other data."""
    below_floor: tuple[str, ...]
    """Tags that reach `min_precision` at no threshold; their threshold is that of their highest precision."""


def fit_thresholds(
    truth: npt.ArrayLike,
    scores: npt.ArrayLike,
    names: Sequence[str],
    *,
    min_precision: float = 0.0,
    min_positives: int = 1,
) -> Thresholds:
    """The threshold with the best F1 of each tag, from [tracks, tags]; among equal ones the highest.

    With `min_precision` only thresholds that reach this precision are considered. A threshold lies half-way between
    the two scores that it separates. Raises BadRequestError as `validate_tags` does, or for a precision outside 0 to 1.
    """
    flags, checked = validate_tags(truth, scores, names)
    if not 0 <= min_precision <= 1:
        raise BadRequestError(f"min_precision is {min_precision}, not between 0 and 1")
    values: dict[str, float] = {}
    f1: dict[str, float] = {}
    below = []
    for column in _can_be_fitted(flags, min_positives):
        name = names[column]
        values[name], f1[name], reached = _best_threshold(flags[:, column], checked[:, column], min_precision)
        if not reached:
            below.append(name)
    return Thresholds(values, f1, tuple(below))


def _best_threshold(truth: Truth, scores: DoubleArray, min_precision: float) -> tuple[float, float, bool]:
    """The threshold, its F1, and whether it reaches the precision; from [tracks] with at least one positive."""
    order = np.argsort(-scores, kind="stable")
    cuts = np.flatnonzero(np.append(np.diff(scores[order]), 1)) + 1
    right = np.cumsum(truth[order])[cuts - 1]
    precision, f1 = right / cuts, 2 * right / (cuts + truth.sum())
    reached = precision >= min_precision
    allowed = reached if reached.any() else precision == precision.max()
    best = int(np.where(allowed, f1, -1.0).argmax())
    lowest_in = scores[order[cuts[best] - 1]]
    highest_out = scores[order[cuts[best]]] if cuts[best] < len(scores) else lowest_in
    return _between(float(highest_out), float(lowest_in)), float(f1[best]), bool(reached.any())


def _between(low: float, high: float) -> float:
    """The middle, but above `low` even where no float32 lies between the two."""
    middle = float(np.float32(low + (high - low) / 2))
    return middle if middle > np.float32(low) else high


def fit_calibration(
    truth: npt.ArrayLike,
    scores: npt.ArrayLike,
    names: Sequence[str],
    method: Method = "platt",
    *,
    min_positives: int = MIN_CALIBRATION_POSITIVES,
) -> Calibration:
    """Fit a curve for each tag, from [tracks, tags] with scores from 0 to 1.

    `platt` needs few tracks (two parameters a tag); `isotonic` follows any rising shape, but needs hundreds of tracks
    and makes different scores equal. Raises BadRequestError for a score outside 0 to 1 or an unknown method.
    """
    flags, checked = validate_tags(truth, scores, names)
    _require_unit_scores(checked, names)
    if method not in METHODS:
        raise BadRequestError(f"calibration {method!r} is not one of {', '.join(METHODS)}")
    fit_curve = _fit_isotonic if method == "isotonic" else _fit_platt
    curves = {}
    for column in _can_be_fitted(flags, min_positives, min_negatives=min_positives):
        curve = fit_curve(flags[:, column], checked[:, column])
        if curve is not None:
            curves[names[column]] = curve
    return Calibration(curves, tuple(name for name in names if name not in curves))


def fit_lift(scores: npt.ArrayLike, names: Sequence[str], alternatives: Collection[str] = ()) -> Calibration:
    """Fit a curve for each tag that expresses its score as lift over its usual score, from [tracks, tags] in 0 to 1.

    A calibrated score is 0.5 where the model's odds are LIFT times the usual odds, the geometric mean over these
    tracks. This makes common and rare tags comparable; where all tags are equally likely a priori, the highest lift is
    the most probable tag (Bayes). A tag outside `alternatives` needs SPREAD standard deviations as well. Needs no
    labels.
    """
    checked = np.asarray(scores, np.float64)
    _require_unit_scores(checked, names)
    logits = logit(checked)
    usual, spread = logits.mean(axis=0), SPREAD * logits.std(axis=0)
    independent = np.array([name not in alternatives for name in names])
    middle = usual + np.maximum(np.log(LIFT), np.where(independent, spread, 0.0))
    return Calibration({name: Curve("platt", offset=-each) for name, each in zip(names, middle.tolist(), strict=True)})


def _require_unit_scores(scores: DoubleArray, names: Sequence[str]) -> None:
    """Raise BadRequestError naming the first of [tracks, tags] that does not lie between 0 and 1."""
    for row, column in np.argwhere((scores < 0) | (scores > 1)):
        raise BadRequestError(f"scores: row {row}, {names[column]!r} is {scores[row, column]}, not between 0 and 1")


def _fit_isotonic(truth: Truth, scores: DoubleArray) -> Curve | None:
    """Isotonic regression of [tracks] (Ayer et al. 1955); None where it is constant."""
    model = IsotonicRegression(y_min=0, y_max=1).fit(scores, truth)
    x, y = model.X_thresholds_.tolist(), model.y_thresholds_.tolist()
    return Curve("isotonic", tuple(x), tuple(y)) if y[0] < y[-1] else None


def _fit_platt(truth: Truth, scores: DoubleArray) -> Curve | None:
    """Platt scaling of [tracks]; None where the scores are constant or fall as the truth rises."""
    if scores.min() == scores.max():
        return None
    slope, offset = platt(logit(scores), truth)
    return Curve("platt", slope=slope, offset=offset) if slope > 0 else None


def platt(margins: DoubleArray, truth: Truth) -> tuple[float, float]:
    """Slope and offset of the log-odds as a function of margins [rows] (Platt 1999); `truth` needs both values.

    His soft targets, (n1 + 1) / (n1 + 2) and 1 / (n0 + 2) instead of 1 and 0, become weighted rows of both classes.
    """
    positive = (truth.sum() + 1) / (truth.sum() + 2)
    negative = 1 / ((~truth).sum() + 2)
    target = np.where(truth, positive, negative)
    scale = float(np.abs(margins).max()) or 1.0
    rows = np.concatenate([margins, margins])[:, None] / scale
    labels = np.repeat([True, False], len(margins))
    weights = np.concatenate([target, 1 - target])
    model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10, max_iter=200)
    model.fit(rows, labels, sample_weight=weights)
    return float(model.coef_[0, 0]) / scale, float(model.intercept_[0])


def _can_be_fitted(truth: Truth, min_positives: int, min_negatives: int = 1) -> list[int]:
    """The columns with enough positives and negatives, at least one of each."""
    positives = truth.sum(axis=0)
    enough = (positives >= max(min_positives, 1)) & (len(truth) - positives >= max(min_negatives, 1))
    columns: list[int] = np.flatnonzero(enough).tolist()
    return columns
