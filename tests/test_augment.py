"""Augmentation: its effects, their size, and that the random numbers do not depend on the number of processes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from training_material import small_options

from musictagger.audio.frontend import FrontEnd
from musictagger.audio.logmel import LogMel, band_edges_hz
from musictagger.training import augment
from musictagger.training.augment import (
    StepRandom,
    add_noise,
    apply_gain,
    gain_and_tilt,
    mixup,
    pitch_shift,
    shifted_bands,
    spec_augment,
    step_generator,
    time_stretch,
)
from musictagger.training.options import TrainOptions

NAN = float("nan")
RANDOM = torch.Generator().manual_seed(4)
MEL = -40 + 10 * torch.randn(6, 8, 50, generator=RANDOM)
DB = FrontEnd(n_mels=8)


def _random(start: int = 0, stop: int = 6, windows: int = 6) -> StepRandom:
    return StepRandom(step_generator(1, 2, 3), slice(start, stop), windows)


def test_steps_epochs_and_seeds_draw_differently() -> None:
    draws = {
        torch.rand(1, generator=step_generator(seed, epoch, step)).item()
        for seed in range(4)
        for epoch in range(4)
        for step in range(4)
    }
    assert len(draws) == 64
    assert torch.equal(_random().uniform(), _random().uniform())


@pytest.mark.parametrize(
    "front_end",
    [
        FrontEnd(),
        FrontEnd(mel_exponent=2),
        FrontEnd(compression="log1p", gain=10_000.0, top_db=None),
    ],
    ids=["power", "squared", "log1p"],
)
def test_gain_gives_the_level_of_the_amplified_wave(front_end: FrontEnd) -> None:
    log_mel = LogMel(front_end)
    wave = 0.1 * torch.randn(1, front_end.sample_rate_hz, generator=torch.Generator().manual_seed(0))
    expected = log_mel.spectrogram(wave * 10 ** (6 / 20))
    torch.testing.assert_close(
        apply_gain(log_mel.spectrogram(wave), torch.tensor(6.0), front_end), expected, atol=2e-3, rtol=0
    )


def test_gain_and_tilt_are_bounded() -> None:
    gained = gain_and_tilt(MEL, DB, small_options(gain_db=6.0), _random()) - MEL
    assert gained.abs().max() <= 6 and gained.std(dim=(1, 2)).max() < 1e-4
    assert len({round(value, 3) for value in gained[:, 0, 0].tolist()}) == 6
    tilted = gain_and_tilt(MEL, DB, small_options(tilt_db=4.0), _random()) - MEL
    between = (tilted[:, -1] - tilted[:, 0])[:, 0]
    assert between.abs().max() <= 4 and between.abs().min() > 0
    torch.testing.assert_close(tilted.mean(dim=1), torch.zeros(6, 50), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "front_end",
    [FrontEnd(), FrontEnd(mel_scale="htk", mel_norm=None), FrontEnd(compression="log1p", mel_norm=None, top_db=None)],
    ids=["slaney", "htk", "log1p"],
)
def test_noise_has_the_power_and_the_fluctuation_of_noise(front_end: FrontEnd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augment, "NOISE_BELOW_DB", (10.0, 10.0))
    # The music is one tone, so that all other bands hold the noise, of equal power whatever its colour.
    music = _tone(3000.0, front_end).repeat(6, 1, 20)
    noisy = add_noise(music, front_end, small_options(noise=1.0), _random())
    wave = torch.randn(1, 20 * front_end.sample_rate_hz, generator=torch.Generator().manual_seed(0))
    white = _powers(LogMel(front_end).spectrogram(wave * 0.3 / 2**0.5 / 10**0.5), front_end)[0]
    quiet = slice(2, 60)
    added = (_powers(noisy, front_end) - _powers(music, front_end))[:, quiet]
    slopes = []
    for row in added:
        ratio = row.mean(dim=1) / white.mean(dim=1)[quiet]
        octaves = (band_edges_hz(front_end)[1:-1][quiet] / 3000).log2()
        slopes.append(float(np.polyfit(octaves, 10 * ratio.log10(), 1)[0]))
        torch.testing.assert_close(
            row.std(dim=1) / row.mean(dim=1), (white.std(dim=1) / white.mean(dim=1))[quiet], atol=0.35, rtol=0
        )
        # Pink noise falls by 3 dB an octave and has the level of white noise at about 1.5 kHz.
        assert abs(np.polyval(np.polyfit(octaves, 10 * ratio.log10(), 1), -1.2)) < 2.5
    assert all(-3.6 < slope < 0.6 for slope in slopes)
    assert max(slopes) - min(slopes) > 0.5


def test_noise_is_in_the_given_share_of_windows() -> None:
    noisy = add_noise(MEL.repeat(50, 1, 1), DB, small_options(noise=0.3), _random(0, 300, 300))
    changed = (noisy - MEL.repeat(50, 1, 1)).abs().amax(dim=(1, 2)) > 1e-3
    assert changed.float().mean() == pytest.approx(0.3, abs=0.08)


def _powers(level: Tensor, front_end: FrontEnd) -> Tensor:
    return 10 ** (level / 10) if front_end.compression == "db" else (10**level - 1) / front_end.gain


def test_mixup_mixes_mel_and_target_in_the_same_shares() -> None:
    target = torch.eye(6)
    mel, mixed = mixup(MEL, target, small_options(mixup=0.4), _random())
    share = mixed.diagonal()
    assert (share >= 0.5).all() and (share < 1).any()
    torch.testing.assert_close(mixed.sum(dim=1), torch.ones(6))
    for row in range(6):
        torch.testing.assert_close(mixed[row, row - 1], 1 - share[row])
        torch.testing.assert_close(mel[row], share[row] * MEL[row] + (1 - share[row]) * MEL[row - 1])


def test_mixup_keeps_the_known_target() -> None:
    target = torch.tensor([[1.0, NAN, NAN], [NAN, 0.0, NAN]])
    _, mixed = mixup(MEL[:2], target, small_options(mixup=0.4), _random(0, 2, 2))
    assert mixed[:, :2].tolist() == [[1.0, 0.0], [1.0, 0.0]] and mixed[:, 2].isnan().all()


@pytest.mark.parametrize(
    ("options", "axis", "max_width"),
    [
        (small_options(time_masks=1, time_mask_columns=7), 2, 7),
        (small_options(band_masks=1, band_mask_bands=3), 1, 3),
    ],
    ids=["time", "bands"],
)
def test_masks_are_spans_of_the_mean_up_to_the_given_width(options: TrainOptions, axis: int, max_width: int) -> None:
    widths = set()
    for step in range(40):
        masked = spec_augment(MEL, options, StepRandom(step_generator(0, 0, step), slice(0, 6), 6))
        changed = masked != MEL
        spans = changed.all(dim=3 - axis)
        assert torch.equal(spans, changed.any(dim=3 - axis))
        for row, line in enumerate(spans):
            where = line.nonzero().flatten().tolist()
            assert where == list(range(where[0], where[0] + len(where))) if where else True
            widths.add(len(where))
            values = masked[row].movedim(axis - 1, 0)[line]
            torch.testing.assert_close(values, MEL[row].mean().expand_as(values))
    assert widths == set(range(max_width + 1))


@pytest.mark.parametrize(
    "change",
    [
        lambda mel, random: time_stretch(mel, small_options(stretch=0.1), random),
        lambda mel, random: pitch_shift(mel, DB, small_options(pitch_semitones=2), random),
        lambda mel, random: gain_and_tilt(mel, DB, small_options(gain_db=3, tilt_db=3), random),
        lambda mel, random: add_noise(mel, DB, small_options(noise=0.5), random),
        lambda mel, random: spec_augment(mel, small_options(time_masks=2, band_masks=2), random),
    ],
    ids=["stretch", "pitch", "level", "noise", "spec_augment"],
)
def test_halves_of_a_batch_are_augmented_like_the_whole(change: Callable[[Tensor, StepRandom], Tensor]) -> None:
    whole = change(MEL, _random())
    halves = torch.cat([change(MEL[:3], _random(0, 3)), change(MEL[3:], _random(3, 6))])
    torch.testing.assert_close(halves, whole)
    assert not torch.equal(whole, MEL)


def test_nothing_is_changed_by_default() -> None:
    options, target = small_options(), torch.eye(6)
    assert time_stretch(MEL, options, _random()) is MEL
    assert pitch_shift(MEL, DB, options, _random()) is MEL
    assert gain_and_tilt(MEL, DB, options, _random()) is MEL
    assert mixup(MEL, target, options, _random()) == (MEL, target)
    assert spec_augment(MEL, options, _random()) is MEL
    assert add_noise(MEL, DB, options, _random()) is MEL


def _tone(hz: float, front_end: FrontEnd) -> Tensor:
    """Level of a second of a steady tone, float32 [1, n_mels, columns]."""
    seconds = torch.arange(front_end.sample_rate_hz) / front_end.sample_rate_hz
    return LogMel(front_end).spectrogram(0.3 * torch.sin(2 * torch.pi * hz * seconds)[None])


@pytest.mark.parametrize("hz", [700.0, 2000.0])
@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_pitch_shift_moves_a_tone_to_its_band(hz: float, factor: float) -> None:
    front_end = FrontEnd()
    bands = shifted_bands(front_end, torch.tensor([factor]))[0]
    loudest_then = _tone(hz, front_end)[0].mean(dim=1).argmax()
    loudest_now = _tone(hz * factor, front_end)[0].mean(dim=1).argmax()
    assert abs(bands[loudest_now] - loudest_then) < 1


def test_stretch_and_pitch_shift_interpolate() -> None:
    ramp = torch.arange(40.0).expand(6, 8, 40)
    stretched = time_stretch(ramp, small_options(stretch=0.2), _random())
    steps = stretched[:, 0, 1:20] - stretched[:, 0, :19]
    torch.testing.assert_close(steps, steps[:, :1].expand_as(steps), atol=1e-4, rtol=0)
    speeds = steps[:, 0]
    assert (speeds >= 0.8).all() and (speeds <= 1.2).all() and speeds.std() > 0.05
    level = torch.full((6, 8, 40), -30.0)
    options, random = small_options(stretch=0.2, pitch_semitones=3), _random()
    torch.testing.assert_close(pitch_shift(time_stretch(level, options, random), DB, options, random), level)
