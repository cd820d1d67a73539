"""The constants of the front end, and its JSON form."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from musictagger.audio.frontend import FRAME_HOPS, FrontEnd
from musictagger.errors import ModelError
from musictagger.models.published.catalogue import entry


def test_default_frame_is_that_of_the_papers() -> None:
    front_end = FrontEnd()
    assert FRAME_HOPS == 1365
    assert (front_end.sample_rate_hz, front_end.n_fft, front_end.hop_samples, front_end.n_mels) == (
        12_000,
        512,
        256,
        96,
    )
    assert front_end.frame_samples == 1365 * 256 == 349_440
    assert front_end.columns == 1366
    assert front_end.frame_s == 29.12


@pytest.mark.parametrize("model", ["musicnn-msd", "musicnn-mtt"])
def test_frames_of_published_models_have_the_same_length(model: str) -> None:
    front_end = entry(model).front_end
    assert (front_end.sample_rate_hz, front_end.frame_hops, front_end.columns) == (16_000, 1820, 1821)
    assert front_end.frame_s == 29.12
    assert (front_end.compression, front_end.gain) == ("log1p", 10_000)


@given(
    st.builds(
        FrontEnd,
        sample_rate_hz=st.integers(8_000, 48_000),
        frame_hops=st.integers(1, 5_000),
        f_max_hz=st.none() | st.floats(1_000, 4_000),
        mel_scale=st.sampled_from(["slaney", "htk"]),
        mel_norm=st.sampled_from(["slaney", None]),
        top_db=st.none() | st.floats(1, 200),
        standardise=st.booleans(),
    )
)
def test_json_keeps_every_setting(front_end: FrontEnd) -> None:
    assert FrontEnd.from_json(json.loads(json.dumps(front_end.to_json()))) == front_end


def test_missing_settings_have_their_defaults() -> None:
    assert FrontEnd.from_json({"n_mels": 128}) == FrontEnd(n_mels=128)


def test_numbers_keep_their_notation() -> None:
    """The key of a card depends on them, and stored scores depend on the key."""
    assert repr(FrontEnd.from_json({"top_db": 80}).to_json()["top_db"]) == "80"


def test_settings_of_a_newer_version_are_named() -> None:
    with pytest.raises(ModelError, match=r"unknown settings: phase, warp; .* update musictagger"):
        FrontEnd.from_json({"warp": 1, "phase": True, "n_mels": 96})


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([], r"front end must be a mapping of names to values, not \[\]"),
        ({"amin": 0}, "front end: amin must be a number from 1e-37 to 1, not 0"),
        ({"amin": 1e-300}, "amin must be a number from 1e-37 to 1, not 1e-300"),
        ({"gain": -1}, "gain must be a number from 1e-12 to 1e[+]12, not -1"),
        ({"gain": 1e300}, r"gain must be a number .* not 1e\+300"),
        ({"top_db": 0}, "top_db must be a number from 1 to 1000, not 0"),
        ({"sample_rate_hz": 10**9}, "sample_rate_hz must be a whole number from 1000 to 384000, not 1000000000"),
        ({"n_fft": 10**9}, "n_fft must be a whole number from 16 to 65536, not 1000000000"),
        ({"mel_exponent": 1000}, "mel_exponent must be a whole number from 1 to 4, not 1000"),
        ({"f_min_hz": -1}, "f_min_hz must be a number from 0 to 192000, not -1"),
        ({"f_max_hz": 8_000}, "bands from 0.0 to 8000 Hz, with a Nyquist frequency of 6000.0 Hz"),
        ({"f_max_hz": 0}, "bands from"),
        ({"f_min_hz": 4_000, "f_max_hz": 3_000}, "bands from"),
        ({"hop_samples": 1_000}, "every 1000 samples leave gaps"),
        ({"n_mels": 258}, "258 mel bands from 257 frequency bins"),
        ({"frame_hops": 10**9}, "do not fit into memory"),
        ({"frame_hops": 1, "pad_mode": "reflect"}, "too short to reflect"),
    ],
)
def test_impossible_settings_are_refused(values: dict[str, object], reason: str) -> None:
    with pytest.raises(ModelError, match=reason) as caught:
        FrontEnd.from_json(values)
    assert len(str(caught.value)) < 200
