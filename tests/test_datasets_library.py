from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from dataset_trees import library_of, library_tree, write

from musictagger.datasets import library
from musictagger.datasets.base import check_leaks, require_usable
from musictagger.errors import BadRequestError, StoreError
from musictagger.library.store import Store

Row = tuple[str, str | None, Sequence[str]]


def rows(genre: str, *written: str, artists: int = 6, each: int = 2) -> list[Row]:
    """Tracks of several artists, each with the genres `written` in its file."""
    name = genre.replace("/", "-")
    return [(f"{name}-{a}-{n}.mp3", f"{genre} {a}", written or (genre,)) for a in range(artists) for n in range(each)]


def test_tracks_with_their_files_genres(tmp_path: Path) -> None:
    dataset = library.read(library_tree(tmp_path))
    assert dataset.task == "genre" and dataset.tags == ("Jazz", "Rock")
    assert len(dataset.examples) == 36 and check_leaks(dataset) == []
    assert dataset.categories == {"Jazz": "genre", "Rock": "genre"}
    require_usable(dataset)
    assert library.read(tmp_path / "library.db", seed=1).examples != dataset.examples


def test_genres_have_the_names_that_this_program_writes(tmp_path: Path) -> None:
    tracks = rows("hiphop") + rows("Hip Hop") + rows("my style") + rows("My-Style", artists=3) + rows("Jazz")
    dataset = library.read(library_of(tmp_path, tracks))
    assert dataset.tags == ("Hip-Hop", "Jazz", "my style")
    assert dataset.counts()["train"]["my style"] > 6


def test_genre_names_of_the_user(tmp_path: Path) -> None:
    own = write(tmp_path / "genres.toml", '[aliases]\n"Jazz" = "Rock"\n')
    with pytest.raises(BadRequestError, match="has only one tag, 'Rock'"):
        require_usable(library.read(library_tree(tmp_path), genres_file=own))


def test_several_genres_make_a_task_of_tags(tmp_path: Path) -> None:
    tracks = rows("Rock", "Rock; Blues") + rows("Jazz", "Jazz", "Blues")
    dataset = library.read(library_of(tmp_path, tracks))
    assert dataset.task == "tags" and dataset.tags == ("Blues", "Jazz", "Rock")
    assert {e.tags for e in dataset.examples} == {("Rock", "Blues"), ("Jazz", "Blues")}
    first = library.read(tmp_path / "library.db", task="genre")
    assert first.task == "genre" and first.tags == ("Jazz", "Rock")
    assert library.read(library_tree(tmp_path / "other"), task="tags").task == "tags"


def test_rare_genres_are_left_out(tmp_path: Path) -> None:
    tracks = [*rows("Rock"), *rows("Jazz"), *rows("Folk", each=1), *rows("Soul", artists=2, each=9), ("x.mp3", "x", [])]
    dataset = library.read(library_of(tmp_path, tracks))
    assert dataset.tags == ("Jazz", "Rock")
    assert dataset.notes[1:] == (
        "2 genres with too few tracks or artists are left out: Soul (18), Folk (6)",
        "1 tracks carry no genre",
    )
    assert library.read(tmp_path / "library.db", min_tracks_per_genre=6).tags == ("Folk", "Jazz", "Rock")
    assert "Soul" in library.read(tmp_path / "library.db", test=0.0).tags


def test_no_genre_is_frequent_enough(tmp_path: Path) -> None:
    location = library_of(tmp_path, rows("Rock", artists=2))
    with pytest.raises(
        BadRequestError, match=r"no genre has 10 tracks by 3 artists \(4 tracks carry a genre\); lower min"
    ):
        library.read(location)


def test_genres_chosen_by_the_user_take_precedence(tmp_path: Path) -> None:
    location = library_tree(tmp_path)
    with Store(str(location)) as store:
        store.choose("0-Rock-0", ["Jazz"], [], False)
        store.choose("0-Rock-1", None, ["rock"], False)
    tags = {e.path.stem: e.tags for e in library.read(location).examples}
    assert tags["0-Rock-0"] == ("Jazz",) and "0-Rock-1" not in tags and tags["0-Rock-2"] == ("Rock",)


def test_copies_of_the_same_audio_count_once(tmp_path: Path) -> None:
    location = library_of(tmp_path, [*rows("Rock"), *rows("Jazz"), ("copy/Rock-0-0.mp3", "Someone else", ["Rock"])])
    dataset = library.read(location)
    assert len(dataset.examples) == 24 and dataset.notes[-1] == "1 copies of the same audio are left out"


def test_missing_files(tmp_path: Path) -> None:
    location = library_tree(tmp_path)
    gone = tmp_path / "music" / "0-Jazz-0.mp3"
    gone.unlink()
    assert library.read(location).missing == (gone,)


def test_failed_files_are_left_out(tmp_path: Path) -> None:
    location = library_tree(tmp_path)
    with Store(str(location)) as store:
        from musictagger.audio.walk import FoundFile

        store.record_failure(FoundFile(tmp_path / "music" / "0-Jazz-0.mp3", 5, 0), "broken", transient=False)
    assert len(library.read(location).examples) == 35


def test_a_url_is_a_location(tmp_path: Path) -> None:
    location = library_tree(tmp_path)
    assert library.read(f"sqlite:///{location}") == library.read(location)


def test_no_database(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"there is no database yet.*, or name one with --data"):
        library.read(tmp_path / "none.db")
