"""The constants of the front end, and its way into the card and back."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from musictagger.audio.frontend import FRAME_HOPS, FrontEnd
from musictagger.errors import ModelError
from musictagger.models.published.catalogue import entry


def test_the_default_frame_is_that_of_the_papers() -> None:
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
def test_the_frame_of_the_published_models_lasts_as_long(model: str) -> None:
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
def test_json_holds_every_number(front_end: FrontEnd) -> None:
    assert FrontEnd.from_json(json.loads(json.dumps(front_end.to_json()))) == front_end


def test_a_number_left_out_is_the_default() -> None:
    assert FrontEnd.from_json({"n_mels": 128}) == FrontEnd(n_mels=128)


def test_numbers_of_a_newer_version_are_named() -> None:
    with pytest.raises(ModelError, match=r"unknown settings: phase, warp; .* update musictagger"):
        FrontEnd.from_json({"warp": 1, "phase": True, "n_mels": 96})


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([], "is no JSON object"),
        ({"amin": 0}, "has amin 0, which it cannot have"),
        ({"amin": 1e-300}, "has amin"),
        ({"gain": -1}, "has gain -1"),
        ({"gain": 1e300}, "has gain"),
        ({"top_db": 0}, "has top_db 0"),
        ({"sample_rate_hz": 10**9}, "has sample_rate_hz 1000000000"),
        ({"n_fft": 10**9}, "has n_fft"),
        ({"mel_exponent": 1000}, "has mel_exponent"),
        ({"f_min_hz": -1}, "has f_min_hz"),
        ({"f_max_hz": 8_000}, "bands from 0.0 to 8000 Hz, and the sound ends at 6000.0 Hz"),
        ({"f_max_hz": 0}, "bands from"),
        ({"f_min_hz": 4_000, "f_max_hz": 3_000}, "bands from"),
        ({"hop_samples": 1_000}, "leave out some of the sound"),
        ({"n_mels": 258}, "258 mel bands of 257 frequencies"),
        ({"frame_hops": 10**9}, "into no memory"),
        ({"frame_hops": 1, "pad_mode": "reflect"}, "too short to reflect"),
    ],
)
def test_numbers_that_cannot_be_are_refused(values: dict[str, object], reason: str) -> None:
    with pytest.raises(ModelError, match=reason) as caught:
        FrontEnd.from_json(values)
    assert len(str(caught.value)) < 200
