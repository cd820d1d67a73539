"""What the rooms hand to each other: plain values, no torch, no database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from musictagger.audio.frames import Status
from musictagger.audio.walk import FoundFile

Floats = npt.NDArray[np.float32]
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
    scores: Floats
    embedding: Floats


@dataclass(frozen=True)
class Known:
    """A file whose sound needs no analysis: it was done `before`, or another file of this run holds the same."""

    file: FoundFile
    digest: str
    status: Status
    before: bool


@dataclass(frozen=True)
class Broken:
    """A file that could not be inspected or decoded; `passing` when that may be over soon."""

    file: FoundFile
    reason: str
    passing: bool
