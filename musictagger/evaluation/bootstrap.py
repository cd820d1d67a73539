"""Metrics with bootstrap intervals: samples of tracks with replacement, held as counts of how often each is drawn."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from musictagger.errors import BadRequestError
from musictagger.evaluation.checks import DoubleArray

Counts = npt.NDArray[np.int32]
Statistic = Callable[[Counts], DoubleArray]
"""From counts [resamples, rows] to metrics [resamples, ...]."""

CHUNK_CELLS = 1 << 20
"""Resamples times rows held at once: 4 MiB of counts."""
LEVEL = 0.95
"""Share of the resamples that lie within an interval."""


@dataclass(frozen=True)
class Interval:
    """A metric with its 95 % bootstrap interval over tracks; None where it is undefined."""

    value: float | None
    low: float | None
    high: float | None

    def to_json(self) -> dict[str, float | None]:
        """The interval as `from_json` reads it."""
        return {"value": self.value, "low": self.low, "high": self.high}

    @classmethod
    def from_json(cls, values: Any) -> Interval | None:
        """The inverse of `to_json`; None for a value with another structure."""
        if not isinstance(values, Mapping) or not {"value", "low", "high"} <= set(values):
            return None
        return cls(values["value"], values["low"], values["high"])

    def rounded(self, digits: int) -> Interval:
        """The same interval with fewer decimal digits."""
        value, low, high = (None if x is None else round(x, digits) for x in (self.value, self.low, self.high))
        return Interval(value, low, high)


class Intervals(NamedTuple):
    """An array of metrics with their bootstrap intervals, each float64 [...] in the shape of the statistic."""

    value: DoubleArray
    low: DoubleArray
    high: DoubleArray

    def at(self, index: int | tuple[int, ...]) -> Interval:
        """One of the metrics. NaN becomes None, since JSON has no NaN."""
        value, low, high = (None if np.isnan(array[index]) else float(array[index]) for array in self)
        return Interval(value, low, high)

    def named(self, names: Iterable[str]) -> dict[str, Interval]:
        """All metrics of a one-dimensional statistic, by name."""
        return {name: self.at(index) for index, name in enumerate(names)}


@dataclass(frozen=True)
class Resampling:
    """The random samples behind an interval."""

    resamples: int = 1000
    seed: int = 0


DEFAULT_RESAMPLING = Resampling()


def once(rows: int) -> Counts:
    """The counts of the sample that holds every row once: int32 [1, rows]."""
    return np.ones((1, rows), np.int32)


def ratio(above: npt.ArrayLike, below: npt.ArrayLike) -> DoubleArray:
    """`above / below` elementwise, NaN where `below` is 0."""
    over, under = np.broadcast_arrays(np.asarray(above, np.float64), np.asarray(below, np.float64))
    divided: DoubleArray = np.divide(over, under, out=np.full(over.shape, np.nan), where=under != 0)
    return divided


def mean_defined(values: DoubleArray) -> DoubleArray:
    """The mean over the last axis without NaN; NaN where every value is NaN."""
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0.0).sum(axis=-1), defined.sum(axis=-1))


def mean_of_rows(values: DoubleArray, counts: Counts) -> DoubleArray:
    """The mean of `values` [rows] in each sample, [resamples], without rows that are NaN."""
    defined = ~np.isnan(values)
    return ratio(counts @ np.where(defined, values, 0.0), counts @ defined.astype(np.float64))


def bootstrap(statistic: Statistic, tracks: int, resampling: Resampling) -> Intervals:
    """The statistic over all tracks, with its percentile interval over samples of tracks with replacement.

    The interval shows how far a metric depends on the tracks that happen to be in the test set, not on the seed of the
    training. Quantiles are taken over the samples in which the metric is defined. Source: Efron 1979.
    Raises BadRequestError for fewer than 2 tracks or no resample.
    """
    resamples = resampling.resamples
    if tracks < 2 or resamples < 1:
        raise BadRequestError(
            f"no interval from {tracks} tracks and {resamples} resamples: at least 2 tracks and 1 resample are needed"
        )
    random = np.random.default_rng(resampling.seed)
    step = max(1, CHUNK_CELLS // tracks)
    sizes = [min(step, resamples - begin) for begin in range(0, resamples, step)]
    sampled = np.concatenate([statistic(_draw(random, size, tracks)) for size in sizes])
    tail = (1 - LEVEL) / 2
    with warnings.catch_warnings():
        # NaN where the metric is undefined in every sample.
        warnings.filterwarnings("ignore", "All-NaN slice")
        low, high = np.nanquantile(sampled, [tail, 1 - tail], axis=0)
    return Intervals(statistic(once(tracks))[0], low, high)


def _draw(random: np.random.Generator, resamples: int, tracks: int) -> Counts:
    drawn = random.integers(tracks, size=(resamples, tracks))
    counts: Counts = np.stack([np.bincount(row, minlength=tracks) for row in drawn]).astype(np.int32)
    return counts
