from __future__ import annotations

import os
from pathlib import Path

import media
import pytest
from dataset_trees import folders_tree, touch

from musictagger.datasets import folders
from musictagger.datasets.base import check_leaks, require_usable
from musictagger.errors import BadRequestError


def test_one_folder_a_genre(tmp_path: Path) -> None:
    dataset = folders.read(folders_tree(tmp_path))
    assert dataset.task == "genre" and dataset.tags == ("Blues", "Drum & Bass", "Jazz")
    assert set(dataset.categories.items()) == {(genre, "genre") for genre in dataset.tags}
    counts = dataset.counts()
    assert counts["train"] == dict.fromkeys(dataset.tags, 7)
    assert all(counts[split][genre] in (1, 2) for split in ("valid", "test") for genre in dataset.tags)
    assert (counts["valid"].total(), counts["test"].total()) == (5, 4)
    assert [e.path for e in dataset.examples] == sorted(e.path for e in dataset.examples)
    assert "split by seed 0" in dataset.notes[-1]


def test_the_seed_and_the_shares(tmp_path: Path) -> None:
    folders_tree(tmp_path)
    assert folders.read(tmp_path, seed=1).examples != folders.read(tmp_path).examples
    assert len(folders.read(tmp_path, valid=0.5, test=0.0).split("valid")) == 15
    assert folders.read(tmp_path, valid=0.5, test=0.0).split("test") == ()


def test_other_files_are_ignored(tmp_path: Path) -> None:
    folders_tree(tmp_path)
    touch(tmp_path / "Blues" / "cover.jpg")
    touch(tmp_path / "loose.mp3")
    touch(tmp_path / ".hidden" / "x.mp3")
    touch(tmp_path / "Pictures" / "x.png")
    dataset = folders.read(tmp_path)
    assert len(dataset.examples) == 30 and dataset.tags == ("Blues", "Drum & Bass", "Jazz")
    assert dataset.notes[:2] == ("folders without music: Pictures", "1 files beside the folders have no genre")


def artists_tree(folder: Path, artists: int) -> Path:
    for genre in ("Blues", "Jazz"):
        (folder / genre).mkdir()
        for index in range(12):
            tags = {"artist": f"{genre} band {index % artists}"}
            media.make("mp3", folder / genre, seconds=0.1, tags=tags, name=f"{index:02d}.mp3")
    return folder


def test_no_artist_is_in_two_splits(tmp_path: Path) -> None:
    dataset = folders.read(artists_tree(tmp_path, 4))
    require_usable(dataset)
    assert check_leaks(dataset) == []
    assert {e.artist for e in dataset.examples} == {f"{g} band {n}" for g in ("Blues", "Jazz") for n in range(4)}
    assert "(24 of 24 tracks)" in dataset.notes[-1]


def test_too_few_artists(tmp_path: Path) -> None:
    artists_tree(tmp_path, 2)
    with pytest.raises(BadRequestError, match=r"12 tracks of genre 'Blues' are by 2 artists.* need 3.*artists=false"):
        folders.read(tmp_path)
    dataset = folders.read(tmp_path, artists=False)
    require_usable(dataset)
    assert "artists are ignored" in dataset.notes[-1]
    require_usable(folders.read(tmp_path, test=0.0))


def test_too_few_tracks(tmp_path: Path) -> None:
    folders_tree(tmp_path)
    touch(tmp_path / "Rare" / "one.mp3")
    with pytest.raises(BadRequestError, match="genre 'Rare' has 1 tracks; 3 are the fewest"):
        folders.read(tmp_path)


def test_one_class(tmp_path: Path) -> None:
    for index in range(10):
        touch(tmp_path / "Jazz" / f"{index}.mp3")
    with pytest.raises(BadRequestError, match="has only one tag, 'Jazz'"):
        require_usable(folders.read(tmp_path))


def test_music_without_folders(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp3")
    with pytest.raises(BadRequestError, match="no music in folders; expected one folder per genre"):
        folders.read(tmp_path)
    with pytest.raises(BadRequestError, match=r"a\.mp3: is not a folder"):
        folders.read(tmp_path / "a.mp3")


def test_names_must_be_utf8(tmp_path: Path) -> None:
    folders_tree(tmp_path)
    touch(tmp_path / "Jazz" / os.fsdecode(b"na\xefve.mp3"))
    assert len(folders.read(tmp_path).examples) == 31
    touch(tmp_path / os.fsdecode(b"Caf\xe9") / "a.mp3")
    with pytest.raises(BadRequestError, match=r"Caf\?: the name of a genre's folder must be UTF-8; rename it"):
        folders.read(tmp_path)


def test_a_dangling_link_is_missing(tmp_path: Path) -> None:
    folders_tree(tmp_path)
    link = tmp_path / "Jazz" / "link.mp3"
    link.symlink_to(tmp_path / "gone.mp3")
    assert folders.read(tmp_path).missing == (link,)
