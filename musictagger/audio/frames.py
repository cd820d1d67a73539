"""The slicing rule: which samples of a track become frames.

Source: Roy et al. 2020 ("Multiframe", IV): drop the first and last seconds, cut the rest into frames of equal
length without overlap, drop the last one if it is shorter. The paper leaves two cases open: here, the edges are
dropped only when at least one whole frame remains, and a track shorter than one frame is repeated to fill it.

All lengths are in samples; this module does not depend on sample rates, files or decoders.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

Wave = npt.NDArray[np.float32]
"""Mono samples, float32 [samples], nominally within -1..1."""

Status = Literal["ok", "too short", "silent"]
"""The status of a track: ok, or the reason why it has no frames."""


@dataclass(frozen=True)
class FrameRule:
    """The slicing of a track. `edge_samples` are dropped at each end; `max_frames` limits the number of frames.

    With `tail`, the last frame may be shorter, so that the frames in order are the whole track; it excludes the other
    two options.
    """

    frame_samples: int
    edge_samples: int = 0
    max_frames: int | None = None
    tail: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if self.frame_samples < 1 or self.edge_samples < 0 or (self.max_frames is not None and self.max_frames < 1):
            raise ValueError(f"impossible frame rule: {self}")
        if self.tail and (self.edge_samples or self.max_frames is not None):
            raise ValueError(f"a whole track has no edges and no chosen frames: {self}")

    @property
    def trimmed_from_samples(self) -> int:
        """The shortest length at which a track's edges are dropped."""
        return self.frame_samples + 2 * self.edge_samples


def frame_starts(total_samples: int, rule: FrameRule) -> list[int]:
    """Return the first sample of every frame of a track; empty when not one whole frame fits.

    With `rule.max_frames`, at most that many, evenly spaced over the track; a single one is the middle one.
    """
    edge = rule.edge_samples if total_samples >= rule.trimmed_from_samples else 0
    count = max(0, total_samples - 2 * edge) // rule.frame_samples
    starts = [edge + index * rule.frame_samples for index in range(count)]
    return starts if rule.max_frames is None else evenly(starts, rule.max_frames)


def evenly(items: list[int], count: int) -> list[int]:
    """Return at most `count` of `items`, in order: the middle one of each of `count` equal shares."""
    if len(items) <= count:
        return items
    return [items[(2 * share + 1) * len(items) // (2 * count)] for share in range(count)]


class Slicer:
    """Cuts a stream of blocks of unknown length into the frames of `frame_starts`.

    Call `push` with each block, then `finish`. It holds at most one frame, both edges and one block, so memory does
    not grow with the track. It ignores `rule.max_frames`: which frames are evenly spaced is known only at the end, so
    `decode` seeks to them instead.
    """

    def __init__(self, rule: FrameRule) -> None:
        self._rule = rule
        self._held: list[Wave] = []
        self._held_samples = 0
        self._trimming = False
        self.total_samples = 0
        self.peak = 0.0

    def push(self, block: Wave) -> Iterator[Wave]:
        """Take a block, float32 [samples]; yield the frames that it completes, float32 [frame_samples]."""
        self.total_samples += len(block)
        self.peak = max(self.peak, float(np.max(np.abs(block), initial=0.0)))
        self._held.append(block)
        self._held_samples += len(block)
        rule = self._rule
        if not self._trimming:
            if self._held_samples < rule.trimmed_from_samples:
                return
            self._trimming = True
            self._take(rule.edge_samples)
        # A frame is complete only once the edge after it has been seen: until then it may reach into the edge.
        while self._held_samples >= rule.frame_samples + rule.edge_samples:
            yield self._take(rule.frame_samples)

    def finish(self) -> Iterator[Wave]:
        """Yield the remaining frames: of a track too short to lose its edges, or one filled by repetition."""
        if self._rule.tail:
            if self._held_samples:
                yield self._take(self._held_samples)
        elif 0 < self.total_samples < self._rule.frame_samples:
            # Filled with repetitions of the track.
            yield np.resize(np.concatenate(self._held), self._rule.frame_samples)
        elif not self._trimming:
            while self._held_samples >= self._rule.frame_samples:
                yield self._take(self._rule.frame_samples)

    @property
    def padded(self) -> bool:
        """Whether the only frame is a repeated short track."""
        return not self._rule.tail and 0 < self.total_samples < self._rule.frame_samples

    def _take(self, samples: int) -> Wave:
        """Remove the first samples held, and return them."""
        held = np.concatenate(self._held)
        self._held = [held[samples:].copy()]
        self._held_samples -= samples
        return held[:samples]
