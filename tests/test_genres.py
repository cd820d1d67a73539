"""The choice of genres and moods from scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from conftest import TAGS, make_card
from hypothesis import given
from hypothesis import strategies as st

from musictagger.models.calibration import Calibration, Curve
from musictagger.models.card import Card, Tag
from musictagger.models.vocabulary import known_words, tags_for
from musictagger.scores.genres import GenreChoice, chooser, moods, most_specific, ranked, thresholds
from musictagger.scores.genretree import load_tree

CARD = make_card()
ORDER = [tag.name for tag in TAGS]


def scores(**by_name: float) -> npt.NDArray[np.float32]:
    names = {name.lower().replace("-", "").replace("&", "n"): index for index, name in enumerate(ORDER)}
    values = np.zeros(len(ORDER), np.float32)
    for name, score in by_name.items():
        values[names[name]] = score
    return values


def choose_genres(
    values: npt.NDArray[np.float32],
    card: Card,
    choice: GenreChoice | None = None,
    *,
    excluded: frozenset[str] = frozenset(),
) -> tuple[str, ...]:
    return chooser(card, choice or GenreChoice())(values, excluded)


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
        # Only genres are chosen.
        ({"mellow": 1.0, "guitar": 1.0, "80s": 1.0, "rock": 0.5}, ("Rock",)),
        ({"mellow": 1.0}, ()),
        # Equal scores are sorted by name.
        ({"hiphop": 0.6, "rock": 0.6, "rnb": 0.6}, ("Hip-Hop", "R&B")),
    ],
)
def test_genres_are_those_that_reach_their_threshold(given_scores: dict[str, float], genres: tuple[str, ...]) -> None:
    assert choose_genres(scores(**given_scores), CARD) == genres


def test_the_number_of_genres_can_be_chosen() -> None:
    values = scores(rock=0.9, jazz=0.8, hiphop=0.7, rnb=0.6)
    for most, genres in ((1, ("Rock",)), (3, ("Rock", "Jazz", "Hip-Hop")), (9, ("Rock", "Jazz", "Hip-Hop", "R&B"))):
        assert choose_genres(values, CARD, GenreChoice(max_genres=most)) == genres


@pytest.mark.parametrize(("least", "genres"), [(0.0, ("Rock", "Jazz")), (0.15, ("Rock", "Jazz")), (0.18, ("Rock",))])
def test_one_threshold_can_apply_to_all(least: float, genres: tuple[str, ...]) -> None:
    assert choose_genres(scores(rock=0.2, jazz=0.17), CARD, GenreChoice(min_score=least)) == genres


def test_thresholds_are_those_of_the_card() -> None:
    np.testing.assert_allclose(thresholds(CARD), [tag.threshold for tag in TAGS])
    np.testing.assert_allclose(thresholds(CARD, 0.25), 0.25)


def test_a_threshold_is_met_by_its_own_value() -> None:
    """0.3 is not a binary number: score and threshold must be rounded alike."""
    assert choose_genres(scores(jazz=0.3), CARD) == ("Jazz",)


def test_a_nan_score_gives_no_genre() -> None:
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


TREE = load_tree()
ROCKS = make_card(
    outputs=(
        "rock",
        "indie",
        "indie rock",
        "alternative rock",
        "jazz",
        "electronic",
        "techno",
        "deep house",
        "sad",
    ),
    tags=tags_for(
        ("rock", "indie", "indie rock", "alternative rock", "jazz", "electronic", "techno", "deep house", "sad"),
        0.2,
    ),
)


def choose(scores: Mapping[str, float], excluded: Sequence[str] = (), **options: object) -> tuple[str, ...]:
    """The genres chosen with `ROCKS`, from scores by tag name; others are 0."""
    values = np.array([scores.get(tag.name, 0.0) for tag in ROCKS.tags], np.float32)
    choice = GenreChoice(**options)  # type: ignore[arg-type]
    return choose_genres(values, ROCKS, choice, excluded=frozenset(excluded))


@pytest.mark.parametrize(
    ("given_scores", "genres"),
    [
        ({"Rock": 0.9, "Indie Rock": 0.5}, ("Indie Rock",)),
        ({"Indie Rock": 0.9, "Rock": 0.5}, ("Indie Rock",)),
        ({"Electronic": 0.9, "Techno": 0.8}, ("Techno",)),
        # It implies both, and takes the place of the better.
        ({"Rock": 0.9, "Jazz": 0.8, "Indie": 0.7, "Indie Rock": 0.5}, ("Indie Rock", "Jazz")),
        # The strength of Rock counts for the first kind of Rock only.
        (
            {"Rock": 0.9, "Jazz": 0.6, "Indie Rock": 0.5, "Alternative Rock": 0.46},
            ("Indie Rock", "Jazz", "Alternative Rock"),
        ),
        # A place that becomes free goes to the next best, even if that came before.
        (
            {"Rock": 0.9, "Indie": 0.8, "Jazz": 0.7, "Indie Rock": 0.6, "Electronic": 0.5},
            ("Indie Rock", "Jazz", "Electronic"),
        ),
        # Over several steps.
        ({"Electronic": 0.9, "Deep House": 0.46}, ("Deep House",)),
        # Too weak compared with the genre that it implies.
        ({"Electronic": 0.9, "Deep House": 0.44}, ("Electronic",)),
        ({"Rock": 0.9, "Jazz": 0.8, "Indie": 0.7, "Indie Rock": 0.44}, ("Rock", "Jazz", "Indie")),
        # A genre below its threshold implies nothing.
        ({"Rock": 0.9, "Indie Rock": 0.1}, ("Rock",)),
        ({"Indie Rock": 0.5, "Jazz": 0.5}, ("Indie Rock", "Jazz")),
        ({"Rock": 0.5, "Indie Rock": 0.5}, ("Indie Rock",)),
        ({"Sad": 0.9}, ()),
    ],
)  # fmt: skip
def test_a_genre_implied_by_a_more_specific_one_is_left_out(
    given_scores: dict[str, float], genres: tuple[str, ...]
) -> None:
    for most in (1, 2, 3):
        assert choose(given_scores, max_genres=most) == genres[:most]


def test_a_genre_is_compared_with_its_parent_before_calibration() -> None:
    """A low opera score may be far above its usual value in any classical track."""
    names = ("Classical", "Opera")
    tags = tuple(Tag(name, "genre", (name.lower(),), 0.5) for name in names)
    curves = {"Classical": Curve("platt", offset=2.0), "Opera": Curve("platt", offset=5.0)}
    lifted = make_card(outputs=("classical", "opera"), tags=tags, calibration=Calibration(curves).to_json(), head=None)
    for raw, genres in (((0.8, 0.05), ("Classical",)), ((0.5, 0.4), ("Opera",))):
        scores = np.array([curves[name].apply(np.array(score)) for name, score in zip(names, raw, strict=True)])
        assert min(scores) > 0.5
        assert choose_genres(scores.astype(np.float32), lifted) == genres


def test_parents_can_be_kept() -> None:
    both = {"Indie Rock": 0.5, "Rock": 0.9, "Indie": 0.4}
    assert choose(both, keep_parents=True) == ("Rock", "Indie Rock")


@pytest.mark.parametrize(
    ("allow", "genres"),
    [
        ({"Rock", "Jazz"}, ("Rock", "Jazz")),
        ({"INDIE-ROCK", "jazz music"}, ("Indie Rock", "Jazz")),
        ({"Polka"}, ()),
        (set(), ()),
    ],
)
def test_only_genres_that_are_allowed_are_chosen(allow: set[str], genres: tuple[str, ...]) -> None:
    assert choose({"Rock": 0.9, "Indie Rock": 0.8, "Jazz": 0.7}, allow=frozenset(allow)) == genres


@pytest.mark.parametrize(
    ("excluded", "genres"),
    [
        (["Jazz"], ("Indie Rock",)),
        (["indie rock"], ("Rock", "Jazz")),
        # Without Rock it can still be Indie Rock.
        (["Rock"], ("Indie Rock", "Jazz")),
        (["jazz music", "IndieRock", "Rock Music"], ()),
        (["Polka"], ("Indie Rock", "Jazz")),
    ],
)
def test_a_track_never_gets_an_excluded_genre(excluded: list[str], genres: tuple[str, ...]) -> None:
    assert choose({"Rock": 0.9, "Indie Rock": 0.8, "Jazz": 0.7}, excluded) == genres


def test_genres_renamed_to_the_same_name_count_once(tmp_path: Path) -> None:
    path = tmp_path / "genres.toml"
    path.write_text('[aliases]\n"Deep House" = "Electronic"\n"Jazz" = "Jazz & More"', encoding="utf-8")
    tree = load_tree(path)
    values = {"Deep House": 0.9, "Electronic": 0.8, "Jazz": 0.7}
    assert choose(values, tree=tree) == ("Electronic", "Jazz & More")
    assert choose(values, ["Deep House"], tree=tree) == ("Jazz & More",)
    assert choose(values, tree=tree, allow=frozenset({"jazz", "more"})) == ("Jazz & More",)


def test_spellings_of_a_genre_outside_the_tree_count_as_one() -> None:
    tags = (Tag("Space Polka", "genre", ("a",), 0.1), Tag("space-polka", "genre", ("b",), 0.1))
    card = make_card(outputs=("a", "b"), tags=tags)
    for values in ([0.5, 0.4], [0.4, 0.5]):
        assert choose_genres(np.array(values, np.float32), card) == ("Space Polka",)
    allow = GenreChoice(allow=frozenset({"SPACEPOLKA"}))
    assert choose_genres(np.ones(2, np.float32), card, allow) == ("Space Polka",)


GENRES = sorted({TREE.canonical(name) for name, category in known_words().values() if category == "genre"})
SOME_CARDS = st.lists(
    st.tuples(st.sampled_from(GENRES), st.sampled_from([0.0, 0.3, 0.31, 0.9]), st.sampled_from([0.1, 0.3])),
    unique_by=lambda tag: tag[0],
    min_size=1,
    max_size=25,
)


def card_of(tags: Sequence[tuple[str, float, float]]) -> tuple[Card, npt.NDArray[np.float32]]:
    made = tuple(Tag(name, "genre", (name,), threshold) for name, _, threshold in tags)
    return make_card(outputs=tuple(tag.name for tag in made), tags=made), np.array([tag[1] for tag in tags], np.float32)


@given(SOME_CARDS, st.integers(1, 4), st.booleans(), st.frozensets(st.sampled_from(GENRES), max_size=5), st.data())
def test_the_choice_keeps_its_promises(
    tags: list[tuple[str, float, float]], most: int, keep: bool, excluded: frozenset[str], data: st.DataObject
) -> None:
    choice = GenreChoice(max_genres=most, keep_parents=keep)
    card, values = card_of(tags)
    chosen = choose_genres(values, card, choice, excluded=excluded)
    passing = {name for name, score, threshold in tags if score >= threshold} - excluded
    assert len(chosen) == len(set(chosen)) <= most
    assert set(chosen) <= passing
    assert bool(chosen) == bool(passing)
    if keep:
        score = {name: value for name, value, _ in tags}
        assert list(chosen) == sorted(passing, key=lambda name: (-score[name], name))[:most]
    else:
        assert not any(one in TREE.ancestors(other) for one in chosen for other in chosen)
    shuffled, moved = card_of(data.draw(st.permutations(tags)))
    assert choose_genres(moved, shuffled, choice, excluded=excluded) == chosen
    more = GenreChoice(max_genres=most + 1, keep_parents=keep)
    assert choose_genres(values, card, more, excluded=excluded)[:most] == chosen


@given(st.permutations(GENRES))
def test_every_genre_is_among_the_most_specific_or_implied_by_them(names: list[str]) -> None:
    left = most_specific(names, TREE.above)
    implied = frozenset().union(*(TREE.ancestors(name) for name in left))
    assert set(left) == set(names) - implied
    assert set(names) <= set(left) | implied


def test_a_chooser_works_for_many_tracks() -> None:
    choose_one = chooser(ROCKS, GenreChoice(max_genres=1))
    for index, tag in enumerate(ROCKS.tags[:-1]):
        values = np.eye(len(ROCKS.tags), dtype=np.float32)[index]
        assert choose_one(values) == (tag.name,)
        assert choose_one(values, frozenset({tag.name.upper()})) == ()


def test_moods_are_the_best_moods_and_nothing_else() -> None:
    card = make_card(
        outputs=("rock", "sad", "happy", "calm", "dark", "party"),
        tags=tags_for(("rock", "sad", "happy", "calm", "dark", "party"), {"Party": 0.8, "default": 0.2}),
    )
    values = np.array([0.9, 0.3, 0.3, 0.5, 0.25, 0.7], np.float32)
    assert moods(values, card) == ("Calm", "Happy", "Sad")
    assert moods(values, card, max_moods=1) == ("Calm",)
    assert moods(values, card, max_moods=9) == ("Calm", "Happy", "Sad", "Dark")
    assert moods(values, card, min_score=0.4) == ("Party", "Calm")
    assert moods(values * np.float32(0.1), card) == ()
