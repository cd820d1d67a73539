"""The numbers of a front end: how sound becomes the log-mel spectrogram a backbone was trained on.

A model carries its front end in its card; nothing else in the program knows a sample rate.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from musictagger.errors import ModelError

FRAME_HOPS = 1365
"""Hops in a frame of the 12 kHz front end: 1365 x 256 = 349,440 samples = 29.12 s (Choi et al. 2017, 3)."""


@dataclass(frozen=True)
class FrontEnd:
    """Sample rate, frame length, STFT, mel bands and compression. Defaults: the papers' 12 kHz, 96 x 1366.

    `compression`:
        "db": 10*log10(max(mel ** mel_exponent, amin)), then at most `top_db` below the frame's maximum.
        "log1p": log10(1 + gain * mel) (Pons & Serra 2019).
    `mel_exponent` is 2 in the reference code of Choi et al. 2017, which squares a power spectrogram again.
    `standardise` subtracts each frame's mean and divides by its deviation (Flores 2017).
    """

    sample_rate_hz: int = 12_000
    n_fft: int = 512
    hop_samples: int = 256
    frame_hops: int = FRAME_HOPS
    n_mels: int = 96
    f_min_hz: float = 0.0
    f_max_hz: float | None = None
    mel_scale: Literal["slaney", "htk"] = "slaney"
    mel_norm: Literal["slaney"] | None = "slaney"
    pad_mode: Literal["constant", "reflect"] = "constant"
    compression: Literal["db", "log1p"] = "db"
    mel_exponent: int = 1
    amin: float = 1e-10
    top_db: float | None = 80.0
    reference: Literal["one", "max"] = "one"
    gain: float = 10_000.0
    standardise: bool = False

    @property
    def frame_samples(self) -> int:
        """Samples in one frame, at `sample_rate_hz`."""
        return self.frame_hops * self.hop_samples

    @property
    def frame_s(self) -> float:
        """Length of one frame in seconds."""
        return self.frame_samples / self.sample_rate_hz

    @property
    def columns(self) -> int:
        """Mel columns of one frame with centred windows: one more than its hops."""
        return self.frame_hops + 1

    def to_json(self) -> dict[str, Any]:
        """Every number, as the card stores it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> FrontEnd:
        """The inverse of `to_json`. Raises ModelError on a number this version does not know."""
        unknown = set(values) - {field.name for field in dataclasses.fields(cls)}
        if unknown:
            raise ModelError(
                f"the model's front end has unknown settings: {', '.join(sorted(unknown))}; "
                "it was made by a newer musictagger, so update musictagger"
            )
        hints = typing.get_type_hints(cls)
        for name, value in values.items():
            if not _fits(value, hints[name]):
                raise ModelError(f"the model's front end has {name} {value!r}, which it cannot have")
        return cls(**values)


def _fits(value: object, hint: Any) -> bool:
    """Whether a value from JSON is of a field's type; every whole number here counts something, from 1 on."""
    if typing.get_origin(hint) is Literal:
        return value in typing.get_args(hint)
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return any(_fits(value, part) for part in typing.get_args(hint))
    if hint is int:
        return type(value) is int and value >= 1
    if hint is float:
        return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
    return type(value) is hint
