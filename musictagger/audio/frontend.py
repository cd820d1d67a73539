"""The settings of a front end, which computes the log-mel spectrogram a backbone was trained on.

A model carries its front end in its card; nothing else in the program knows a sample rate.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from msgspec import Meta

from musictagger.errors import ModelError
from musictagger.values import Count, Finite, load

FRAME_HOPS = 1365
"""Hops in a frame of the 12 kHz front end: 1365 x 256 = 349,440 samples = 29.12 s (Choi et al. 2017, 3)."""

_MAX_CELLS = 1 << 24
"""Limit for STFT windows x n_fft of one frame: 24 times those of 29 s at 12 kHz, 64 MB of spectrogram."""


@dataclass(frozen=True)
class FrontEnd:
    """Sample rate, frame length, STFT, mel bands and compression. Defaults: the papers' 12 kHz, 96 x 1366.

    `compression`:
        "db": 10*log10(max(mel ** mel_exponent, amin)), then at most `top_db` below the frame's maximum.
        "log1p": log10(1 + gain * mel) (Pons & Serra 2019).
    `mel_exponent` is 2 in the reference code of Choi et al. 2017, which squares a power spectrogram again.
    `standardise` subtracts each frame's mean and divides by its standard deviation (Flores 2017).
    The limits exclude values that no model was ever trained with and that lead to NaN or exhaust the memory.
    """

    sample_rate_hz: Annotated[int, Meta(ge=1_000, le=384_000)] = 12_000
    n_fft: Annotated[int, Meta(ge=16, le=65_536)] = 512
    hop_samples: Count = 256
    frame_hops: Count = FRAME_HOPS
    n_mels: Count = 96
    f_min_hz: Annotated[float, Meta(ge=0, le=192_000)] = 0.0
    f_max_hz: Finite | None = None
    mel_scale: Literal["slaney", "htk"] = "slaney"
    mel_norm: Literal["slaney"] | None = "slaney"
    pad_mode: Literal["constant", "reflect"] = "constant"
    compression: Literal["db", "log1p"] = "db"
    mel_exponent: Annotated[int, Meta(ge=1, le=4)] = 1
    amin: Annotated[float, Meta(ge=1e-37, le=1)] = 1e-10
    """Smaller values are 0 in float32, which has no logarithm."""
    top_db: Annotated[float, Meta(ge=1, le=1_000)] | None = 80.0
    reference: Literal["one", "max"] = "one"
    gain: Annotated[float, Meta(ge=1e-12, le=1e12)] = 10_000.0
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
        """All settings, as the card stores them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> FrontEnd:
        """The inverse of `to_json`. Raises ModelError for settings that are unknown, out of range or mistyped."""
        if isinstance(values, Mapping) and (unknown := set(values) - cls.__dataclass_fields__.keys()):
            raise ModelError(
                f"the model's front end has unknown settings: {', '.join(sorted(unknown))}; "
                "it was made by a newer musictagger, so update musictagger"
            )
        load(values, cls, "the model's front end", ModelError)
        # Not the loaded value, in which 80 becomes 80.0: the key of a card is a digest of its numbers as written.
        front_end = cls(**values)
        if reason := front_end._contradiction():
            raise ModelError(f"the model's front end is impossible: {reason}")
        return front_end

    def _contradiction(self) -> str:
        """The reason why some settings exclude each other; empty if none do."""
        nyquist_hz = self.sample_rate_hz / 2
        f_max_hz = nyquist_hz if self.f_max_hz is None else self.f_max_hz
        if not self.f_min_hz + 1 <= f_max_hz <= nyquist_hz:
            return f"mel bands from {self.f_min_hz} to {f_max_hz} Hz, with a Nyquist frequency of {nyquist_hz} Hz"
        if self.hop_samples > self.n_fft:
            return f"windows of {self.n_fft} samples (n_fft) every {self.hop_samples} samples leave gaps"
        if self.n_mels > self.n_fft // 2 + 1:
            return f"{self.n_mels} mel bands from {self.n_fft // 2 + 1} frequency bins"
        if self.pad_mode == "reflect" and self.frame_samples <= self.n_fft // 2:
            return f"a frame of {self.frame_samples} samples is too short to reflect half a window of {self.n_fft}"
        if self.frame_hops * self.n_fft > _MAX_CELLS:
            return f"frames of {self.frame_hops} windows of {self.n_fft} samples (n_fft) do not fit into memory"
        return ""
