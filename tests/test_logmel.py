"""The log-mel spectrogram compared with librosa, with plain formulas and with reference spectrograms."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import soxr
import torch
from conftest import SHARED
from librosa.filters import mel as librosa_filters

from musictagger.audio.decode import decode_frames
from musictagger.audio.frames import FrameRule
from musictagger.audio.frontend import FrontEnd
from musictagger.audio.logmel import LogMel, mel_filters

FloatArray = npt.NDArray[np.float32]
EXAMPLES = Path(__file__).parents[1] / "examples"
CHOI = SHARED / "data" / "choi"

RATE_HZ = 12_000
SHORT = FrontEnd(frame_hops=250)
"""The papers' front end on 5.3 s, where 29.12 s would only take longer."""

# The lowest of 96 bands at 12 kHz hold no FFT bin, and librosa warns about it.
pytestmark = pytest.mark.filterwarnings("ignore:Empty filters")


def log_mel(front_end: FrontEnd, *waves: FloatArray) -> FloatArray:
    with torch.inference_mode():
        mel: FloatArray = LogMel(front_end)(torch.from_numpy(np.stack(waves))).numpy()
    return mel


def librosa_power(wave: FloatArray, front_end: FrontEnd) -> FloatArray:
    power: FloatArray = librosa.feature.melspectrogram(
        y=wave,
        sr=front_end.sample_rate_hz,
        n_fft=front_end.n_fft,
        hop_length=front_end.hop_samples,
        n_mels=front_end.n_mels,
        fmin=front_end.f_min_hz,
        fmax=front_end.f_max_hz,
        htk=front_end.mel_scale == "htk",
        norm=front_end.mel_norm,
        pad_mode=front_end.pad_mode,
        power=2.0,
    )
    return power


def librosa_db(wave: FloatArray, front_end: FrontEnd) -> FloatArray:
    power = librosa_power(wave, front_end) ** front_end.mel_exponent
    decibel: FloatArray = librosa.power_to_db(power, ref=1.0, amin=front_end.amin, top_db=front_end.top_db)
    return decibel


def assert_equal(got: FloatArray, expected: FloatArray) -> None:
    """Within 1e-3 dB, except more than 60 dB below a pure tone: there a float32 window adds 2e-3 dB."""
    deviation = np.abs(got - expected)
    below_db = expected.max(axis=0) - expected
    assert deviation[below_db <= 60].max() < 1e-3
    assert deviation[below_db <= 80].max() < 5e-3


def noise(samples: int) -> FloatArray:
    return np.asarray(np.random.default_rng(1).normal(0, 0.1, samples), np.float32)


def chirp(samples: int) -> FloatArray:
    """From 30 to 5,900 Hz, every octave in the same time."""
    octaves = np.log(5_900 / 30)
    turns = 30 * samples / RATE_HZ / octaves * np.expm1(octaves * np.arange(samples) / samples)
    return np.asarray(np.sin(2 * np.pi * turns) / 2, np.float32)


def click(samples: int) -> FloatArray:
    wave = np.zeros(samples, np.float32)
    wave[samples // 2] = 1
    return wave


def music(samples: int) -> FloatArray:
    path = next(path for path in sorted(EXAMPLES.iterdir()) if path.suffix == ".mp3")
    return next(decode_frames(path, RATE_HZ, FrameRule(samples, 5 * RATE_HZ)))[1]


def quiet(samples: int) -> FloatArray:
    return music(samples) * np.float32(1e-3)


def silence(samples: int) -> FloatArray:
    return np.zeros(samples, np.float32)


def loud(samples: int) -> FloatArray:
    return np.clip(noise(samples) * 100, -1, 1)


SIGNALS = [noise, chirp, click, music, quiet, silence, loud]


@pytest.mark.parametrize("signal", SIGNALS)
def test_the_papers_front_end_equals_librosa(signal: Any) -> None:
    front_end = FrontEnd()
    wave = signal(front_end.frame_samples)
    got = log_mel(front_end, wave)[0]
    assert got.shape == (96, 1366)
    assert got.dtype == np.float32
    assert_equal(got, librosa_db(wave, front_end))


@pytest.mark.parametrize("signal", [noise, chirp, music, silence])
@pytest.mark.parametrize(
    "front_end",
    [
        replace(SHORT, pad_mode="reflect"),
        replace(SHORT, mel_scale="htk", mel_norm=None),
        replace(SHORT, n_mels=128, n_fft=1024, hop_samples=512),
        replace(SHORT, f_min_hz=60.0, f_max_hz=5_000.0),
        replace(SHORT, sample_rate_hz=16_000),
        replace(SHORT, top_db=None),
        replace(SHORT, top_db=30.0),
        replace(SHORT, amin=1e-5),
        replace(SHORT, mel_exponent=2),
    ],
)
def test_every_parameter_has_its_meaning_in_librosa(front_end: FrontEnd, signal: Any) -> None:
    wave = signal(front_end.frame_samples)
    assert_equal(log_mel(front_end, wave)[0], librosa_db(wave, front_end))


@pytest.mark.parametrize("signal", [noise, chirp, music, loud])
def test_log1p_is_its_formula(signal: Any) -> None:
    front_end = replace(SHORT, compression="log1p", mel_scale="slaney", pad_mode="reflect")
    wave = signal(front_end.frame_samples)
    expected = np.log10(1 + 10_000 * librosa_power(wave, front_end).astype(np.float64))
    assert np.isfinite(expected).all()
    assert np.abs(log_mel(front_end, wave)[0] - expected).max() < 1e-4


@pytest.mark.parametrize("signal", [noise, chirp, music])
def test_the_loudest_cell_can_be_zero_decibel(signal: Any) -> None:
    front_end = replace(SHORT, reference="max")
    wave = signal(front_end.frame_samples)
    expected = librosa.power_to_db(librosa_power(wave, front_end), ref=np.max, amin=1e-10, top_db=80)
    got = log_mel(front_end, wave)[0]
    assert got.max() == 0
    assert_equal(got, expected)


def test_the_filters_are_librosas() -> None:
    for scale, norm in (("slaney", "slaney"), ("htk", None)):
        front_end = FrontEnd(mel_scale=scale, mel_norm=norm, f_min_hz=20.0, f_max_hz=5_500.0)  # type: ignore[arg-type]
        expected = librosa_filters(
            sr=RATE_HZ, n_fft=512, n_mels=96, fmin=20, fmax=5_500, htk=scale == "htk", norm=norm, dtype=np.float64
        )
        np.testing.assert_allclose(mel_filters(front_end).numpy(), expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("signal", SIGNALS)
def test_a_standardised_frame_has_mean_zero_and_deviation_one(signal: Any) -> None:
    front_end = replace(SHORT, standardise=True)
    wave = signal(front_end.frame_samples)
    plain = librosa_db(wave, front_end).astype(np.float64)
    got = log_mel(front_end, wave)[0]
    assert np.isfinite(got).all()
    if plain.std():
        assert np.abs(got - (plain - plain.mean()) / plain.std()).max() < 1e-3
    else:
        assert not got.any()


@pytest.mark.parametrize(
    "front_end",
    [SHORT, replace(SHORT, reference="max"), replace(SHORT, standardise=True), replace(SHORT, compression="log1p")],
)
def test_a_frame_does_not_depend_on_its_batch(front_end: FrontEnd) -> None:
    waves = [signal(front_end.frame_samples) for signal in (quiet, loud, silence, chirp, noise)]
    together = log_mel(front_end, *waves)
    for index, wave in enumerate(waves):
        np.testing.assert_allclose(together[index], log_mel(front_end, wave)[0], atol=1e-4)


@pytest.mark.parametrize("signal", [chirp, quiet, silence])
@pytest.mark.parametrize(
    "front_end",
    [
        SHORT,
        replace(SHORT, top_db=None, mel_exponent=2),
        replace(SHORT, reference="max", standardise=True),
        replace(SHORT, compression="log1p", standardise=True),
    ],
)
def test_spectrogram_and_normalise_are_forward_to_the_last_bit(front_end: FrontEnd, signal: Any) -> None:
    logmel, wave = LogMel(front_end), torch.from_numpy(signal(front_end.frame_samples))[None]
    with torch.inference_mode():
        power = logmel._filters @ logmel._power(wave)
        if front_end.compression == "db":
            mel = 10.0 * torch.log10(torch.clamp(power**front_end.mel_exponent, min=front_end.amin))
            if front_end.top_db is not None:
                mel = torch.maximum(mel, mel.max() - front_end.top_db)
            mel = mel - mel.max() if front_end.reference == "max" else mel
        else:
            mel = torch.log10(1.0 + front_end.gain * power)
        if front_end.standardise:
            mel = (mel - mel.mean((1, 2), keepdim=True)) / mel.std((1, 2), keepdim=True, correction=0).clamp(min=1e-8)
        assert torch.equal(logmel(wave), mel)
        assert torch.equal(logmel.normalise(logmel.spectrogram(wave)), mel)


@pytest.mark.skipif(not CHOI.is_dir(), reason="the reference spectrograms are not here")
@pytest.mark.parametrize("clip", ["actionable", "cute", "dubstep", "thejazzpiano"])
def test_reference_clips_give_the_reference_spectrograms(clip: str) -> None:
    """10*log10(mel**2) as computed by the code of Choi et al. 2017, from the middle of each clip.

    Their decoder left the MP3 encoder's delay of 529 samples at 44.1 kHz in, 144 at 12 kHz, and their resampler was
    another one: it differs close to the Nyquist frequency, in the highest bands.
    """
    wave, rate_hz = soundfile.read(CHOI / f"bensound-{clip}.mp3", dtype="float32", always_2d=True)
    mono = soxr.resample(wave.mean(axis=1), rate_hz, RATE_HZ, quality="HQ").astype(np.float32)
    front_end = FrontEnd(mel_exponent=2, pad_mode="reflect")
    start = (len(mono) - front_end.frame_samples) // 2 + 144
    got = log_mel(front_end, mono[start : start + front_end.frame_samples])[0]
    expected = np.load(CHOI / f"bensound-{clip}.npy").reshape(96, 1366)
    deviation = np.abs(got - expected)
    assert np.median(deviation) < 0.05
    assert deviation[:90].max() <= 2
