"""Helpers for several test files: a small real model, a small library, and the command line in this process."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from musictagger.audio.frontend import FrontEnd
from musictagger.cli import main
from musictagger.models.card import Card, Tag
from musictagger.models.registry import build
from musictagger.models.weights import save_weights
from musictagger.progress import Progress

TINY = "tiny"
TINY_OUTPUTS = ("rock", "jazz", "mellow", "guitar")
TINY_CONFIG: dict[str, Any] = {"channels": [4, 8], "pools": [[8, 16], [12, 85]]}


def make_model(folder: Path, name: str = TINY, *, seed: int = 0, thresholds: float = 0.0) -> Path:
    """Write a small FCN with random weights as a model into `folder`. By default every tag passes its threshold."""
    torch.manual_seed(seed)
    backbone = build("fcn", len(TINY_OUTPUTS), TINY_CONFIG)
    for module in backbone.modules():
        # Statistics of decibels, as after training: without them every score is 0 or 1.
        if isinstance(module, torch.nn.BatchNorm2d) and module.num_features == 1:
            torch.nn.init.constant_(module.running_mean, -40.0)  # type: ignore[arg-type]
            torch.nn.init.constant_(module.running_var, 400.0)  # type: ignore[arg-type]
    weights = folder / f"{name}.safetensors"
    digest = save_weights(backbone.state_dict(), weights)
    tags = (
        Tag("Rock", "genre", ("rock",), thresholds),
        Tag("Jazz", "genre", ("jazz",), thresholds),
        Tag("Mellow", "mood", ("mellow",), thresholds),
        Tag("Guitar", "instrument", ("guitar",), thresholds),
    )
    card = Card(name, "fcn", TINY_CONFIG, FrontEnd(), TINY_OUTPUTS, tags, "tags", digest)
    card.save(weights.with_suffix(".json"))
    return weights


def write_tone(path: Path, seconds: float, hz: float = 220.0, rate_hz: int = 12_000) -> Path:
    """Write a decaying chord, different for every `hz`, in the format of soundfile that the suffix names."""
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    wave = sum(np.sin(2 * np.pi * hz * step * time_s) / step for step in (1.0, 1.26, 1.5, 2.0))
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(os.fsencode(path), 0.2 * wave * (1 + 0.5 * np.sin(2 * np.pi * 2 * time_s)), rate_hz)
    return path


class Recorder(Progress):
    """A progress that records its calls."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.stages: list[tuple[str, int | None, str]] = []
        self.done: list[int] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def start(self, stage: str, total: int | None, unit: str) -> None:
        self.stages.append((stage, total, unit))

    def advance(self, done: int, **metrics: float) -> None:
        self.done.append(done)


class Stopped(Progress):
    """A progress that asks to stop from the start."""

    stopping = True


@dataclass(frozen=True)
class Result:
    """The output of a command and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def run(*arguments: object) -> Result:
    """Run a command in this process, with errors and exit code as a shell would see them."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = int(end.code or 0)
    texts = [stream.buffer.getvalue().decode("utf-8", "surrogateescape") for stream in (out, err)]
    return Result(code, *texts)


def contents(database: Path) -> list[tuple[Any, ...]]:
    """The content of a library without ids and times: files with their analyses."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return connection.execute(
            "SELECT path, size, mtime_ns, digest, duration_s, genres, failure, missing, name, rule, status, padded,"
            " frames, hex(scores), hex(embedding) FROM file LEFT JOIN audio ON audio.id = file.audio_id"
            " LEFT JOIN analysis ON analysis.audio_id = audio.id LEFT JOIN model ON model.id = model_id ORDER BY path"
        ).fetchall()
