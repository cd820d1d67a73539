"""Training data: cached tracks with their targets, and excerpts of one frame's length at random offsets (windows).

All randomness comes from (seed, epoch), so any step of any epoch can be reproduced without the steps before it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from musictagger.audio.frontend import FrontEnd
from musictagger.evaluation.checks import Truth
from musictagger.models.card import Task
from musictagger.records import FloatArray

ReadMel = Callable[[str], npt.NDArray[np.float16]]
"""Digest -> cached mel of the whole track, float16 [columns, n_mels]."""

PREFETCHED_BATCHES = 4
"""Batches that are read before the training step requests them: one would suffice, more bridge a slow disk."""


@dataclass(frozen=True)
class Track:
    """One cached track: its file, the digest of its audio, its length in columns, and its labels."""

    path: Path
    digest: str
    columns: int
    tags: tuple[str, ...] = ()


Target = Callable[[Track, float, float], FloatArray]
"""(track, start in seconds, length in seconds) -> target of that excerpt, float32 [outputs].

NaN marks an unknown output, which the loss ignores.
"""


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

    def train_targets(self) -> FloatArray:
        """Targets of the whole training tracks, float32 [tracks, outputs]."""
        return np.stack([self.target(track, 0.0, math.inf) for track in self.train])

    def digest(self) -> str:
        """A digest of the audio, tags, splits and order of all tracks."""
        tracks = [[[track.digest, *track.tags] for track in split] for split in (self.train, self.valid)]
        return hashlib.sha256(json.dumps(tracks).encode()).hexdigest()[:16]

    def spaced_frames(self, tracks: Sequence[Track], max_frames: int) -> Iterator[tuple[int, list[FloatArray]]]:
        """For each track its number and up to `max_frames` of its adjacent frames, evenly spaced."""
        columns, hops = self.front_end.columns, self.front_end.frame_hops
        for number, track in enumerate(tracks):
            mel = self.read_mel(track.digest)
            count = max(1, (len(mel) - 1) // hops)
            chosen = np.unique(np.linspace(0, count - 1, min(count, max_frames)).round().astype(int))
            yield number, [window(mel, frame * hops, columns) for frame in chosen]


@dataclass(frozen=True)
class Batch:
    """The windows of one step that belong to this process, on the CPU."""

    mel: Tensor
    """float32 [windows, n_mels, columns], as cached: nothing that depends on a whole frame is applied yet."""
    target: Tensor
    """float32 [windows, outputs]."""
    tracks: tuple[Track, ...]
    rows: slice
    """The position of these windows in the step's batch over all processes."""
    windows: int
    """Windows in the step over all processes."""


@dataclass(frozen=True)
class Epoch:
    """The windows of one epoch in order: the number of the track, and the offset in it (0..1 of the possible ones)."""

    track: npt.NDArray[np.intp]
    offset: npt.NDArray[np.float64]
    steps: int

    def step(self, step: int) -> slice:
        """The windows of one step. Sizes differ by at most one, so that the last step is not a small remainder."""
        windows = len(self.track)
        return slice(step * windows // self.steps, (step + 1) * windows // self.steps)


def plan_epoch(tracks: int, windows: int, batch_size: int, seed: int, epoch: int) -> Epoch:
    """An epoch of `windows` windows (a multiple of `tracks`), equally many from each track, in random order."""
    random = np.random.default_rng((seed, epoch))
    return Epoch(random.permutation(windows) % tracks, random.random(windows), steps_per_epoch(windows, batch_size))


def steps_per_epoch(windows: int, batch_size: int) -> int:
    """The number of steps, at least one, that brings their batches nearest to `batch_size`."""
    return max(1, round(windows / batch_size))


def window(mel: npt.NDArray[np.float16], start: int, columns: int) -> FloatArray:
    """Columns [start, start + columns) of a track's mel [columns, n_mels] as float32 [n_mels, columns].

    A shorter track is repeated, as a scan repeats it.
    """
    if start + columns <= len(mel):
        excerpt = mel[start : start + columns]
    else:
        excerpt = mel[np.arange(start, start + columns) % len(mel)]
    return excerpt.T.astype(np.float32)


class WindowLoader:
    """Reads the training tracks in batches. `rank` of `world` processes reads its share of each step."""

    def __init__(self, material: Material, rank: int, world: int) -> None:
        self._material, self._rank, self._world = material, rank, world

    def epoch(self, plan: Epoch, first_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from `first_step` on, prefetched by a thread, whose errors are raised here."""
        # torch's DataLoader prefetches in processes only, which takes longer: 30 steps of 32 windows of 29 s took 4.2 s
        # with one of them, 1.5 s of which the consumer waited, against 2.7 s and 0.2 s with this thread.
        steps = iter(range(first_step, plan.steps))
        thread = ThreadPoolExecutor(1, "prefetch")
        try:
            pending = deque(thread.submit(self.batch, plan, step) for step in islice(steps, PREFETCHED_BATCHES))
            while pending:
                batch = pending.popleft().result()
                pending.extend(thread.submit(self.batch, plan, step) for step in islice(steps, 1))
                yield batch
        finally:
            thread.shutdown(wait=False, cancel_futures=True)

    def batch(self, plan: Epoch, step: int) -> Batch:
        """This process's windows of one step."""
        whole = plan.step(step)
        size = whole.stop - whole.start
        rows = slice(self._rank * size // self._world, (self._rank + 1) * size // self._world)
        chosen = range(whole.start + rows.start, whole.start + rows.stop)
        tracks = tuple(self._material.train[plan.track[index]] for index in chosen)
        read = [self._read(track, plan.offset[index]) for track, index in zip(tracks, chosen, strict=True)]
        mel = np.stack([mel for mel, _ in read]) if read else np.zeros((0, 1, 1), np.float32)
        target = np.stack([target for _, target in read]) if read else np.zeros((0, 1), np.float32)
        return Batch(torch.from_numpy(mel), torch.from_numpy(target), tracks, rows, size)

    def _read(self, track: Track, offset: float) -> tuple[FloatArray, FloatArray]:
        front_end = self._material.front_end
        start = int(offset * max(1, track.columns - front_end.columns + 1))
        seconds_per_column = front_end.hop_samples / front_end.sample_rate_hz
        target = self._material.target(track, start * seconds_per_column, front_end.frame_s)
        return window(self._material.read_mel(track.digest), start, front_end.columns), target
