"""The query language on a small handmade table, and its consistency by property."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TAGS, make_card
from hypothesis import given
from hypothesis import strategies as st

from musictagger.errors import BadRequestError
from musictagger.library.query import FIELDS, STORED, Tracks, parse
from musictagger.library.reader import TrackRow

CARD = make_card()
SORTABLE = ("score.NAME", *(field.name for field in STORED.values() if field.sortable))


def track_row(path: str, **values: Any) -> TrackRow:
    unknown: dict[str, Any] = dict.fromkeys(field.name for field in dataclasses.fields(TrackRow))
    return TrackRow(**(unknown | {"path": Path(path)} | values))


NAN = float("nan")

#          Rock Jazz H-H  R&B  Mell Guit FemV 80s
SCORES = {
    "a": (0.9, 0.1, 0.0, 0.0, 0.1, 0.8, 0.1, 0.7),
    "b": (0.1, 0.8, 0.0, 0.0, 0.6, 0.1, 0.9, 0.1),
    "c": (0.5, 0.3, 0.4, 0.4, 0.2, 0.5, 0.5, 0.5),
    "d": (0.2, 0.2, 0.9, 0.7, 0.0, 0.0, 0.2, 0.0),
    "e": (NAN,) * 8,
}
TEXTS: dict[str, tuple[str | None, str | None, str | None, tuple[str, ...], float | None]] = {
    "rock/a.mp3": ("AC/DC", "Highway: to hell", "Highway", ("Rock",), 208.0),
    "b.flac": ("Miles Davis", "So, What", "Kind of Blue", ("Jazz", "Cool Jazz"), 545.0),
    "c.ogg": (None, "Blue", None, (), 20.0),
    "Été/d.m4a": ("Émilie", "-1", "Jazz = not", ("Hip-Hop", "R&B"), 60.0),
    "e.mp3": ("the Miles", None, "Rock", ("Rock",), None),
}
ROWS = [
    track_row(f"/music/{name}", artist=artist, title=title, album=album, genres=genres, duration_s=duration_s)
    for name, (artist, title, album, genres, duration_s) in TEXTS.items()
]
TRACKS = Tracks(
    ROWS,
    scores=np.array(list(SCORES.values()), np.float32),
    thresholds=np.array([tag.threshold for tag in TAGS], np.float32),
)
EVERY = "abcde"


def found(text: str) -> str:
    """The tracks that match a query, in the table's order."""
    mask = parse(text, CARD).matches(TRACKS)
    assert mask.shape == (len(EVERY),)
    assert mask.dtype == np.bool_
    return "".join(name for name, matches in zip(EVERY, mask, strict=True) if matches)


def order(text: str) -> str:
    return "".join(EVERY[index] for index in parse(text, CARD).order(TRACKS))


@pytest.mark.parametrize(
    ("text", "tracks"),
    [
        ("", "abcde"), ("   ", "abcde"), (",", "abcde"), (" , ,, ", "abcde"), ("sort:path", "abcde"),
        # Tags, by their threshold.
        ("tag:rock", "ac"), ("genre:rock", "ac"), ("GENRE:ROCK", "ac"), ("tag:jazz", "bc"), ("mood:mellow", "bc"),
        ("instrument:guitar", "ac"), ("voice:female", "bc"), ("era:80s", "ac"), ("tag:80s", "ac"),
        # Spellings and synonyms.
        ("genre:hiphop", "cd"), ("genre:Hip-Hop", "cd"), ('genre:"hip hop"', "cd"), ("genre:rnb", "cd"),
        ("genre:r&b", "cd"), ("tag:woman", "bc"), ('tag:"female vocals"', "bc"), ("tag:femaleVocals", "bc"),
        # Space is and.
        ("genre:rock genre:jazz", "c"), ("genre:rock mood:mellow era:80s", "c"), ("genre:rock  miles", ""),
        # A leading minus is not.
        ("-tag:rock", "bde"), ("-tag:rock -tag:jazz", "de"), ("-genre:rock,jazz", "de"), ("-miles", "acd"),
        ("--tag:rock", "abcde"),
        # Commas are or: within a word, standing alone, at either end of a word; and binds tighter.
        ("genre:rock,jazz", "abc"), ("genre:rock , genre:jazz", "abc"), ("genre:rock, genre:jazz", "abc"),
        ("genre:rock ,genre:jazz", "abc"), ("genre:rock,tag:hiphop", "acd"), ("genre:rock,mood:mellow", "abc"),
        ("genre:rock era:80s , genre:hiphop -genre:rock", "acd"), ("genre:hiphop -genre:rock, artist:ac/dc", "ad"),
        (", genre:rock", "ac"), ("genre:rock ,", "ac"), ("genre:rock,,jazz", "abc"),
        # Ranges.
        ("score.rock:0.5..", "ac"), ("score.rock:..0.1", "b"), ("score.rock:0.15..0.5", "cd"),
        ("score.rock:0..1", "abcd"),
        ("score.R&B:0.4..", "cd"), ("score.hiphop:0.9..", "d"), ("SCORE.Rock:0.5..", "ac"),
        ('score."female vocals":0.9..', "b"), ("-score.rock:0..1", "e"),
        ("score.jazz:0.3..0.3", "c"), ("score.jazz:0.8..", "b"),
        ("duration:..3:00", "cd"), ("duration:3:00..", "ab"), ("duration:60..208", "ad"), ("duration:0:01:00..", "abd"),
        ("duration:..0:20", "c"), ("-duration:0..", "e"), ("duration:3:28..3:28", "a"), ("duration:..0.5", ""),
        # Texts.
        ("artist:miles", "be"), ('artist:"miles davis"', "b"), ('artist:="the miles"', "e"), ("artist:=miles", ""),
        ("artist:ÉMILIE", "d"), ("title:blue", "c"), ("album:blue", "b"), ("blue", "bc"), ("title:what,blue", "bc"),
        ("path:rock/", "a"), ("path:.mp3", "ae"), ("path:été", "d"), ("filegenre:rock", "ae"), ("filegenre:jazz", "b"),
        ("filegenre:=jazz", "b"), ("filegenre:=cool", ""), ("-filegenre:", "c"), ("artist:", "abde"), ("-artist:", "c"),
        # Quotes keep spaces, commas, colons and minus signs.
        ('title:"so, what"', "b"), ('"so, what"', "b"), ('"highway: to"', "a"), ('title:"highway: to"', "a"),
        ('title:"-1"', "d"), ('"-1"', "d"), ('-title:"-1"', "abce"), ('"jazz = not"', "d"),
        ("-", "d"), ('"genre:rock"', ""),
        ('-"highway: to"', "bcde"), ('"highway: to","so, what"', "ab"), ('"SORT:path"', ""),
        # A bare word looks in artist, title, album and path.
        ("rock", "ae"), ("highway hell", "a"), ("miles , hell", "abe"), ("AC/DC", "a"),
    ],
)  # fmt: skip
def test_a_query_matches_tracks(text: str, tracks: str) -> None:
    assert found(text) == tracks


@pytest.mark.parametrize(
    ("text", "names"),
    [
        # By path: upper case comes before lower case, É after both.
        ("", "bcead"), ("sort:path-", "daecb"),
        ("sort:score.rock-", "acdbe"), ("sort:score.rock", "bdcae"), ("sort:score.rock+", "bdcae"),
        ("sort:duration", "cdabe"), ("sort:duration-", "badce"), ("sort:artist", "abedc"), ("sort:artist-", "debac"),
        ("sort:title", "dcabe"), ("sort:title-", "bacde"), ("SORT:Score.Jazz-", "bcdae"),
        ("sort:score.hiphop-", "dcbae"),
        ("sort:score.mellow- sort:title", "bcade"), ('sort:"score.female vocals-"', "bcdae"),
        ("sort:album sort:duration-", "adbec"),
    ],
)  # fmt: skip
def test_a_query_sorts_tracks(text: str, names: str) -> None:
    assert order(text) == names


@pytest.mark.parametrize("direction", ["", "-"])
@pytest.mark.parametrize(
    ("field", "unknown"), [("score.rock", "e"), ("duration", "e"), ("artist", "c"), ("title", "e")]
)
def test_unknown_values_come_last_in_both_directions(field: str, unknown: str, direction: str) -> None:
    assert order(f"sort:{field}{direction}")[-1] == unknown


def test_equal_values_are_in_order_of_path_in_both_directions() -> None:
    assert order("sort:score.hiphop")[:2] == "ba"
    assert order("sort:score.hiphop-")[2:4] == "ba"


def test_a_second_key_decides_among_equals() -> None:
    assert order("sort:score.hiphop sort:duration")[:2] == "ab"
    assert order("sort:score.hiphop,duration-")[:2] == "ba"


def test_sorting_does_not_filter() -> None:
    assert found("genre:rock sort:score.rock-") == "ac"
    assert found("genre:rock, sort:path genre:jazz") == "abc"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("genre:rok", "has no genre 'rok'; did you mean 'Rock'"),
        ("tag:gitar", "did you mean 'Guitar'"),
        ("genre:guitar", "has no genre 'guitar'"),
        ("mood:rock", "has no mood 'rock'"),
        ("score.jaz:0.5..", "did you mean 'Jazz'"),
        ("tag:xyzzy", "has no tag 'xyzzy'.*musictagger tags"),
        ("tag:", "has no tag ''"),
        ("gendre:rock", "no field 'gendre'; did you mean 'genre'"),
        ("artst:x", "did you mean 'artist'"),
        ("xyzzy:x", "no field 'xyzzy'; fields are tag, genre, .*sort"),
        ("score.rock:0.5", "needs a range such as `score.rock:0.3..0.8`"),
        ("score.rock:..", "needs a range"),
        ("score.rock:a..b", "needs a range"),
        ("score.rock:", "needs a range"),
        ("score.rock", None),
        ("score.rock:0.9..0.1", "the range ends before it starts"),
        ("score.rock:nan..", "needs a range"),
        ("score.rock:..nan", "needs a range"),
        ("duration:3:00", "needs a range such as `duration:"),
        ("duration:1:x..", "needs a range"),
        ("duration:9..1", "ends before it starts"),
        ("sort:colour", f"sorts by {', '.join(SORTABLE[:-1])} or {SORTABLE[-1]}$"),
        ("sort:", "sorts by"),
        ("sort:score.rok", "did you mean 'Rock'"),
        ('artist:"miles', 'quotation mark " is missing'),
        ("-sort:path", "put the `-` behind"),
        ("highway:to", "no field 'highway'.*quote a text that has a colon"),
    ],
)
def test_an_invalid_query_gives_a_readable_message(text: str, message: str | None) -> None:
    if message is None:
        assert found(text) == ""
        return
    with pytest.raises(BadRequestError, match=message):
        parse(text, CARD)


def test_a_field_that_several_fields_resemble_is_still_refused() -> None:
    for field in FIELDS:
        with pytest.raises(BadRequestError):
            parse(f"{field.replace('.NAME', '')}zz:x", CARD)


words = st.sampled_from(
    [
        *("genre:rock", "tag:jazz", "mood:mellow", "score.rock:0.2..0.6", "duration:30..", "miles", "filegenre:rock"),
        *('artist:"miles davis"', "genre:rock,jazz", "voice:female,instrument:guitar", "title:=Blue", "blue,hell"),
    ]
)


@given(words)
def test_a_term_and_its_negation_partition_the_tracks(word: str) -> None:
    yes, no = set(found(word)), set(found("-" + word))
    assert yes | no == set(EVERY)
    assert not yes & no


@given(words, words)
def test_and_or_and_not_follow_logic(one: str, other: str) -> None:
    a, b = set(found(one)), set(found(other))
    assert set(found(f"{one} {other}")) == a & b
    assert set(found(f"{one} , {other}")) == a | b
    assert set(found(f"-{one} -{other}")) == set(EVERY) - (a | b)
    assert set(found(f"-{one} , -{other}")) == set(EVERY) - (a & b)


pieces = st.sampled_from(
    [*FIELDS, "score.", "rock", ":", ",", "-", '"', " ", "..", "0.5", "3:00", "=", "sort:", "é", "\x00"]
)


@given(st.text(max_size=30) | st.lists(pieces, max_size=10).map("".join))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        query = parse(text, CARD)
    except BadRequestError as error:
        assert str(error)
        return
    assert query.matches(TRACKS).shape == (5,)
    assert sorted(query.order(TRACKS)) == [0, 1, 2, 3, 4]


def test_a_query_on_an_empty_library_matches_nothing() -> None:
    empty = Tracks([], np.zeros((0, 8), np.float32), np.zeros(8, np.float32))
    query = parse("genre:rock -miles duration:1.. , blue sort:score.rock-", CARD)
    assert query.matches(empty).tolist() == []
    assert query.order(empty) == []
