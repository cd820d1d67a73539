"""What a training step sees: windows of one frame's length at random offsets of cached tracks, and their targets.

Everything random comes from (seed, epoch), so any step of any epoch can be made again without having made those before.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from musictagger.audio.frontend import FrontEnd
from musictagger.records import FloatArray

T = TypeVar("T")
ReadMel = Callable[[str], npt.NDArray[np.float16]]
"""Digest -> cached mel of the whole track, float16 [columns, n_mels]."""

PREFETCHED_BATCHES = 4
"""Batches read before they are asked for. One would do; more cover a slow disk now and then."""


@dataclass(frozen=True)
class Track:
    """One cached track: its file, its sound, its length in columns, and its own tags."""

    path: Path
    digest: str
    columns: int
    tags: tuple[str, ...] = ()


Target = Callable[[Track, float, float], FloatArray]
"""(track, start in seconds, length in seconds) -> what is to be learnt of that part, float32 [outputs].

NaN where nobody knows: that output is left out of the loss.
"""


@dataclass(frozen=True)
class Batch:
    """Windows of one step of one process, on the CPU."""

    mel: Tensor
    """float32 [windows, n_mels, columns], as the cache has it: nothing of the frame applied yet."""
    target: Tensor
    """float32 [windows, outputs]."""
    tracks: tuple[Track, ...]
    first: int
    """Position of the first window in the step's batch over all processes."""
    windows: int
    """Windows in the step over all processes."""


@dataclass(frozen=True)
class Epoch:
    """The windows of one epoch in order: which track, and where in it (0..1 of what is possible)."""

    track: npt.NDArray[np.intp]
    place: npt.NDArray[np.float64]
    steps: int

    def step(self, step: int) -> slice:
        """The windows of one step. Sizes differ by at most one, so that no step is a leftover of two windows."""
        windows = len(self.track)
        return slice(step * windows // self.steps, (step + 1) * windows // self.steps)


def plan_epoch(tracks: int, windows: int, batch_size: int, seed: int, epoch: int) -> Epoch:
    """Every track equally often, `windows` in all (a multiple of `tracks`), in an order of this epoch's own."""
    random = np.random.default_rng((seed, epoch))
    return Epoch(random.permutation(windows) % tracks, random.random(windows), steps_per_epoch(windows, batch_size))


def steps_per_epoch(windows: int, batch_size: int) -> int:
    """At least one; the batches that come out are nearest to `batch_size`."""
    return max(1, round(windows / batch_size))


def window(mel: npt.NDArray[np.float16], start: int, columns: int) -> FloatArray:
    """Columns [start, start + columns) of a track's mel [columns, n_mels] as float32 [n_mels, columns].

    A track shorter than that is repeated, as a scan repeats it.
    """
    if start + columns <= len(mel):
        part = mel[start : start + columns]
    else:
        part = mel[np.arange(start, start + columns) % len(mel)]
    return part.T.astype(np.float32)


class WindowLoader:
    """Cached tracks as batches. `rank` of `world` processes reads its share of each step."""

    def __init__(
        self, tracks: Sequence[Track], read_mel: ReadMel, front_end: FrontEnd, target: Target, rank: int, world: int
    ) -> None:
        self._tracks = tracks
        self._read_mel = read_mel
        self._front_end = front_end
        self._target = target
        self._rank, self._world = rank, world

    def epoch(self, plan: Epoch, first_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from `first_step` on, read ahead by a thread. Raises what reading raised."""
        return prefetched(self.batch(plan, step) for step in range(first_step, plan.steps))

    def batch(self, plan: Epoch, step: int) -> Batch:
        """This process's windows of one step."""
        whole = plan.step(step)
        size = whole.stop - whole.start
        first, last = self._rank * size // self._world, (self._rank + 1) * size // self._world
        chosen = range(whole.start + first, whole.start + last)
        tracks = tuple(self._tracks[plan.track[index]] for index in chosen)
        read = [self._read(track, plan.place[index]) for track, index in zip(tracks, chosen, strict=True)]
        mel = np.stack([mel for mel, _ in read]) if read else np.zeros((0, 1, 1), np.float32)
        target = np.stack([target for _, target in read]) if read else np.zeros((0, 1), np.float32)
        return Batch(torch.from_numpy(mel), torch.from_numpy(target), tracks, first, size)

    def _read(self, track: Track, place: float) -> tuple[FloatArray, FloatArray]:
        columns = self._front_end.columns
        start = int(place * max(1, track.columns - columns + 1))
        seconds_per_column = self._front_end.hop_samples / self._front_end.sample_rate_hz
        target = self._target(track, start * seconds_per_column, self._front_end.frame_s)
        return window(self._read_mel(track.digest), start, columns), target


def frames_of(
    tracks: Sequence[Track], read_mel: ReadMel, front_end: FrontEnd, most: int
) -> Iterator[tuple[int, list[FloatArray]]]:
    """For each track its number and its frames side by side, at most `most` of them evenly spaced."""
    columns, hops = front_end.columns, front_end.frame_hops
    for number, track in enumerate(tracks):
        mel = read_mel(track.digest)
        count = max(1, (len(mel) - 1) // hops)
        places = np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))
        yield number, [window(mel, place * hops, columns) for place in places]


def prefetched(items: Iterator[T], most: int = PREFETCHED_BATCHES) -> Iterator[T]:
    """The same items, made by a thread that is at most `most` of them ahead. Raises what making them raised."""
    done: queue.Queue[tuple[bool, T | BaseException | None]] = queue.Queue(most)
    over = threading.Event()

    def put(kind: bool, value: T | BaseException | None) -> None:
        while not over.is_set():
            try:
                done.put((kind, value), timeout=0.1)
                return
            except queue.Full:
                continue

    def make() -> None:
        try:
            for item in items:
                put(True, item)
                if over.is_set():
                    return
            put(False, None)
        except BaseException as error:
            # Handed over: raised in the thread that trains.
            put(False, error)

    threading.Thread(target=make, name="read-ahead", daemon=True).start()
    try:
        while True:
            more, value = done.get()
            if isinstance(value, BaseException):
                raise value
            if not more:
                return
            yield value  # type: ignore[misc]
    finally:
        over.set()
