"""The tracks, targets and ground truth of a training, as one value."""

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
    """Training and validation tracks with their targets; `valid_truth` is what epochs are evaluated against."""

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
        """A digest of the audio, tags, splits and order of all tracks."""
        tracks = [[[track.digest, *track.tags] for track in split] for split in (self.train, self.valid)]
        return hashlib.sha256(json.dumps(tracks).encode()).hexdigest()[:16]
