"""Figures and how sure they are: samples of tracks with replacement, as counts of how often each is drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from musictagger.errors import BadRequestError
from musictagger.evaluation.checks import DoubleArray

Counts = npt.NDArray[np.int32]
Statistic = Callable[[Counts], DoubleArray]
"""From counts [resamples, rows] to figures [resamples, ...]."""

CHUNK_CELLS = 1 << 20
"""Resamples times rows held at once: 4 MiB of counts."""


class Intervals(NamedTuple):
    """A figure and its bootstrap interval, each float64 [...] of the statistic's own shape."""

    value: DoubleArray
    low: DoubleArray
    high: DoubleArray


def once(rows: int) -> Counts:
    """The one sample that holds every row once: int32 [1, rows]."""
    return np.ones((1, rows), np.int32)


def ratio(above: npt.ArrayLike, below: npt.ArrayLike) -> DoubleArray:
    """`above / below`, and NaN where `below` is 0."""
    over, under = np.broadcast_arrays(np.asarray(above, np.float64), np.asarray(below, np.float64))
    divided: DoubleArray = np.divide(over, under, out=np.full(over.shape, np.nan), where=under != 0)
    return divided


def mean_defined(values: DoubleArray) -> DoubleArray:
    """The mean over the last axis of what is not NaN; NaN where nothing is left."""
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0.0).sum(axis=-1), defined.sum(axis=-1))


def mean_of_rows(values: DoubleArray, counts: Counts) -> DoubleArray:
    """The mean of `values` [rows] in each sample, [resamples]; rows that are NaN are in none."""
    defined = ~np.isnan(values)
    return ratio(counts @ np.where(defined, values, 0.0), counts @ defined.astype(np.float64))


def bootstrap(
    statistic: Statistic, tracks: int, *, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> Intervals:
    """The statistic of all tracks, and its percentile interval over `resamples` samples of tracks with replacement.

    The interval says how far the figure depends on which tracks the test set happens to hold, not on the seed of the
    training. Quantiles are taken over the samples in which the figure is defined. Source: Efron 1979.
    Raises BadRequestError for fewer than 2 tracks, or a number of resamples or a level that makes no sense.
    """
    if tracks < 2 or resamples < 1 or not 0 < level < 1:
        raise BadRequestError(
            f"no interval from {tracks} tracks, {resamples} resamples and level {level}: "
            "at least 2 tracks, 1 resample and a level between 0 and 1 are needed"
        )
    random = np.random.default_rng(seed)
    step = max(1, CHUNK_CELLS // tracks)
    sizes = [min(step, resamples - begin) for begin in range(0, resamples, step)]
    figures = np.concatenate([statistic(_draw(random, size, tracks)) for size in sizes])
    low, high = _quantiles(figures, (1 - level) / 2)
    return Intervals(statistic(once(tracks))[0], low, high)


def _draw(random: np.random.Generator, resamples: int, tracks: int) -> Counts:
    drawn = random.integers(tracks, size=(resamples, tracks))
    counts: Counts = np.stack([np.bincount(row, minlength=tracks) for row in drawn]).astype(np.int32)
    return counts


def _quantiles(figures: DoubleArray, tail: float) -> tuple[DoubleArray, DoubleArray]:
    """The `tail` and `1 - tail` quantiles over the first axis, NaN where no sample has a figure."""
    flat = figures.reshape(len(figures), -1)
    pairs = np.full((2, flat.shape[1]), np.nan)
    for column, values in enumerate(flat.T):
        defined = values[~np.isnan(values)]
        if len(defined):
            pairs[:, column] = np.quantile(defined, [tail, 1 - tail])
    low, high = pairs.reshape(2, *figures.shape[1:])
    return low, high
