"""What the rooms hand to each other: plain values, no torch, no database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from musictagger.audio.frames import Status
from musictagger.audio.walk import FoundFile

FloatArray = npt.NDArray[np.float32]
Aggregator = Literal["mean", "median", "geometric", "max"]
"""How the scores of a track's frames become one (see aggregate_tracks)."""
MergeMode = Literal["fill", "append", "replace", "none"]
"""How new values of a field meet those that are there (see merge_genres)."""


@dataclass(frozen=True)
class Analysed:
    """A model's word on a sound: scores float32 [frames, outputs], embedding float32 [dim], both empty unless ok."""

    file: FoundFile
    digest: str
    status: Status
    duration_s: float
    padded: bool
    scores: FloatArray
    embedding: FloatArray


@dataclass(frozen=True)
class Known:
    """A file whose sound needs no analysis: it was done `before`, or another file of this run holds the same."""

    file: FoundFile
    digest: str
    status: Status
    before: bool


@dataclass(frozen=True)
class Broken:
    """A file that could not be inspected or decoded; `transient` when that may be over soon."""

    file: FoundFile
    reason: str
    transient: bool
