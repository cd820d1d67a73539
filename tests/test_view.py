"""Stored scores as tags: merged, aggregated, compared with thresholds, and searched."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_card

from musictagger.audio.walk import FoundFile
from musictagger.library.query import parse
from musictagger.library.store import Store
from musictagger.library.view import TrackView, View, queryable, search, track_views
from musictagger.records import Analysed
from musictagger.scores.genres import GenreChoice
from musictagger.tags.fields import FileTags

CARD = make_card()
VIEW = View(CARD)
#           rock  jazz  hh   rnb  mell guit fem  woman 80s
FRAMES: dict[str, list[list[float]]] = {
    "a.mp3": [[0.9, 0.1, 0.0, 0.0, 0.1, 0.8, 0.1, 0.9, 0.7], [0.7, 0.3, 0.0, 0.0, 0.1, 0.8, 0.1, 0.3, 0.7]],
    "b.mp3": [[0.1, 0.8, 0.0, 0.0, 0.6, 0.1, 0.0, 0.0, 0.1]],
}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """a and b analysed, c silent, d failed, e not analysed."""
    with Store(str(tmp_path / "library.db"), create=True) as store:
        model = store.model_id(CARD)
        for name in ("a.mp3", "b.mp3", "c.mp3", "e.mp3"):
            store.record_file(found(name), name, FileTags("mp3", artist=name[0].upper()))
        for name, frames in FRAMES.items():
            scores = np.array(frames, np.float32)
            analysed = Analysed(found(name), name, "ok", 60.0, False, scores, np.zeros(3, np.float32))
            store.record_analysis(model, "rule", analysed)
        silent = Analysed(found("c.mp3"), "c.mp3", "silent", 9.0, False, np.zeros((0, 9)), np.zeros(0))  # type: ignore[arg-type]
        store.record_analysis(model, "rule", silent)
        store.record_failure(found("d.mp3"), "truncated", transient=False)
        yield store


def found(name: str) -> FoundFile:
    return FoundFile(Path("/music") / name, 1, 1)


def tracks(store: Store, view: View = VIEW) -> dict[str, TrackView]:
    rows = [row for chunk in store.tracks(store.model_id(CARD)) for row in chunk]
    return {track.row.path.name: track for track in track_views(rows, view)}


def test_every_track_has_a_status(store: Store) -> None:
    assert {name: track.status for name, track in tracks(store).items()} == {
        "a.mp3": "ok", "b.mp3": "ok", "c.mp3": "silent", "d.mp3": "failed", "e.mp3": "not analysed",
    }  # fmt: skip


def test_tags_are_merged_and_averaged_over_frames(store: Store) -> None:
    seen = tracks(store)
    names = [tag.name for tag in CARD.tags]
    assert seen["a.mp3"].scores is not None
    by_name = dict(zip(names, seen["a.mp3"].scores.tolist(), strict=True))
    assert by_name["Rock"] == pytest.approx(0.8, abs=1e-3)
    # The maximum of `female` and `woman` in each frame, then the mean: (0.9 + 0.3) / 2.
    assert by_name["Female Vocals"] == pytest.approx(0.6, abs=1e-3)
    assert [tag.name for tag, _ in seen["b.mp3"].tags[:2]] == ["Jazz", "Mellow"]


def test_tracks_without_frames_have_no_tags_and_no_genres(store: Store) -> None:
    for name in ("c.mp3", "d.mp3", "e.mp3"):
        track = tracks(store)[name]
        assert (track.scores, track.tags, track.genres) == (None, [], ())


def test_genres_are_those_that_would_be_written(store: Store) -> None:
    seen = tracks(store)
    assert (seen["a.mp3"].genres, seen["b.mp3"].genres) == (("Rock",), ("Jazz",))


@pytest.mark.parametrize(
    ("change", "genres"),
    [
        ({"aggregator": "max"}, ("Rock", "Jazz")),
        ({"choice": GenreChoice(min_score=0.95)}, ()),
        ({"aggregator": "max", "choice": GenreChoice(max_genres=1)}, ("Rock",)),
    ],
)
def test_changing_the_view_changes_genres_without_an_analysis(
    change: dict[str, Any], genres: tuple[str, ...], store: Store
) -> None:
    assert tracks(store, replace(VIEW, **change))["a.mp3"].genres == genres


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", "abcde"), ("genre:rock", "a"), ("-genre:rock", "bcde"), ("sort:score.jazz-", "bacde"), ("artist:b", "b"),
        ("duration:..10", "c"), ("voice:woman , mood:mellow", "ab"), ("genre:rock genre:jazz", ""),
    ],
)  # fmt: skip
def test_a_query_finds_tracks_in_its_order(text: str, names: str, store: Store) -> None:
    hits = search(store, store.model_id(CARD), VIEW, parse(text, CARD))
    assert "".join(track.row.path.name[0] for track in hits) == names


def test_another_models_scores_are_not_shown(store: Store) -> None:
    other = store.model_id(replace(CARD, weights_sha256="1" * 64))
    assert len(search(store, other, VIEW, parse("-duration:0..", CARD))) == 2
    assert search(store, other, VIEW, parse("score.rock:0..", CARD)) == []


def test_no_tracks_are_empty_columns() -> None:
    assert track_views([], VIEW) == []
    table = queryable([], VIEW)
    assert table.scores.shape == (0, len(CARD.tags))
    assert parse("genre:rock , blue", CARD).matches(table).tolist() == []
