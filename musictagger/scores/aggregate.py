"""From network outputs per frame to tag scores per track: pure, and cheap enough to do at query time.

Source: Roy et al. 2020 (IV): a song's score is the mean over its frames. Median, geometric mean and maximum are the
alternatives named there as future work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from musictagger.models.card import Card
from musictagger.records import Aggregator, FloatArray

GEOMETRIC_FLOOR = 1e-7
"""Below float16's smallest positive number: keeps the geometric mean finite without lifting any stored score."""


def merge_outputs(scores: FloatArray, card: Card) -> FloatArray:
    """Scores of the card's tags, float32 [..., tags], from those of the network's outputs, [..., outputs].

    A tag with several outputs takes the highest of them.
    """
    position = {output: index for index, output in enumerate(card.outputs)}
    merged = [scores[..., [position[output] for output in tag.outputs]].max(axis=-1) for tag in card.tags]
    stacked: FloatArray = np.stack(merged, axis=-1)
    return stacked


def aggregate(frame_scores: FloatArray, how: Aggregator = "mean") -> FloatArray:
    """Scores of one track, float32 [tags], from those of its frames, float32 [frames, tags], at least one."""
    scores: FloatArray = aggregate_tracks(frame_scores, [len(frame_scores)], how)[0]
    return scores


def aggregate_tracks(frame_scores: FloatArray, frames: Sequence[int], how: Aggregator = "mean") -> FloatArray:
    """Scores of many tracks, float32 [tracks, tags].

    `frame_scores` holds the frames of all tracks one after another, [sum(frames), tags]; `frames` is the number of
    frames of each track, at least one.
    """
    if not len(frames):
        return np.zeros((0, frame_scores.shape[-1]), np.float32)
    starts = np.cumsum([0, *frames[:-1]])
    return _AGGREGATORS[how](frame_scores.astype(np.float32), starts, np.asarray(frames))


def _mean(scores: FloatArray, starts: npt.NDArray[np.intp], frames: npt.NDArray[np.intp]) -> FloatArray:
    total: FloatArray = np.add.reduceat(scores, starts, axis=0)
    return (total / frames[:, None]).astype(np.float32)


def _median(scores: FloatArray, starts: npt.NDArray[np.intp], frames: npt.NDArray[np.intp]) -> FloatArray:
    tracks = (scores[start : start + count] for start, count in zip(starts, frames, strict=True))
    return np.stack([np.median(track, axis=0) for track in tracks]).astype(np.float32)


def _geometric(scores: FloatArray, starts: npt.NDArray[np.intp], frames: npt.NDArray[np.intp]) -> FloatArray:
    logs: FloatArray = np.log(np.maximum(scores, np.float32(GEOMETRIC_FLOOR)))
    geometric: FloatArray = np.exp(_mean(logs, starts, frames))
    return geometric


def _max(scores: FloatArray, starts: npt.NDArray[np.intp], frames: npt.NDArray[np.intp]) -> FloatArray:
    highest: FloatArray = np.maximum.reduceat(scores, starts, axis=0)
    return highest


_AGGREGATORS: dict[Aggregator, Callable[[FloatArray, npt.NDArray[np.intp], npt.NDArray[np.intp]], FloatArray]] = {
    "mean": _mean,
    "median": _median,
    "geometric": _geometric,
    "max": _max,
}
