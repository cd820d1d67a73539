"""Categories, display names and merges of the vocabulary."""

from __future__ import annotations

import itertools
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from musictagger.errors import ModelError
from musictagger.models import vocabulary
from musictagger.models.card import CATEGORIES
from musictagger.models.published.catalogue import entry
from musictagger.models.vocabulary import known_words, meaning, tags_for

TABLES = tomllib.loads(Path(vocabulary.__file__).with_name("tags.toml").read_text(encoding="utf-8"))

MTT_MERGES = {
    "Classical": ("classical", "classic"),
    "Beat": ("beat", "beats"),
    "Choir": ("choir", "choral"),
    "Female Vocals": ("female", "woman", "female vocal", "female voice"),
    "Male Vocals": ("male", "male vocal", "man", "male voice"),
    "No Vocals": ("no vocals", "no vocal", "no voice"),
    "Vocals": ("vocal", "singing", "vocals", "voice"),
}
MSD_MERGES = {"Chillout": ("chillout", "chill"), "Female Vocals": ("female vocalists", "female vocalist")}

MSD_GENRES = {
    *("Rock", "Pop", "Alternative", "Indie", "Electronic", "Dance", "Alternative Rock", "Jazz", "Metal", "Soul"),
    *("Classic Rock", "Indie Rock", "Electronica", "Folk", "Punk", "Blues", "Hard Rock", "Ambient", "Experimental"),
    *("Hip-Hop", "Country", "Easy Listening", "Funk", "Electro", "Heavy Metal", "Progressive Rock", "R&B"),
    *("Indie Pop", "House"),
}
MTT_GENRES = {
    *("Classical", "Techno", "Electronic", "Rock", "Ambient", "Indian", "Opera", "Pop", "New Age", "Dance"),
    *("Country", "Metal"),
}


@pytest.mark.parametrize(
    ("model", "merges", "genres"), [("musicnn-mtt", MTT_MERGES, MTT_GENRES), ("musicnn-msd", MSD_MERGES, MSD_GENRES)]
)
def test_every_merge_and_every_genre_of_a_published_model(
    model: str, merges: dict[str, tuple[str, ...]], genres: set[str]
) -> None:
    tags = tags_for(entry(model).outputs, 0.5)
    assert {tag.name: tag.outputs for tag in tags if len(tag.outputs) > 1} == merges
    assert {tag.name for tag in tags if tag.category == "genre"} == genres
    assert sorted(itertools.chain.from_iterable(tag.outputs for tag in tags)) == sorted(entry(model).outputs)


def test_every_category_is_one_and_display_names_differ_by_more_than_case() -> None:
    assert set(TABLES) == set(CATEGORIES)
    shown = [name for table in TABLES.values() for name in table]
    assert len({name.casefold() for name in shown}) == len(shown)


def test_each_table_is_in_alphabetical_order() -> None:
    for table in TABLES.values():
        assert list(table) == sorted(table, key=str.casefold)


@pytest.mark.parametrize(
    "word",
    ["instrumental", "oldies", "party", "beautiful", "catchy", "guitar", "80s", "female vocalists", "sexy", "acoustic"],
)
def test_tags_of_other_categories_are_not_genres(word: str) -> None:
    assert meaning(word)[1] != "genre"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("metal", "heavy metal"), ("indie", "indie rock"), ("rock", "hard rock"), ("electronic", "electronica"),
        ("electro", "electronic"), ("house", "deep house"), ("rap", "hip hop"), ("folk", "country"),
        ("vocals", "no vocals"),
    ],
)  # fmt: skip
def test_different_words_are_not_merged(one: str, other: str) -> None:
    assert meaning(one)[0] != meaning(other)[0]


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("Hip-Hop", "Hip-Hop"), ("hiphop", "Hip-Hop"), ("rnb", "R&B"), ("r&b", "R&B"), ("newAge", "New Age"),
        ("noVocals", "No Vocals"), ("80s", "80s"), ("80's", "80s"), ("Progressive rock", "Progressive Rock"),
        ("Old-Time / Historic", "Old-Time"), ("Soul-RnB", "Soul/R&B"), ("drum n bass", "Drum & Bass"),
        ("clasical", "Classical"), ("new_age", "New Age"),
    ],
)  # fmt: skip
def test_spellings_lead_to_one_display_name(word: str, name: str) -> None:
    assert meaning(word)[0] == name


GTZAN = ("blues", "classical", "country", "disco", "hiphop", "jazz", "metal", "pop", "reggae", "rock")
FMA = (
    *("Blues", "Classical", "Country", "Easy Listening", "Electronic", "Experimental", "Folk", "Hip-Hop"),
    *("International", "Jazz", "Old-Time / Historic", "Pop", "Rock", "Soul-RnB", "Spoken"),
)


@pytest.mark.parametrize("word", [*GTZAN, *FMA])
def test_the_genres_of_gtzan_and_fma_are_genres(word: str) -> None:
    assert meaning(word)[1] == "genre"


def test_unknown_words_keep_their_name_and_get_the_given_category() -> None:
    tags = tags_for(["sound of the sea", "post-prog", "MyTag", "my tag"], 0.5)
    assert [(tag.name, tag.category) for tag in tags] == [
        ("Sound of the Sea", "other"),
        ("Post-Prog", "other"),
        ("MyTag", "other"),
    ]
    assert tags[2].outputs == ("MyTag", "my tag")
    assert tags_for(["gqom"], 0.5, unknown="genre")[0].category == "genre"


def test_the_most_specific_threshold_wins() -> None:
    thresholds = {"default": 0.1, "genre": 0.2, "Jazz": 0.3}
    assert [tag.threshold for tag in tags_for(["piano", "rock", "jazz"], thresholds)] == [0.1, 0.2, 0.3]
    with pytest.raises(ModelError, match="tag 'Piano' has no threshold"):
        tags_for(["piano"], {"genre": 0.2})


@given(st.lists(st.text(min_size=1, max_size=12) | st.sampled_from(sorted(known_words())), max_size=12))
def test_any_words_become_tags_that_contain_each_output_once(words: list[str]) -> None:
    tags = tags_for(words, 0.5)
    held = [output for tag in tags for output in tag.outputs]
    assert sorted(held) == sorted(set(words))
    assert len({(tag.name, tag.category) for tag in tags}) == len(tags)
