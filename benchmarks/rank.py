"""Agreement of rankings, and the neighbours of tracks in an embedding."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import spearmanr
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

MIN_PAIRS = 3
"""A correlation of fewer pairs is meaningless."""


def rank_correlation(scores: npt.NDArray[Any], teacher: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Spearman's rank correlation of each tag, float64 [tags], from two arrays [tracks, tags].

    Tracks where either is NaN are left out; NaN for a tag with constant scores or fewer than three tracks.
    """
    return np.array([_spearman(ours, theirs) for ours, theirs in zip(scores.T, teacher.T, strict=True)])


def _spearman(ours: npt.NDArray[Any], theirs: npt.NDArray[Any]) -> float:
    known = ~(np.isnan(ours) | np.isnan(theirs))
    ours, theirs = ours[known], theirs[known]
    if len(ours) < MIN_PAIRS or np.ptp(ours) == 0 or np.ptp(theirs) == 0:
        return float("nan")
    return float(spearmanr(ours, theirs).statistic)


@dataclass(frozen=True)
class Neighbours:
    """The share of the `k` nearest neighbours of a track that are in its own group."""

    k: int
    share: float
    chance: float
    """The share among neighbours drawn at random."""
    tracks: int
    """Tracks with others in their group; without any, both shares are NaN."""


def same_album_neighbours(embeddings: npt.NDArray[Any], groups: Sequence[Hashable], k: int = 1) -> Neighbours:
    """The share of nearest tracks by cosine in the same group (album, artist), from embeddings [tracks, dim].

    A track that is alone in its group can be a neighbour, but its own neighbours are not counted.
    """
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    group = np.array([numbers[each] for each in groups], np.intp)
    others = np.bincount(group)[group] - 1 if len(group) else group
    counted = np.flatnonzero(others)
    if not len(counted):
        return Neighbours(k, float("nan"), float("nan"), 0)
    # Among vectors of length 1, the nearest have the smallest angle. `kneighbors()` does not count a track as its own
    # neighbour.
    found = NearestNeighbors(n_neighbors=min(k, len(group) - 1)).fit(normalize(embeddings))
    nearest = found.kneighbors(return_distance=False)[counted]
    share = float((group[nearest] == group[counted, None]).mean())
    return Neighbours(k, share, float((others[counted] / (len(group) - 1)).mean()), len(counted))
