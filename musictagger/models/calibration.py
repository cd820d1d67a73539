"""What a model's card says its scores are worth: rising curves that track scores go through before any threshold.

They are fitted in training (`training.thresholds`); this needs numpy alone. Stored scores stay as the model gave them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from musictagger.errors import BadRequestError, ModelError

DoubleArray = npt.NDArray[np.float64]
Scores = npt.NDArray[np.float32]

Method = Literal["isotonic", "platt"]
METHODS: tuple[Method, ...] = get_args(Method)
CalibrationKind = Literal["none", "platt", "isotonic", "lift"]
"""What a training may ask for: a method fitted on labels, lift (see evaluation.thresholds.fit_lift) or none."""

SMALLEST_SCORE = 1e-6
"""Scores are kept this far from 0 and 1 before their logit is taken: a stored float16 score is often exactly 0 or 1."""


@dataclass(frozen=True)
class Curve:
    """How one tag's scores become calibrated ones, without ever changing the order of two tracks.

    `isotonic`: straight lines through the points (x, y), level outside them. `platt`: sigmoid(slope * logit(score) +
    offset), where slope 1 and offset 0 change nothing.
    """

    method: Method
    x: tuple[float, ...] = ()
    y: tuple[float, ...] = ()
    slope: float = 1.0
    offset: float = 0.0

    def apply(self, scores: DoubleArray) -> DoubleArray:
        """Calibrated scores of the shape of `scores`, each from 0 to 1."""
        if self.method == "isotonic":
            return np.interp(scores, self.x, self.y)
        return sigmoid(self.slope * logit(scores) + self.offset)

    def undo(self, calibrated: float) -> float:
        """The score that became `calibrated`; where several did, one of them."""
        if self.method == "isotonic":
            return float(np.interp(calibrated, self.y, self.x))
        return float(sigmoid((logit(np.float64(calibrated)) - self.offset) / self.slope))  # type: ignore[arg-type]

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        if self.method == "isotonic":
            return {"method": self.method, "x": list(self.x), "y": list(self.y)}
        return {"method": self.method, "slope": self.slope, "offset": self.offset}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Curve:
        """The inverse of `to_json`. Raises ModelError where it is no curve, or one that falls."""
        try:
            points = {key: tuple(float(number) for number in values.get(key, ())) for key in ("x", "y")}
            slope, offset = float(values.get("slope", 1.0)), float(values.get("offset", 0.0))
            curve = cls(values["method"], **points, slope=slope, offset=offset)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ModelError(f"a calibration curve cannot be read: {error!r}") from error
        curve._require_rising()
        return curve

    def _require_rising(self) -> None:
        numbers = (*self.x, *self.y, self.slope, self.offset)
        if self.method not in METHODS or not np.isfinite(numbers).all() or self.slope <= 0:
            raise ModelError(f"no calibration curve: method {self.method!r}, slope {self.slope}, offset {self.offset}")
        fits = len(self.x) == len(self.y) and (self.x or self.method == "platt")
        if not fits or (np.diff(self.x) <= 0).any() or (np.diff(self.y) < 0).any():
            raise ModelError(f"no calibration curve: its {len(self.x)} points do not rise")
        if self.y and not 0 <= self.y[0] <= self.y[-1] <= 1:
            raise ModelError(f"no calibration curve: it leads from {self.y[0]} to {self.y[-1]}, beyond 0 to 1")


@dataclass(frozen=True)
class Calibration:
    """The curves of the tags that have one; the scores of all others stay as they are."""

    curves: Mapping[str, Curve]
    left_out: tuple[str, ...] = field(default=())
    """Tags with too few positives or negatives, or whose scores fall as the truth rises."""

    def apply(self, scores: npt.ArrayLike, names: Sequence[str]) -> DoubleArray:
        """Calibrated scores, float64 [tracks, tags]. Raises BadRequestError for scores that do not fit the names."""
        changed = np.array(scores, np.float64)
        if changed.ndim != 2 or changed.shape[1] != len(names):
            raise BadRequestError(f"scores have shape {list(changed.shape)}; [tracks, {len(names)} tags] is needed")
        for column, name in enumerate(names):
            if name in self.curves:
                changed[:, column] = self.curves[name].apply(changed[:, column])
        return changed

    def to_json(self) -> dict[str, Any]:
        """For a model's card: every curve, and the names of the tags without one."""
        return {"curves": {name: curve.to_json() for name, curve in self.curves.items()}, "left_out": [*self.left_out]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Calibration:
        """The inverse of `to_json`. Raises ModelError naming the tag whose curve cannot be read."""
        if not isinstance(values, Mapping) or not isinstance(values.get("curves"), Mapping):
            raise ModelError("the calibration of the model card holds no curves")
        curves = {}
        for name, curve in values["curves"].items():
            try:
                curves[name] = Curve.from_json(curve)
            except ModelError as error:
                raise ModelError(f"tag {name!r}: {error}") from error
        return cls(curves, tuple(values.get("left_out", ())))


def read_calibration(values: Mapping[str, Any] | None, names: Sequence[str]) -> Calibration | None:
    """The calibration of a card whose tags are `names`; None where it has none.

    Raises ModelError for curves that cannot be read, or of a tag that the card does not have.
    """
    if values is None:
        return None
    calibration = Calibration.from_json(values)
    unknown = sorted(set(calibration.curves).difference(names))
    if unknown:
        raise ModelError(f"calibrates the tag {unknown[0]!r}, which it does not have")
    return calibration


def calibrated(scores: Scores, calibration: Calibration | None, names: Sequence[str]) -> Scores:
    """Track scores float32 [tracks, tags] as they meet thresholds: through the card's curves where it has any."""
    if calibration is None:
        return scores
    return calibration.apply(scores, names).astype(np.float32)


def logit(scores: DoubleArray, lowest: float = SMALLEST_SCORE, highest: float = 1 - SMALLEST_SCORE) -> DoubleArray:
    """log(p / (1 - p)) of scores from 0 to 1, finite at both ends: no score counts as lower or higher."""
    clipped = np.clip(scores, lowest, highest)
    logits: DoubleArray = np.log(clipped) - np.log1p(-clipped)
    return logits


def sigmoid(logits: DoubleArray) -> DoubleArray:
    """The inverse of `logit`."""
    scores: DoubleArray = 0.5 * (1 + np.tanh(logits / 2))
    return scores
