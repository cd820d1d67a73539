"""The slicing rule: which samples of a track become frames.

Source: Roy et al. 2020 ("Multiframe", IV): drop the first and last seconds, cut the rest into frames of equal
length without overlap, drop the last one if it is shorter. What the paper leaves open is decided here: the edges
are dropped only where at least one whole frame remains, and a track shorter than one frame is repeated to fill it.

Everything here counts samples and knows no sample rate, no file and no decoder.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

Wave = npt.NDArray[np.float32]
"""Mono samples, float32 [samples], nominally within -1..1."""

Status = Literal["ok", "too short", "silent"]
"""Whether a track has frames, and if not, why."""


@dataclass(frozen=True)
class FrameRule:
    """How a track is sliced. `edge_samples` are dropped at each end; `most` bounds the number of frames.

    With `tail`, what remains behind the last frame (or a whole shorter track) comes out as it is, so that the frames
    are the whole track in order; it goes with neither of the others.
    """

    frame_samples: int
    edge_samples: int = 0
    most: int | None = None
    tail: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if self.frame_samples < 1 or self.edge_samples < 0 or (self.most is not None and self.most < 1):
            raise ValueError(f"impossible frame rule: {self}")
        if self.tail and (self.edge_samples or self.most is not None):
            raise ValueError(f"a whole track has no edges and no chosen frames: {self}")

    @property
    def trimmed_from_samples(self) -> int:
        """The length from which a track's edges are dropped."""
        return self.frame_samples + 2 * self.edge_samples


def frame_starts(total_samples: int, rule: FrameRule) -> list[int]:
    """First sample of every frame of a track of `total_samples`; empty where not one whole frame fits.

    With `rule.most`, that many of them, evenly spaced over the track, its middle included when there is one only.
    """
    edge = rule.edge_samples if total_samples >= rule.trimmed_from_samples else 0
    count = max(0, total_samples - 2 * edge) // rule.frame_samples
    starts = [edge + index * rule.frame_samples for index in range(count)]
    return starts if rule.most is None else evenly(starts, rule.most)


def evenly(items: list[int], most: int) -> list[int]:
    """At most `most` of `items`: the middle one of each of `most` equal shares, in order."""
    if len(items) <= most:
        return items
    return [items[(2 * share + 1) * len(items) // (2 * most)] for share in range(most)]


def fill_frame(wave: Wave, frame_samples: int) -> Wave:
    """A whole frame of a wave shorter than one, by repeating it. `wave` must not be empty."""
    return np.resize(wave, frame_samples)


class Slicer:
    """Cuts a stream of blocks into the frames of `frame_starts`, without knowing its length beforehand.

    Feed blocks with `push`, then call `finish`. It holds at most one frame, both edges and one block, so memory
    does not grow with the track. `rule.most` is not its business: which frames are evenly spaced is known only at
    the end, so `decode` seeks to them instead.
    """

    def __init__(self, rule: FrameRule) -> None:
        self._rule = rule
        self._held: list[Wave] = []
        self._held_samples = 0
        self._trimming = False
        self.total_samples = 0
        self.frames = 0
        self.peak = 0.0

    def push(self, block: Wave) -> Iterator[Wave]:
        """Take one block, float32 [any number of samples]; yield the frames it completes, float32 [frame_samples]."""
        self.total_samples += len(block)
        self.peak = max(self.peak, float(np.max(np.abs(block), initial=0.0)))
        self._held.append(block)
        self._held_samples += len(block)
        rule = self._rule
        if not self._trimming:
            if self._held_samples < rule.trimmed_from_samples:
                return
            self._trimming = True
            self._drop(rule.edge_samples)
        # A frame is sure only when the edge behind it has been seen too: until then it may reach into the edge.
        while self._held_samples >= rule.frame_samples + rule.edge_samples:
            yield self._take(rule.frame_samples)

    def finish(self) -> Iterator[Wave]:
        """Yield what remains: the frames of a track too short to lose its edges, or one filled by repetition."""
        if self._rule.tail:
            if self._held_samples:
                yield self._take(self._held_samples)
            return
        if self._trimming or not self.total_samples:
            return
        if self.total_samples < self._rule.frame_samples:
            self.frames += 1
            yield fill_frame(np.concatenate(self._held), self._rule.frame_samples)
            return
        while self._held_samples >= self._rule.frame_samples:
            yield self._take(self._rule.frame_samples)

    @property
    def padded(self) -> bool:
        """Whether the only frame is a short track repeated."""
        return not self._rule.tail and 0 < self.total_samples < self._rule.frame_samples

    def _take(self, samples: int) -> Wave:
        self.frames += 1
        return self._drop(samples)

    def _drop(self, samples: int) -> Wave:
        held = np.concatenate(self._held)
        self._held = [held[samples:].copy()]
        self._held_samples -= samples
        return held[:samples]


def slice_wave(blocks: Iterable[Wave], rule: FrameRule) -> list[Wave]:
    """All frames of a track given as blocks; the whole rule in one call, for short inputs and tests."""
    slicer = Slicer(rule)
    frames = [frame for block in blocks for frame in slicer.push(block)]
    return frames + list(slicer.finish())
