"""The MFCC backbone: its coefficients are librosa's and scipy's, its embedding their statistics."""

from __future__ import annotations

import sys
from typing import Any

import librosa
import numpy as np
import pytest
import torch
from scipy.fft import dct

from musictagger.audio.frontend import FrontEnd
from musictagger.audio.logmel import LogMel
from musictagger.errors import ModelError
from musictagger.models.registry import build, find_backbones

mfcc: Any = sys.modules[find_backbones()["mfcc"].__module__]  # as the program loads it: by file


def embedding(mel: torch.Tensor, **config: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = build("mfcc", 3, config).eval()(mel).embedding
    return found


@pytest.mark.parametrize(("coefficients", "bands"), [(20, 96), (13, 40), (96, 96), (1, 1)])
def test_the_transform_is_scipys(coefficients: int, bands: int) -> None:
    wanted = dct(np.eye(bands), type=2, norm="ortho", axis=0)[:coefficients]
    np.testing.assert_allclose(mfcc.cosine_transform(coefficients, bands), wanted, atol=1e-7)


def test_the_embedding_is_the_statistics_of_librosas_mfcc() -> None:
    front_end = FrontEnd(frame_hops=100)
    random = np.random.default_rng(1)
    wave = (random.normal(0, 0.1, front_end.frame_samples) * np.linspace(0.1, 1, front_end.frame_samples)).astype("f4")
    power = librosa.feature.melspectrogram(
        y=wave, sr=12_000, n_fft=512, hop_length=256, n_mels=96, pad_mode="constant", power=2.0
    )
    cepstra = librosa.feature.mfcc(S=librosa.power_to_db(power, ref=1.0, amin=1e-10, top_db=80.0), n_mfcc=20)
    changes = np.diff(cepstra, axis=1)
    wanted = np.concatenate([cepstra.mean(1), cepstra.std(1), changes.mean(1), changes.std(1)])
    found = embedding(LogMel(front_end)(torch.from_numpy(wave)[None]))
    assert found.shape == (1, 80)
    np.testing.assert_allclose(found[0], wanted, atol=2e-3)


def test_any_length_works_and_silence_has_no_deviation() -> None:
    for columns in (1, 2, 1366):
        found = embedding(torch.full((2, 96, columns), -100.0), n_mfcc=5)
        assert torch.isfinite(found).all()
        torch.testing.assert_close(found[:, 0], torch.full((2,), -100 * 96**0.5), atol=0.01, rtol=0)
        torch.testing.assert_close(found[:, 1:], torch.zeros(2, 19), atol=0.01, rtol=0)


def test_only_the_dense_layer_has_parameters_or_state() -> None:
    assert {name.partition(".")[0] for name in build("mfcc", 3, {}).state_dict()} == {"dense"}


@pytest.mark.parametrize("config", [{"n_mfcc": 0}, {"n_mfcc": 97}, {"n_mfcc": 2.5}, {"n_mels": 10}])
def test_invalid_values_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="n_mfcc"):
        build("mfcc", 3, config)


def test_another_number_of_bands_is_refused() -> None:
    with pytest.raises(ModelError, match="96 mel bands"):
        embedding(torch.zeros(1, 40, 9))
