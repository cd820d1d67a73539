"""Plain values that packages pass to each other. Imports neither torch nor a database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from musictagger.audio.frames import Status
    from musictagger.audio.walk import FoundFile

FloatArray = npt.NDArray[np.float32]
Aggregator = Literal["mean", "median", "geometric", "max"]
"""How the scores of a track's frames are combined into one (see aggregate_tracks)."""
MergeMode = Literal["fill", "append", "replace", "none"]
"""How new values of a field are combined with those already there (see merge_genres)."""


@dataclass(frozen=True, eq=False)
class Analysed:
    """A model's analysis of a track: scores float32 [frames, outputs], embedding float32 [dim], empty unless ok."""

    file: FoundFile
    digest: str
    status: Status
    duration_s: float
    padded: bool
    """Whether the track is shorter than a frame and was repeated to fill one."""
    scores: FloatArray
    embedding: FloatArray
