"""Track scores from frame scores, compared with numpy track by track."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pytest
from conftest import make_card
from hypothesis import given
from hypothesis import strategies as st

from musictagger.models.card import Tag
from musictagger.records import Aggregator
from musictagger.scores.aggregate import aggregate, aggregate_tracks, merge_outputs

FloatArray = npt.NDArray[np.float32]


def geometric(scores: FloatArray) -> Any:
    return np.exp(np.log(np.maximum(scores.astype(np.float64), 1e-7)).mean(axis=0))


BY_NUMPY: dict[Aggregator, Callable[[FloatArray], Any]] = {
    "mean": lambda scores: scores.astype(np.float64).mean(axis=0),
    "median": lambda scores: np.median(scores, axis=0),
    "geometric": geometric,
    "max": lambda scores: scores.max(axis=0),
}

AGGREGATORS: tuple[Aggregator, ...] = ("mean", "median", "geometric", "max")


def test_every_aggregator_is_tested() -> None:
    assert get_args(Aggregator) == AGGREGATORS


frame_counts = st.lists(st.integers(1, 9), min_size=1, max_size=8)


def random_scores(frames: int, tags: int = 5, seed: int = 0) -> FloatArray:
    """Scores rounded to float16 as in the library, some of them exactly 0 or 1."""
    scores = np.random.default_rng(seed).random((frames, tags)).round(2)
    return scores.astype(np.float16).astype(np.float32)


@pytest.mark.parametrize("how", AGGREGATORS)
@given(counts=frame_counts, seed=st.integers(0, 99))
def test_each_track_equals_numpy_on_its_frames(how: Aggregator, counts: list[int], seed: int) -> None:
    scores = random_scores(sum(counts), seed=seed)
    got = aggregate_tracks(scores, counts, how)
    assert got.dtype == np.float32
    ends = np.cumsum(counts)
    expected = [BY_NUMPY[how](scores[end - count : end]) for end, count in zip(ends, counts, strict=True)]
    np.testing.assert_allclose(got, np.stack(expected), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("how", AGGREGATORS)
def test_one_track_is_the_same_alone(how: Aggregator) -> None:
    scores = random_scores(7)
    np.testing.assert_array_equal(aggregate(scores, how), aggregate_tracks(scores, [7], how)[0])
    np.testing.assert_allclose(aggregate(scores[:1], how), np.maximum(scores[0], 0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("how", AGGREGATORS)
def test_scores_stay_between_those_of_the_frames(how: Aggregator) -> None:
    scores = random_scores(50)
    got = aggregate(scores, how)
    assert (got >= scores.min(axis=0) - 1e-6).all()
    assert (got <= scores.max(axis=0) + 1e-6).all()


def test_one_frame_of_zero_does_not_make_the_geometric_mean_zero() -> None:
    scores = np.array([[0.0, 0.0], [1.0, 0.0]], np.float32)
    np.testing.assert_allclose(aggregate(scores, "geometric"), [1e-7**0.5, 1e-7], rtol=1e-3)


@pytest.mark.parametrize("how", AGGREGATORS)
def test_no_tracks_give_no_rows(how: Aggregator) -> None:
    assert aggregate_tracks(np.zeros((0, 5), np.float32), [], how).shape == (0, 5)


@pytest.mark.parametrize("how", AGGREGATORS)
def test_float16_is_widened_before_it_is_added_up(how: Aggregator) -> None:
    scores = np.full((4096, 2), 0.3333, np.float16)
    np.testing.assert_allclose(aggregate(scores.astype(np.float32), how), float(np.float16(0.3333)), rtol=1e-5)
    narrow: Any = scores
    np.testing.assert_allclose(aggregate(narrow, how), float(np.float16(0.3333)), rtol=1e-5)


def test_a_tag_takes_the_highest_of_its_outputs() -> None:
    tags = (Tag("Vocals", "voice", ("woman", "man"), 0.5), Tag("Rock", "genre", ("rock",), 0.5))
    card = make_card(outputs=("rock", "man", "unused", "woman"), tags=tags)
    scores = np.array([[0.1, 0.2, 0.9, 0.3], [0.4, 0.8, 0.9, 0.7]], np.float32)
    np.testing.assert_array_equal(merge_outputs(scores, card), np.array([[0.3, 0.1], [0.8, 0.4]], np.float32))
    np.testing.assert_array_equal(merge_outputs(scores[0], card), np.array([0.3, 0.1], np.float32))
    assert merge_outputs(scores[:0], card).shape == (0, 2)
