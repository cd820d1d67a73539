"""Published checkpoints, imported: with our front end and the fused predictor they give their authors' scores.

The reference data are not in the repository; without them these tests skip.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import soxr
import torch
from conftest import SHARED

from musictagger.audio.logmel import LogMel
from musictagger.errors import ModelError
from musictagger.models.fuse import fuse
from musictagger.models.inference import Predictor
from musictagger.models.published import catalogue
from musictagger.models.published.pull import import_file
from musictagger.models.weights import load_model

DATA = SHARED / "data"
WON = ("mtat-fcn", "mtat-crnn", "mtat-musicnn", "msd-fcn", "msd-crnn")
CLIPS = ("bensound-actionable", "bensound-cute", "bensound-dubstep", "bensound-thejazzpiano")
PATCH_SAMPLES = 48_000

pytestmark = pytest.mark.skipif(not (DATA / "won").is_dir(), reason="the reference data are not here")
FloatArray = npt.NDArray[np.float32]


@pytest.fixture(scope="session")
def golden() -> dict[str, Any]:
    values: dict[str, Any] = json.loads((DATA / "golden" / "won.json").read_text(encoding="utf-8"))
    return values


@pytest.fixture(scope="session")
def won(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Predictor]:
    """Each model as imported by `weights import`."""
    folder = tmp_path_factory.mktemp("won")
    files = {name: DATA / "won" / f"{name}.pth" for name in WON}
    made = {name: import_file(file, "won", name, folder) for name, file in files.items()}
    return {name: Predictor(load_model(weights), "cpu") for name, weights in made.items()}


def clip(name: str, rate_hz: int = 16_000, skipped: int = 0) -> FloatArray:
    """Samples of a clip without its first `skipped`; or the chirp."""
    if name == "chirp":
        t = np.arange(464_000) / 16_000
        return (0.5 * np.sin(2 * np.pi * (50 + (7000 - 50) * t / 58) * t)).astype(np.float32)
    wave, own_hz = soundfile.read(DATA / "choi" / f"{name}.mp3", dtype="float32", always_2d=True)
    return np.asarray(soxr.resample(wave.mean(axis=1)[skipped:], own_hz, rate_hz, quality="HQ"))


def scores(predictor: Predictor, name: str, model: str) -> FloatArray:
    """Scores computed like the golden ones: from 29 s at once, or as the mean over patches of 3 s."""
    wave = np.resize(clip(name), 464_000)
    if not model.endswith("musicnn"):
        return np.asarray(predictor([wave]).scores[0])
    patches = wave[: len(wave) // PATCH_SAMPLES * PATCH_SAMPLES].reshape(-1, PATCH_SAMPLES)
    return np.asarray(predictor(list(patches)).scores.mean(axis=0))


@pytest.mark.parametrize("model", WON)
@pytest.mark.parametrize("name", [*CLIPS, "chirp"])
def test_won_gives_the_golden_scores(won: dict[str, Predictor], golden: dict[str, Any], model: str, name: str) -> None:
    # Three tenths of the chirp's decibels are rounding errors of the Fourier transform at the floor of 1e-10: computed
    # in float64 instead of float32, or by another library, the scores move by up to 5e-4 too.
    tolerance = 1e-3 if name == "chirp" and not model.endswith("musicnn") else 1e-4
    expected = golden["scores"][name][model]
    np.testing.assert_allclose(scores(won[model], name, model), expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("model", WON)
def test_won_is_recognised_by_its_digest(won: dict[str, Predictor], golden: dict[str, Any], model: str) -> None:
    card, entry = won[model].card, catalogue.entry(f"won-{model}")
    assert card.outputs == entry.outputs == tuple(golden["tag_order"][model.partition("-")[0]])
    assert (card.backbone, card.front_end, card.licence) == (entry.backbone, entry.front_end, entry.licence)
    assert (DATA / "won" / f"{model}.pth").stat().st_size == getattr(entry.source, "size_bytes", 0)


@pytest.mark.parametrize("model", WON)
def test_the_checkpoint_contains_its_front_end(won: dict[str, Predictor], model: str) -> None:
    stored = torch.load(DATA / "won" / f"{model}.pth", map_location="cpu", weights_only=True)
    ours = LogMel(won[model].card.front_end).state_dict() | dict(LogMel(won[model].card.front_end).named_buffers())
    # Theirs were computed in float32: up to 1.3e-5 of them are rounding.
    torch.testing.assert_close(ours["_filters"].T, stored["spec.mel_scale.fb"], atol=2e-5, rtol=0)
    torch.testing.assert_close(torch.hann_window(512), stored["spec.spectrogram.window"])


# --- choi --------------------------------------------------------------------------------------------------------

PUBLISHED = {
    "bensound-cute": {"jazz": 0.444, "instrumental": 0.151, "folk": 0.103, "Hip-Hop": 0.103, "ambient": 0.077},
    "bensound-actionable": {"jazz": 0.416, "instrumental": 0.181, "Hip-Hop": 0.085, "folk": 0.085, "rock": 0.081},
    "bensound-dubstep": {"Hip-Hop": 0.245, "rock": 0.183, "alternative": 0.081, "electronic": 0.076, "metal": 0.051},
    "bensound-thejazzpiano": {"jazz": 0.299, "instrumental": 0.174, "electronic": 0.089, "ambient": 0.061},
}
"""From the authors' README, with three decimals."""
DECODER_SAMPLES = 1058
"""Samples that the decoder of 2016 skipped at the start of an MP3, at 44.1 kHz: twice the decoder delay of 529."""


FILE = DATA / "choi" / "music_tagger_crnn_weights_tensorflow.h5"


@pytest.fixture(scope="session")
def choi_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if importlib.util.find_spec("h5py") is None:
        pytest.skip("h5py is not installed")
    return import_file(FILE, "choi", "choi", tmp_path_factory.mktemp("choi"))


@pytest.fixture(scope="session")
def choi(choi_weights: Path) -> Predictor:
    return Predictor(load_model(choi_weights), "cpu")


def frame(name: str) -> FloatArray:
    """The middle 29.12 s, as their code selects them."""
    wave = clip(name, 12_000, DECODER_SAMPLES)
    start = (len(wave) - 349_440) // 2
    return wave[start : start + 349_440]


@pytest.mark.parametrize("name", PUBLISHED)
def test_choi_gives_the_published_scores(choi: Predictor, choi_weights: Path, name: str) -> None:
    backbone = fuse(load_model(choi_weights).backbone)
    mel = torch.from_numpy(np.load(DATA / "choi" / f"{name}.npy")[0].astype(np.float32))
    with torch.inference_mode():
        given = backbone(mel).logits.sigmoid()[0]
    for tag, score in PUBLISHED[name].items():
        assert float(given[choi.card.outputs.index(tag)]) == pytest.approx(score, abs=6e-4)


@pytest.mark.parametrize("name", PUBLISHED)
def test_choi_had_our_front_end(choi: Predictor, name: str) -> None:
    theirs = np.load(DATA / "choi" / f"{name}.npy")[0, 0]
    ours = LogMel(choi.card.front_end)(torch.from_numpy(frame(name)[None]))[0].numpy()
    # Their loudest cell, and so the floor below it, was 0.03 dB louder: another resampler.
    assert np.abs(ours - theirs).mean() < 0.06


@pytest.mark.parametrize("name", PUBLISHED)
def test_choi_gives_the_published_scores_from_audio(choi: Predictor, name: str) -> None:
    # Its first GRU is saturated, each state -1, 0 or 1: scores do not move at all, or jump. Another resampler lets this
    # one clip jump.
    tolerance = 0.03 if name == "bensound-actionable" else 6e-4
    given = choi([frame(name)]).scores[0]
    for tag, score in PUBLISHED[name].items():
        assert given[choi.card.outputs.index(tag)] == pytest.approx(score, abs=tolerance)


# --- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["won", "choi", "musicnn"])
def test_a_file_of_another_format_is_refused_in_one_line(form: str, tmp_path: Path) -> None:
    files = {"won": DATA / "won" / "msd-fcn.pth", "choi": FILE, "musicnn": DATA / "README.md"}
    for other in files.keys() - {form}:
        with pytest.raises(ModelError, match=rf"format {form}|h5py") as caught:
            import_file(files[other], form, "x", tmp_path)
        assert "\n" not in str(caught.value) and "weights_only" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
