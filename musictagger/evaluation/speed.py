"""Inference speed of models, measured in turns and as a ratio, since other work on the machine slows all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from musictagger.models.inference import Predictor
from musictagger.records import FloatArray


@dataclass(frozen=True)
class Speed:
    """Speed from waves to scores: the median over rounds, and its ratio to the first model's with its range."""

    frames_per_s: float
    realtime: float
    """Seconds of audio per second."""
    ratio: float
    ratio_low: float
    ratio_high: float


def measure_speed(predictors: Sequence[Predictor], rounds: int = 5) -> list[Speed]:
    """Measure all models in turns.

    Every turn takes noise of the same length: one batch of the model with the longest batch.
    """
    audio_s = max(one.batch_frames * one.card.front_end.frame_s for one in predictors)
    random = np.random.default_rng(0)
    waves = [_noise(random, one, audio_s) for one in predictors]
    taken_s: list[list[float]] = [[] for _ in predictors]
    # The first round is not counted: it compiles kernels and allocates.
    for _ in range(rounds + 1):
        for predictor, frames, times in zip(predictors, waves, taken_s, strict=True):
            started_s = time.perf_counter()
            predictor(frames)
            times.append(time.perf_counter() - started_s)
    realtime = [
        [len(frames) * one.card.front_end.frame_s / seconds for seconds in times[1:]]
        for one, frames, times in zip(predictors, waves, taken_s, strict=True)
    ]
    return [
        _speed(of_one, realtime[0], one.card.front_end.frame_s)
        for of_one, one in zip(realtime, predictors, strict=True)
    ]


def card_speed(predictor: Predictor, speed: Speed) -> dict[str, Any]:
    """The speed as a card keeps it, to compare models that were measured on the same machine."""
    threads = f", {torch.get_num_threads()} threads" if predictor.device.type == "cpu" else ""
    return {"x_real_time": round(speed.realtime), "device": f"{predictor.device.type}{threads}"}


def _speed(realtime: Sequence[float], first: Sequence[float], frame_s: float) -> Speed:
    ratios = [own / other for own, other in zip(realtime, first, strict=True)]
    median = statistics.median(realtime)
    return Speed(
        frames_per_s=median / frame_s,
        realtime=median,
        ratio=statistics.median(ratios),
        ratio_low=min(ratios),
        ratio_high=max(ratios),
    )


def _noise(random: np.random.Generator, predictor: Predictor, audio_s: float) -> list[FloatArray]:
    front_end = predictor.card.front_end
    frames = max(1, round(audio_s / front_end.frame_s))
    return [*(np.float32(0.1) * random.standard_normal((frames, front_end.frame_samples), np.float32))]
