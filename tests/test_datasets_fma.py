from __future__ import annotations

from pathlib import Path

import pytest
from dataset_trees import FMA_COLUMNS, FmaTrack, fma_table, fma_tree, touch, write

from musictagger.datasets import fma
from musictagger.datasets.base import shared_artists
from musictagger.errors import BadRequestError


def test_the_table_has_the_columns_of_the_real_one() -> None:
    assert sum(map(len, FMA_COLUMNS.values())) == 52


def test_its_own_split_and_root_genres(tmp_path: Path) -> None:
    dataset = fma.read(fma_tree(tmp_path))
    assert dataset.task == "genre" and dataset.tags == ("Folk", "Hip-Hop", "Rock")
    assert [len(dataset.split(name)) for name in ("train", "valid", "test")] == [6, 6, 6]
    first = dataset.examples[0]
    assert first.path == tmp_path / "fma_medium" / "000" / "000002.mp3"
    assert (first.tags, first.split, first.artist, first.duration_s) == (("Hip-Hop",), "train", "AWOL (artist 0)", 30.0)
    assert dataset.examples[-1].path.relative_to(tmp_path).as_posix() == "fma_medium/011/011902.mp3"
    assert dataset.notes == (
        "FMA's own split of the medium set",
        "train / valid / test are 6 / 6 / 6; the whole set has 19,922 / 2,505 / 2,573",
    )


def test_small_is_a_part_of_medium_and_found_in_its_folder(tmp_path: Path) -> None:
    dataset = fma.read(fma_tree(tmp_path), subset="small")
    assert len(dataset.examples) == 12 and "the whole set has 6,400 / 800 / 800" in dataset.notes[-1]


def test_large_has_tracks_without_a_genre(tmp_path: Path) -> None:
    fma_tree(tmp_path)
    (tmp_path / "fma_medium").rename(tmp_path / "fma_large")
    dataset = fma.read(tmp_path, subset="large")
    assert len(dataset.examples) == 18
    assert dataset.notes == ("FMA's own split of the large set", "1 tracks without a root genre are left out")


def test_missing_audio_is_named_where_it_should_be(tmp_path: Path) -> None:
    fma_tree(tmp_path)
    (tmp_path / "fma_medium").rename(tmp_path / "elsewhere")
    dataset = fma.read(tmp_path)
    assert dataset.examples == () and dataset.missing[0] == tmp_path / "fma_medium" / "000" / "000002.mp3"


def test_artists_with_the_same_name_are_distinguished(tmp_path: Path) -> None:
    assert shared_artists(fma.read(fma_tree(tmp_path)).examples) == []


def test_counts_of_the_whole_set_give_no_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fma, "COUNTS", {"medium": (6, 6, 6)})
    assert len(fma.read(fma_tree(tmp_path)).notes) == 1


def table(tmp_path: Path, *tracks: FmaTrack) -> Path:
    touch(tmp_path / "fma_medium" / "000" / "000002.mp3")
    return fma_table(tmp_path / "fma_metadata" / "tracks.csv", tracks)


def test_an_unknown_split_is_refused_with_its_line(tmp_path: Path) -> None:
    table(tmp_path, (2, "medium", "training", "Rock", "1"), (3, "medium", "dev", "Rock", "1"))
    # Three header rows, and each track takes two lines.
    with pytest.raises(BadRequestError, match=r"tracks\.csv, line 7: unknown split 'dev'; expected training"):
        fma.read(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("genre_top", "genre", r"lacks track genre_top; expected FMA's tracks\.csv with its three header rows"),
        ("track_id", "id", "has no third header row that begins with track_id"),
        ("\n2,", "\ntwo,", "line 5: 'two' is not a track number"),
        (",168,", ",long,", "line 5: 'long' is not a length in seconds"),
    ],
)
def test_errors_of_the_table(old: str, new: str, message: str, tmp_path: Path) -> None:
    path = table(tmp_path, (2, "medium", "training", "Rock", "1"))
    text = path.read_text(encoding="utf-8")
    assert old in text
    write(path, text.replace(old, new, 1))
    with pytest.raises(BadRequestError, match=message):
        fma.read(tmp_path)


def test_a_single_header_row_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "tracks.csv", "track_id,artist_id\n2,1\n")
    with pytest.raises(BadRequestError, match="lacks set subset"):
        fma.read(tmp_path)
