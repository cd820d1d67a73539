"""Which genres a track gets: only genres, only sure ones, the best first."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from conftest import TAGS, make_card
from hypothesis import given
from hypothesis import strategies as st

from musictagger.models.card import Tag
from musictagger.tagging.genres import choose_genres, ranked, thresholds

CARD = make_card()
ORDER = [tag.name for tag in TAGS]


def scores(**by_name: float) -> npt.NDArray[np.float32]:
    names = {name.lower().replace("-", "").replace("&", "n"): index for index, name in enumerate(ORDER)}
    values = np.zeros(len(ORDER), np.float32)
    for name, score in by_name.items():
        values[names[name]] = score
    return values


@pytest.mark.parametrize(
    ("given_scores", "genres"),
    [
        ({}, ()),
        ({"rock": 0.9}, ("Rock",)),
        ({"rock": 0.6, "jazz": 0.7}, ("Jazz", "Rock")),
        ({"rock": 0.6, "jazz": 0.7, "hiphop": 0.8}, ("Hip-Hop", "Jazz")),
        # 0.45 is below the threshold of Rock and above that of Jazz.
        ({"rock": 0.45, "jazz": 0.35}, ("Jazz",)),
        ({"rock": 0.5}, ("Rock",)),
        ({"rock": 0.499}, ()),
        # Never anything but a genre.
        ({"mellow": 1.0, "guitar": 1.0, "80s": 1.0, "rock": 0.5}, ("Rock",)),
        ({"mellow": 1.0}, ()),
        # Equal scores go by name.
        ({"hiphop": 0.6, "rock": 0.6, "rnb": 0.6}, ("Hip-Hop", "R&B")),
    ],
)
def test_genres_are_those_that_reach_their_threshold(given_scores: dict[str, float], genres: tuple[str, ...]) -> None:
    assert choose_genres(scores(**given_scores), CARD) == genres


def test_the_number_of_genres_can_be_chosen() -> None:
    values = scores(rock=0.9, jazz=0.8, hiphop=0.7, rnb=0.6)
    for most, genres in ((1, ("Rock",)), (3, ("Rock", "Jazz", "Hip-Hop")), (9, ("Rock", "Jazz", "Hip-Hop", "R&B"))):
        assert choose_genres(values, CARD, max_genres=most) == genres


@pytest.mark.parametrize(("least", "genres"), [(0.0, ("Rock", "Jazz")), (0.15, ("Rock", "Jazz")), (0.18, ("Rock",))])
def test_one_threshold_can_stand_for_all(least: float, genres: tuple[str, ...]) -> None:
    assert choose_genres(scores(rock=0.2, jazz=0.17), CARD, min_score=least) == genres


def test_thresholds_are_those_of_the_card() -> None:
    np.testing.assert_allclose(thresholds(CARD), [tag.threshold for tag in TAGS])
    np.testing.assert_allclose(thresholds(CARD, 0.25), 0.25)


def test_a_threshold_is_met_by_its_own_value() -> None:
    """0.3 is no binary number: score and threshold must be rounded alike."""
    assert choose_genres(scores(jazz=0.3), CARD) == ("Jazz",)


def test_a_score_that_is_no_number_is_no_genre() -> None:
    assert choose_genres(np.full(len(ORDER), np.nan, np.float32), CARD) == ()


@given(st.lists(st.sampled_from([0.0, 0.2, 0.5, 1.0]), min_size=len(ORDER), max_size=len(ORDER)))
def test_tags_are_ranked_by_score_then_name(values: list[float]) -> None:
    order = ranked(np.array(values, np.float32), TAGS)
    keys = [(-score, tag.name) for tag, score in order]
    assert keys == sorted(keys)
    assert {tag.name for tag, _ in order} == set(ORDER)


def test_a_model_without_genres_gives_none() -> None:
    card = make_card(outputs=("calm",), tags=(Tag("Calm", "mood", ("calm",), 0.1),))
    assert choose_genres(np.ones(1, np.float32), card) == ()
