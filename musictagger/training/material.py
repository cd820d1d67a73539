"""What a training run is made of, as values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from musictagger.audio.frontend import FrontEnd
from musictagger.evaluation.checks import Truth
from musictagger.models.card import Task
from musictagger.training.windows import ReadMel, Target, Track


@dataclass(frozen=True)
class Material:
    """What a run learns from, and what its epochs are compared by."""

    task: Task
    outputs: tuple[str, ...]
    front_end: FrontEnd
    train: Sequence[Track]
    valid: Sequence[Track]
    read_mel: ReadMel
    target: Target
    valid_truth: Truth
    """bool [validation tracks, outputs]."""

    def digest(self) -> str:
        """Equal where sounds, tags, splits and their order are."""
        tracks = [[[track.digest, *track.tags] for track in split] for split in (self.train, self.valid)]
        return hashlib.sha256(json.dumps(tracks).encode()).hexdigest()[:16]
