"""Changes to training windows that leave what they are untouched, on batches of log-mels.

Each is a function of a batch and of random numbers drawn beforehand for the step's whole batch, so that two processes
with half the batch each see what one process sees with all of it; only mixup pairs the windows of each half.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from musictagger.audio.frontend import FrontEnd
from musictagger.audio.logmel import band_edges_hz
from musictagger.training.options import TrainOptions

NOISE_BELOW_DB = (5.0, 40.0)
"""How far noise lies below the music: from as loud as on a worn cassette to hardly heard."""


def step_generator(seed: int, epoch: int, step: int) -> torch.Generator:
    """The source of everything random in one step."""
    # torch's generator on the CPU looks at the lower 32 bits only: odd constants give neighbours different ones there.
    mixed = (seed * 0x9E3779B97F4A7C15 + epoch * 0xBF58476D1CE4E5B9 + step * 0x94D049BB133111EB) % 2**63
    return torch.Generator().manual_seed(mixed)


def change_level(
    mel: Tensor, front_end: FrontEnd, options: TrainOptions, random: torch.Generator, first: int, windows: int
) -> Tensor:
    """Gain and tilt on levels that no frame-wide maximum has been taken of yet, [batch, n_mels, columns].

    `mel` holds windows `first`.. of the step's `windows`.
    """
    if not options.gain_db and not options.tilt_db:
        return mel
    rows = slice(first, first + len(mel))
    gain = _uniform(windows, random)[rows] * options.gain_db
    tilt = _uniform(windows, random)[rows] * options.tilt_db
    change = gain[:, None] + tilt[:, None] * torch.linspace(-0.5, 0.5, mel.shape[1])
    return louder(mel, change[:, :, None].to(mel.device), front_end)


def bend(
    mel: Tensor, front_end: FrontEnd, options: TrainOptions, random: torch.Generator, first: int, windows: int
) -> Tensor:
    """Tempo and pitch, each by itself: columns and bands are read between where they were, [batch, n_mels, columns].

    A faster window begins again where it ends. What lay above the highest band is not there: its level goes on.
    """
    rows = slice(first, first + len(mel))
    if options.stretch:
        speed = 1 + _uniform(windows, random)[rows] * options.stretch
        mel = _read_at(mel, torch.arange(mel.shape[2]) * speed[:, None] % mel.shape[2])
    if options.pitch_semitones:
        factor = 2 ** (_uniform(windows, random)[rows] * options.pitch_semitones / 12)
        mel = _read_at(mel.transpose(1, 2), lower_bands(front_end, factor)).transpose(1, 2)
    return mel


def lower_bands(front_end: FrontEnd, factor: Tensor) -> Tensor:
    """Which band had what each has once a sound is `factor` [windows] times as high: float32 [windows, n_mels]."""
    centres_hz = band_edges_hz(front_end)[1:-1]
    wanted_hz = (centres_hz / factor[:, None]).clamp(centres_hz[0], centres_hz[-1])
    above = torch.searchsorted(centres_hz, wanted_hz.contiguous()).clamp(1, len(centres_hz) - 1)
    below_hz, above_hz = centres_hz[above - 1], centres_hz[above]
    return (above - 1 + (wanted_hz - below_hz) / (above_hz - below_hz)).float()


def _read_at(values: Tensor, places: Tensor) -> Tensor:
    """`values` [batch, rows, n] between its entries, at `places` [batch, m] from 0 to n: [batch, rows, m]."""
    low = places.floor().long()
    part = (places - low).to(values.device)[:, None]
    ends = values.shape[2]
    shape = (len(values), values.shape[1], places.shape[1])
    lower, upper = (
        values.gather(2, (index % ends).to(values.device)[:, None].expand(shape)) for index in (low, low + 1)
    )
    return lower + (upper - lower) * part


def louder(mel: Tensor, change_db: Tensor, front_end: FrontEnd) -> Tensor:
    """Levels as if the sound had been louder by `change_db` (broadcast over `mel`)."""
    if front_end.compression == "db":
        return mel + change_db * front_end.mel_exponent
    return _level(_power(mel, front_end) * 10 ** (change_db / 10), front_end)


def add_noise(
    mel: Tensor, front_end: FrontEnd, options: TrainOptions, random: torch.Generator, first: int, windows: int
) -> Tensor:
    """Steady noise, white to pink, under a share `options.noise` of the windows: hiss, rain, an old tape.

    `mel` holds windows `first`.. of the step's `windows`, [batch, n_mels, columns], before anything frame-wide.
    """
    if not options.noise:
        return mel
    rows = slice(first, first + len(mel))
    hit, below, colour, seed = torch.rand((4, windows), generator=random, dtype=torch.float64)[:, rows]
    chosen = torch.nonzero(hit < options.noise)[:, 0]
    below_db = NOISE_BELOW_DB[0] + below[chosen] * (NOISE_BELOW_DB[1] - NOISE_BELOW_DB[0])
    noisy = mel.clone()
    for row, down_db, slope, number in zip(chosen.tolist(), below_db, colour[chosen], seed[chosen], strict=True):
        own = torch.Generator().manual_seed(int(number * 2**53))
        noise, height = _noise(front_end, mel.shape[2], slope, own)
        power = _power(mel[row].cpu(), front_end)
        # Of a band of power p and triangles so high, p / height is the power around it.
        share = 10 ** (-down_db / 10) * (power.mean(dim=1) / height).sum()
        noisy[row] = _level(power + share.float() * noise, front_end).to(mel.device)
    return noisy


def _noise(front_end: FrontEnd, columns: int, slope: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mel power of noise, float32 [n_mels, columns], and the heights of the bands' triangles, [n_mels].

    Its density falls with frequency ** slope, and its power is 1 all told. A band's power over the columns is a gamma
    variable, its shape the number of bins in the band (Wilson & Hilferty 1931); that columns overlap is left aside.
    """
    edges_hz = band_edges_hz(front_end).float()
    width_hz = (edges_hz[2:] - edges_hz[:-2]) / 2
    height = 1 / width_hz if front_end.mel_norm == "slaney" else torch.ones_like(width_hz)
    density = edges_hz[1:-1] ** -slope.float()
    density /= (density * width_hz).sum()
    bins = (width_hz * front_end.n_fft / front_end.sample_rate_hz).clamp(min=1.0)[:, None]
    normal = torch.randn((front_end.n_mels, columns), generator=random)
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


def mix(
    mel: Tensor, target: Tensor, options: TrainOptions, random: torch.Generator, first: int, windows: int
) -> tuple[Tensor, Tensor]:
    """Mixup (Zhang et al. 2018): each window with the one before it in its process's part, targets in the same shares.

    Where only one of the two knows an output (the other's target is NaN), its word stands.
    """
    if not options.mixup or len(mel) < 2:
        return mel, target
    # torch's own beta distribution takes no generator.
    seed = int(torch.randint(2**62, (), generator=random))
    draws = np.random.default_rng(seed).beta(options.mixup, options.mixup, windows)
    share = torch.from_numpy(np.maximum(draws, 1 - draws)).float()[first : first + len(mel)].to(mel.device)
    other = target.roll(1, 0)
    mixed = share[:, None] * target + (1 - share[:, None]) * other
    known = torch.where(target.isnan(), other, target)
    mixed = torch.where(mixed.isnan(), known, mixed)
    return share[:, None, None] * mel + (1 - share[:, None, None]) * mel.roll(1, 0), mixed


def mask(mel: Tensor, options: TrainOptions, random: torch.Generator, first: int, windows: int) -> Tensor:
    """SpecAugment (Park et al. 2019) without its warping: spans of columns and of bands become the window's mean."""
    for number, widest, axis in (
        (options.time_masks, options.time_mask_columns, 2),
        (options.band_masks, options.band_mask_bands, 1),
    ):
        for _ in range(number):
            mel = _masked(mel, min(widest, mel.shape[axis]), axis, random, first, windows)
    return mel


def _masked(mel: Tensor, widest: int, axis: int, random: torch.Generator, first: int, windows: int) -> Tensor:
    rows = slice(first, first + len(mel))
    length = mel.shape[axis]
    width = torch.rand(windows, generator=random)[rows] * (widest + 1)
    start = torch.rand(windows, generator=random)[rows] * (length - width.floor() + 1)
    place = torch.arange(length)
    inside = (place >= start.floor()[:, None]) & (place < (start.floor() + width.floor())[:, None])
    inside = inside[:, None, :] if axis == 2 else inside[:, :, None]
    return torch.where(inside.to(mel.device), mel.mean(dim=(1, 2), keepdim=True), mel)


def _uniform(windows: int, random: torch.Generator) -> Tensor:
    """[windows] numbers from -1 to 1."""
    return torch.rand(windows, generator=random) * 2 - 1
