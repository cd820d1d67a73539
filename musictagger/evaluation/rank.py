"""How alike two rankings are, and whether an embedding keeps together what belongs together."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

_ROWS_AT_ONCE = 1024
"""Tracks compared with all others in one go: 4 MB a thousand others."""

FEWEST = 3
"""With fewer pairs a correlation says nothing."""


def rank_correlation(scores: npt.NDArray[Any], teacher: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Spearman's rank correlation of each tag, float64 [tags], from two arrays [tracks, tags].

    Equal scores share their mean rank. Tracks where either is NaN are left out; NaN for a tag that one of the two
    gives a single score for, or that fewer than three tracks have.
    """
    return np.array([_spearman(ours, theirs) for ours, theirs in zip(scores.T, teacher.T, strict=True)])


def _spearman(ours: npt.NDArray[Any], theirs: npt.NDArray[Any]) -> float:
    known = ~(np.isnan(ours) | np.isnan(theirs))
    if known.sum() < FEWEST:
        return float("nan")
    one, other = (ranks - ranks.mean() for ranks in (mean_ranks(ours[known]), mean_ranks(theirs[known])))
    spread = float(np.sqrt((one**2).sum() * (other**2).sum()))
    return float((one * other).sum()) / spread if spread else float("nan")


def mean_ranks(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """The rank of each value, from 1 on; equal ones have the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: npt.NDArray[np.float64] = (last - (counts - 1) / 2)[inverse]
    return ranks


@dataclass(frozen=True)
class Neighbours:
    """Of the `k` nearest neighbours of each track that has others of its group: the share of its own group."""

    k: int
    share: float
    chance: float
    """The share that neighbours drawn at random would have."""
    tracks: int
    """Tracks that have others of their group; without any, both shares are NaN."""


def same_album_neighbours(embeddings: npt.NDArray[Any], groups: Sequence[Hashable], k: int = 1) -> Neighbours:
    """Whether the nearest by cosine come from the same group (album, artist), with `embeddings` [tracks, dim].

    A track alone in its group may be a neighbour but is not asked for its own.
    """
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    group = np.array([numbers[each] for each in groups], np.intp)
    others = np.bincount(group)[group] - 1 if len(group) else group
    asked = np.flatnonzero(others)
    if not len(asked):
        return Neighbours(k, float("nan"), float("nan"), 0)
    unit = embeddings.astype(np.float32)
    unit = unit / np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    same = []
    for start in range(0, len(asked), _ROWS_AT_ONCE):
        rows = asked[start : start + _ROWS_AT_ONCE]
        likeness = unit[rows] @ unit.T
        likeness[np.arange(len(rows)), rows] = -np.inf
        nearest = np.argsort(-likeness, axis=1, kind="stable")[:, : min(k, len(group) - 1)]
        same.append((group[nearest] == group[rows, None]).mean(axis=1))
    chance = float((others[asked] / (len(group) - 1)).mean())
    return Neighbours(k, float(np.concatenate(same).mean()), chance, len(asked))
