"""Augmentation of training windows, on batches of log-mels.

Each function takes a batch and the random numbers of the step (`StepRandom`), drawn for the step's whole batch, so that
two processes with half the batch each see what one process sees with all of it. Only mixup pairs windows within a half.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from musictagger.audio.frontend import FrontEnd
from musictagger.audio.logmel import band_edges_hz
from musictagger.training.options import TrainOptions

NOISE_BELOW_DB = (5.0, 40.0)
"""How far noise lies below the music: from as loud as on a worn cassette to barely audible."""


@dataclass(frozen=True)
class StepRandom:
    """Random numbers for the `windows` of a step, of which this process holds those of `rows`."""

    generator: torch.Generator
    rows: slice
    windows: int

    def uniform(self) -> Tensor:
        """Numbers from 0 to 1, one for each window of this process, float32 [rows]."""
        return torch.rand(self.windows, generator=self.generator)[self.rows]

    def symmetric(self) -> Tensor:
        """Numbers from -1 to 1, one for each window of this process, float32 [rows]."""
        return self.uniform() * 2 - 1


def step_generator(seed: int, epoch: int, step: int) -> torch.Generator:
    """The source of all randomness in one step."""
    # torch's CPU generator uses only the lower 32 bits: multiplying by odd constants makes them differ between steps.
    mixed = (seed * 0x9E3779B97F4A7C15 + epoch * 0xBF58476D1CE4E5B9 + step * 0x94D049BB133111EB) % 2**63
    return torch.Generator().manual_seed(mixed)


def gain_and_tilt(mel: Tensor, front_end: FrontEnd, options: TrainOptions, random: StepRandom) -> Tensor:
    """Random gain and spectral tilt of `mel` [batch, n_mels, columns], before the maximum of the frame is taken."""
    if not options.gain_db and not options.tilt_db:
        return mel
    gain_db = random.symmetric() * options.gain_db
    tilt_db = random.symmetric() * options.tilt_db
    change_db = gain_db[:, None] + tilt_db[:, None] * torch.linspace(-0.5, 0.5, mel.shape[1])
    return apply_gain(mel, change_db[:, :, None].to(mel.device), front_end)


def time_stretch(mel: Tensor, options: TrainOptions, random: StepRandom) -> Tensor:
    """Random tempo: interpolate the columns of `mel` [batch, n_mels, columns]; faster windows repeat their start."""
    if not options.stretch:
        return mel
    speed = 1 + random.symmetric() * options.stretch
    return _interpolated(mel, torch.arange(mel.shape[2]) * speed[:, None] % mel.shape[2])


def pitch_shift(mel: Tensor, front_end: FrontEnd, options: TrainOptions, random: StepRandom) -> Tensor:
    """Random pitch: interpolate the bands of `mel` [batch, n_mels, columns]; beyond the outermost, repeat it."""
    if not options.pitch_semitones:
        return mel
    factor = 2 ** (random.symmetric() * options.pitch_semitones / 12)
    return _interpolated(mel.transpose(1, 2), shifted_bands(front_end, factor)).transpose(1, 2)


def shifted_bands(front_end: FrontEnd, factor: Tensor) -> Tensor:
    """The source of each band when frequencies are multiplied by `factor` [windows]: float32 [windows, n_mels]."""
    centres_hz = band_edges_hz(front_end)[1:-1]
    source_hz = (centres_hz / factor[:, None]).clamp(centres_hz[0], centres_hz[-1])
    above = torch.searchsorted(centres_hz, source_hz.contiguous()).clamp(1, len(centres_hz) - 1)
    below_hz, above_hz = centres_hz[above - 1], centres_hz[above]
    return (above - 1 + (source_hz - below_hz) / (above_hz - below_hz)).float()


def _interpolated(values: Tensor, positions: Tensor) -> Tensor:
    """`values` [batch, rows, n], linearly interpolated at `positions` [batch, m] from 0 to n: [batch, rows, m]."""
    low = positions.floor().long()
    fraction = (positions - low).to(values.device)[:, None]
    ends = values.shape[2]
    shape = (len(values), values.shape[1], positions.shape[1])
    lower, upper = (
        values.gather(2, (index % ends).to(values.device)[:, None].expand(shape)) for index in (low, low + 1)
    )
    return lower + (upper - lower) * fraction


def apply_gain(mel: Tensor, gain_db: Tensor, front_end: FrontEnd) -> Tensor:
    """The mel of the same audio amplified by `gain_db` (broadcast over `mel`)."""
    if front_end.compression == "db":
        return mel + gain_db * front_end.mel_exponent
    return _level(_power(mel, front_end) * 10 ** (gain_db / 10), front_end)


def add_noise(mel: Tensor, front_end: FrontEnd, options: TrainOptions, random: StepRandom) -> Tensor:
    """Add steady noise, white to pink, to a share `options.noise` of the windows: hiss, rain, an old tape.

    `mel` is [batch, n_mels, columns], before the maximum of the frame is taken.
    """
    if not options.noise:
        return mel
    draws = torch.rand((4, random.windows), generator=random.generator, dtype=torch.float64)
    hit, below, colour, seed = draws[:, random.rows]
    chosen = torch.nonzero(hit < options.noise)[:, 0]
    below_db = NOISE_BELOW_DB[0] + below[chosen] * (NOISE_BELOW_DB[1] - NOISE_BELOW_DB[0])
    noisy = mel.clone()
    for row, down_db, slope, number in zip(chosen.tolist(), below_db, colour[chosen], seed[chosen], strict=True):
        own = torch.Generator().manual_seed(int(number * 2**53))
        noise, height = _noise(front_end, mel.shape[2], slope, own)
        power = _power(mel[row].cpu(), front_end)
        # A band of power p under a triangle of this height has p / height of power around it.
        share = 10 ** (-down_db / 10) * (power.mean(dim=1) / height).sum()
        noisy[row] = _level(power + share.float() * noise, front_end).to(mel.device)
    return noisy


def _noise(front_end: FrontEnd, columns: int, slope: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mel power of noise, float32 [n_mels, columns], and the heights of the bands' triangles, [n_mels].

    Its density falls with frequency ** slope, and its total power is 1. A band's power over the columns is a gamma
    variable, its shape the number of bins in the band (Wilson & Hilferty 1931); the overlap of columns is ignored.
    """
    edges_hz = band_edges_hz(front_end).float()
    width_hz = (edges_hz[2:] - edges_hz[:-2]) / 2
    height = 1 / width_hz if front_end.mel_norm == "slaney" else torch.ones_like(width_hz)
    density = edges_hz[1:-1] ** -slope.float()
    density /= (density * width_hz).sum()
    bins = (width_hz * front_end.n_fft / front_end.sample_rate_hz).clamp(min=1.0)[:, None]
    normal = torch.randn((front_end.n_mels, columns), generator=generator)
    fluctuation = (1 - 1 / (9 * bins) + normal / (3 * bins.sqrt())).clamp(min=0.0) ** 3
    return (density * width_hz * height)[:, None] * fluctuation, height


def _power(level: Tensor, front_end: FrontEnd) -> Tensor:
    """The power in each mel band that has this level."""
    if front_end.compression == "db":
        return 10 ** (level / (10 * front_end.mel_exponent))
    return torch.expm1(level * math.log(10.0)).clamp(min=0.0) / front_end.gain


def _level(power: Tensor, front_end: FrontEnd) -> Tensor:
    """The inverse of `_power`."""
    if front_end.compression == "db":
        return 10 * front_end.mel_exponent * torch.log10(power.clamp(min=1e-30))
    return torch.log10(1.0 + front_end.gain * power)


def mixup(mel: Tensor, target: Tensor, options: TrainOptions, random: StepRandom) -> tuple[Tensor, Tensor]:
    """Mixup (Zhang et al. 2018) of each window and its target with those of the window before it in this process.

    An output that is unknown (NaN) in one of the two targets takes the value of the other.
    """
    if not options.mixup or len(mel) < 2:
        return mel, target
    # torch's own beta distribution takes no generator.
    seed = int(torch.randint(2**62, (), generator=random.generator))
    draws = np.random.default_rng(seed).beta(options.mixup, options.mixup, random.windows)
    share = torch.from_numpy(np.maximum(draws, 1 - draws)).float()[random.rows].to(mel.device)
    other = target.roll(1, 0)
    mixed = share[:, None] * target + (1 - share[:, None]) * other
    known = torch.where(target.isnan(), other, target)
    mixed = torch.where(mixed.isnan(), known, mixed)
    return share[:, None, None] * mel + (1 - share[:, None, None]) * mel.roll(1, 0), mixed


def spec_augment(mel: Tensor, options: TrainOptions, random: StepRandom) -> Tensor:
    """SpecAugment (Park et al. 2019) without time warping: spans of columns and of bands become the window's mean."""
    for count, max_width, axis in (
        (options.time_masks, options.time_mask_columns, 2),
        (options.band_masks, options.band_mask_bands, 1),
    ):
        for _ in range(count):
            mel = _masked(mel, min(max_width, mel.shape[axis]), axis, random)
    return mel


def _masked(mel: Tensor, max_width: int, axis: int, random: StepRandom) -> Tensor:
    length = mel.shape[axis]
    width = random.uniform() * (max_width + 1)
    start = random.uniform() * (length - width.floor() + 1)
    index = torch.arange(length)
    inside = (index >= start.floor()[:, None]) & (index < (start.floor() + width.floor())[:, None])
    inside = inside[:, None, :] if axis == 2 else inside[:, :, None]
    return torch.where(inside.to(mel.device), mel.mean(dim=(1, 2), keepdim=True), mel)
