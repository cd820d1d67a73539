"""Calibration of track scores: the monotone curves of a model card, applied before any threshold.

They are fitted by `evaluation.thresholds`; applying them needs numpy alone. Stored scores are not calibrated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from musictagger.errors import BadRequestError, ModelError
from musictagger.records import FloatArray
from musictagger.values import Finite, Positive, Share, load

DoubleArray = npt.NDArray[np.float64]

Method = Literal["isotonic", "platt"]
METHODS: tuple[Method, ...] = get_args(Method)
CalibrationKind = Literal["none", "platt", "isotonic", "lift"]
"""The choices of a training run: a method fitted to labels, lift (see evaluation.thresholds.fit_lift) or none."""

SMALLEST_SCORE = 1e-6
"""Distance from 0 and 1 to which scores are clipped before logit: stored float16 scores are often exactly 0 or 1."""


@dataclass(frozen=True)
class Curve:
    """The map from one tag's scores to calibrated scores; it keeps the order of tracks.

    `isotonic`: linear interpolation of the points (x, y), constant beyond them. `platt`: sigmoid(slope * logit(score) +
    offset), which is the identity for slope 1 and offset 0.
    """

    method: Method
    x: tuple[Finite, ...] = ()
    y: tuple[Share, ...] = ()
    slope: Positive = 1.0
    offset: Finite = 0.0

    def apply(self, scores: DoubleArray) -> DoubleArray:
        """Return the calibrated scores, of the shape of `scores` and from 0 to 1."""
        if self.method == "isotonic":
            return np.interp(scores, self.x, self.y)
        return sigmoid(self.slope * logit(scores) + self.offset)

    def undo(self, calibrated: float) -> float:
        """Return a score whose calibrated score is `calibrated`."""
        if self.method == "isotonic":
            return float(np.interp(calibrated, self.y, self.x))
        return float(sigmoid((logit(np.float64(calibrated)) - self.offset) / self.slope))  # type: ignore[arg-type]

    def to_json(self) -> dict[str, Any]:
        """The curve as it is stored in a card: its method and the numbers of that method."""
        if self.method == "isotonic":
            return {"method": self.method, "x": list(self.x), "y": list(self.y)}
        return {"method": self.method, "slope": self.slope, "offset": self.offset}

    @property
    def fault(self) -> str:
        """The reason why this is not a curve that keeps the order of tracks; empty if it is one."""
        if (np.diff(self.x) <= 0).any() or (np.diff(self.y) < 0).any():
            return "the points of the calibration curve do not rise"
        if len(self.x) != len(self.y) or not (self.x or self.method == "platt"):
            return f"the calibration curve has {len(self.x)} values of x and {len(self.y)} of y"
        return ""


@dataclass(frozen=True)
class Calibration:
    """The curves of a model's tags; scores of tags without a curve are left unchanged."""

    curves: Mapping[str, Curve]
    left_out: tuple[str, ...] = ()
    """Tags without a curve: too few positives or negatives, or scores that decrease with the labels."""

    def apply(self, scores: npt.ArrayLike, names: Sequence[str]) -> DoubleArray:
        """Return calibrated scores, float64 [tracks, tags]. Raises BadRequestError if scores and names do not match."""
        changed = np.array(scores, np.float64)
        if changed.ndim != 2 or changed.shape[1] != len(names):
            raise BadRequestError(f"scores have shape {list(changed.shape)}, expected [tracks, {len(names)} tags]")
        for column, name in enumerate(names):
            if name in self.curves:
                changed[:, column] = self.curves[name].apply(changed[:, column])
        return changed

    def to_json(self) -> dict[str, Any]:
        """The calibration as it is stored in a card: all curves, and the names of the tags without one."""
        return {"curves": {name: curve.to_json() for name, curve in self.curves.items()}, "left_out": [*self.left_out]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Calibration:
        """The inverse of `to_json`. Raises ModelError naming the tag whose curve is invalid."""
        calibration: Calibration = load(values, cls, "the calibration", ModelError)
        for name, curve in calibration.curves.items():
            if curve.fault:
                raise ModelError(f"tag {name!r}: {curve.fault}")
        return calibration


def calibrated(scores: FloatArray, calibration: Calibration | None, names: Sequence[str]) -> FloatArray:
    """Return track scores float32 [tracks, tags] to be compared with thresholds: calibrated if the card has curves."""
    if calibration is None:
        return scores
    return calibration.apply(scores, names).astype(np.float32)


def logit(scores: DoubleArray, lowest: float = SMALLEST_SCORE, highest: float = 1 - SMALLEST_SCORE) -> DoubleArray:
    """Return log(p / (1 - p)) of scores from 0 to 1, clipped to `lowest` and `highest` so that it is finite."""
    clipped = np.clip(scores, lowest, highest)
    logits: DoubleArray = np.log(clipped) - np.log1p(-clipped)
    return logits


def sigmoid(logits: DoubleArray) -> DoubleArray:
    """Return the inverse of `logit`."""
    scores: DoubleArray = 0.5 * (1 + np.tanh(logits / 2))
    return scores
