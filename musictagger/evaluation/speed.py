"""How fast models are, measured as a ratio, since machines are busy."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import numpy as np
import torch

from musictagger.evaluation.results import Json
from musictagger.models.inference import Predictor
from musictagger.records import FloatArray


def measure_speed(predictors: Sequence[Predictor], rounds: int = 5) -> list[Json]:
    """How fast each model is from waves to scores, the models taking turns so that a busy machine hurts all alike.

    Every turn is the same length of noise: one batch of the model with the longest batch. Of each model "frames_per_s",
    "realtime" (how many times faster than the music lasts) and "ratio" to the first one, with its range.
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


def card_speed(predictor: Predictor, measured: Json) -> Json:
    """What a card keeps of an item of `measure_speed`, for who chooses among models that one machine measured."""
    threads = f", {torch.get_num_threads()} threads" if predictor.device.type == "cpu" else ""
    return {"x_real_time": round(measured["realtime"]), "device": f"{predictor.device.type}{threads}"}


def _speed(realtime: Sequence[float], first: Sequence[float], frame_s: float) -> Json:
    ratios = [own / other for own, other in zip(realtime, first, strict=True)]
    middle = statistics.median(realtime)
    return {
        "frames_per_s": middle / frame_s,
        "realtime": middle,
        "ratio": statistics.median(ratios),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
    }


def _noise(random: np.random.Generator, predictor: Predictor, audio_s: float) -> list[FloatArray]:
    front_end = predictor.card.front_end
    frames = max(1, round(audio_s / front_end.frame_s))
    noise = 0.1 * random.standard_normal((frames, front_end.frame_samples), np.float32)
    return [*noise.astype(np.float32)]
