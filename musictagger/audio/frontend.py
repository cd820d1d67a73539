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

from musictagger.errors import ModelError, clipped

FRAME_HOPS = 1365
"""Hops in a frame of the 12 kHz front end: 1365 x 256 = 349,440 samples = 29.12 s (Choi et al. 2017, 3)."""

_BOUNDS: Mapping[str, tuple[float, float]] = {
    "sample_rate_hz": (1_000, 384_000),
    "n_fft": (16, 65_536),
    "mel_exponent": (1, 4),
    "f_min_hz": (0, 192_000),
    "amin": (1e-37, 1),  # smaller ones are 0 in float32, and have no logarithm
    "top_db": (1, 1_000),
    "gain": (1e-12, 1e12),
}
"""Beyond them nothing was ever trained; what they end in is no number, or no memory."""

_MOST_CELLS = 1 << 24
"""Windows times their samples in one frame: 24 times that of 29 s at 12 kHz, 64 MB of spectrogram."""


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
        """The inverse of `to_json`. Raises ModelError on a number this version does not know, or that cannot be."""
        if not isinstance(values, Mapping):
            raise ModelError(f"the model's front end is no JSON object but {clipped(repr(values))}")
        unknown = set(values) - {field.name for field in dataclasses.fields(cls)}
        if unknown:
            raise ModelError(
                f"the model's front end has unknown settings: {', '.join(sorted(unknown))}; "
                "it was made by a newer musictagger, so update musictagger"
            )
        hints = typing.get_type_hints(cls)
        for name, value in values.items():
            if not _fits(value, hints[name]) or not _lies_within(name, value):
                raise ModelError(f"the model's front end has {name} {clipped(repr(value))}, which it cannot have")
        front_end = cls(**values)
        if reason := front_end._contradiction():
            raise ModelError(f"the model's front end cannot be: {reason}")
        return front_end

    def _contradiction(self) -> str:
        """Which of its numbers do not go together; empty where all do."""
        nyquist_hz = self.sample_rate_hz / 2
        f_max_hz = nyquist_hz if self.f_max_hz is None else self.f_max_hz
        if not self.f_min_hz + 1 <= f_max_hz <= nyquist_hz:
            return f"bands from {self.f_min_hz} to {f_max_hz} Hz, and the sound ends at {nyquist_hz} Hz"
        if self.hop_samples > self.n_fft:
            return f"windows of n_fft {self.n_fft} every {self.hop_samples} samples leave out some of the sound"
        if self.n_mels > self.n_fft // 2 + 1:
            return f"{self.n_mels} mel bands of {self.n_fft // 2 + 1} frequencies"
        if self.pad_mode == "reflect" and self.frame_samples <= self.n_fft // 2:
            return f"a frame of {self.frame_samples} samples is too short to reflect half a window of {self.n_fft}"
        if self.frame_hops * self.n_fft > _MOST_CELLS:
            return f"frames of {self.frame_hops} windows of n_fft {self.n_fft} fit into no memory"
        return ""


def _lies_within(name: str, value: Any) -> bool:
    if value is None or name not in _BOUNDS:
        return True
    low, high = _BOUNDS[name]
    return bool(low <= value <= high)


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
