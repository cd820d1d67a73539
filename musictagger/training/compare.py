"""Models side by side on the same tracks and tags: plain values, nothing is printed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from musictagger.audio.frames import FrameRule
from musictagger.models.weights import Model
from musictagger.pool import DEFAULT_TIMEOUT_S
from musictagger.tagging.aggregate import Aggregator
from musictagger.training.datasets.base import Dataset
from musictagger.training.judge import Part
from musictagger.training.progress import Progress
from musictagger.training.report_data import Json


@dataclass(frozen=True)
class Contender:
    """A loaded model and the weights file it came from."""

    model: Model
    weights: Path


def compare(
    contenders: Sequence[Contender],
    dataset: Dataset,
    split: Part = "test",
    *,
    device: str = "auto",
    batch_frames: int | None = None,
    trim_edges_s: float = 5.0,
    aggregator: Aggregator = "mean",
    workers: int = 1,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    resamples: int = 1000,
    seed: int = 0,
    speed_rounds: int = 5,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Json:
    """Figures of at least two models on the tracks that all of them could score and the tags that all of them have.

    A FIGURE is {"value": x, "low": x, "high": x} (95 % bootstrap interval over tracks), each null where undefined.

    {"dataset": "mtat", "split": "test", "task": "tags" or "genre", "device": "cpu",
     "tracks": 123,                      tracks in the comparison
     "left_out": {"PATH": "why", ...},   tracks of the split that are not
     "tags": ["Rock", ...],              names as the first model has them
     "only_some": ["polka", ...],        tags of the dataset that not every model has
     "metrics": ["auc", ...],            the keys of "figures", best known first; higher is better in all of them
     "models": [
       {"name": "musicnn-msd", "weights": "PATH", "backbone": "musicnn",
        "parameters": 787000, "file_bytes": 3200000,
        "figures": {"auc": FIGURE, ...},
        "difference": {"auc": FIGURE, ...},   this model minus the first, on the same resamples; null for the first
        "speed": {"frames_per_s": x, "realtime": x, "ratio": x, "ratio_low": x, "ratio_high": x}},
       ...]}

    metrics: tags: auc, average_precision, recall@1, recall@3, recall@5, recall@10, jaccard (at the card's thresholds);
    genre: accuracy, f1, auc, frame_accuracy. "realtime" is seconds of audio per second, without decoding; "ratio" is
    how many times as fast as the first model (in seconds of audio), the median over rounds in which all models took
    turns, with its lowest and highest round; "speed" is null with `speed_rounds` 0.

    Raises BadRequestError for fewer than two models, no common tag or fewer than two common tracks.
    """
    raise NotImplementedError


_ = FrameRule
