from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from dataset_trees import touch, write
from helpers import write_tone
from media import add_tags, make

from musictagger.datasets import read_dataset
from musictagger.datasets.base import Dataset, require_usable, shared_artists
from musictagger.errors import BadRequestError


def tagged(path: Path, **tags: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    make("vorbis", path.parent, seconds=0.1, name=path.name)
    add_tags(path, tags)
    return path


def listing(path: Path, *lines: dict[str, Any]) -> Path:
    return write(path, "".join(json.dumps(line) + "\n" for line in lines))


def splits_of(dataset: Dataset, folder: Path) -> dict[str, str]:
    return {example.path.relative_to(folder).as_posix(): example.split for example in dataset.examples}


class TestSplit:
    def test_no_folder_in_two_splits(self, tmp_path: Path) -> None:
        for index in range(60):
            touch(tmp_path / f"album {index // 4}" / f"{index}.ogg")
        dataset = read_dataset("music", tmp_path)
        by_folder: dict[Path, set[str]] = {}
        for example in dataset.examples:
            by_folder.setdefault(example.path.parent, set()).add(example.split)
        assert all(len(splits) == 1 for splits in by_folder.values())
        assert {split: len(dataset.split(split)) for split in ("train", "valid", "test")} == {
            "train": 44,
            "valid": 8,
            "test": 8,
        }

    def test_an_artist_joins_folders_and_a_folder_joins_artists(self, tmp_path: Path) -> None:
        chain = [("one", "Ann"), ("two", "ANN "), ("two", "Bob"), ("three", "bob")]
        for index, (folder, artist) in enumerate(chain):
            tagged(tmp_path / folder / f"{index}.ogg", artist=artist)
        for index in range(12):
            touch(tmp_path / f"other {index}" / "a.ogg")
        for seed in range(8):
            dataset = read_dataset("music", tmp_path, seed=seed)
            splits = splits_of(dataset, tmp_path)
            assert len({splits[f"{folder}/{index}.ogg"] for index, (folder, _) in enumerate(chain)}) == 1
            assert shared_artists(dataset.examples) == []

    def test_depth_selects_the_package_folder(self, tmp_path: Path) -> None:
        for index in range(40):
            touch(tmp_path / f"package-{index // 4}" / f"level {index % 4}" / "music.ogg")
        deep = splits_of(read_dataset("music", tmp_path, depth=1), tmp_path)
        assert all(len({deep[f"package-{p}/level {i}/music.ogg"] for i in range(4)}) == 1 for p in range(10))
        own = splits_of(read_dataset("music", tmp_path), tmp_path)
        assert any(len({own[f"package-{p}/level {i}/music.ogg"] for i in range(4)}) > 1 for p in range(10))

    def test_files_beside_the_folders_have_no_package(self, tmp_path: Path) -> None:
        for index in range(20):
            touch(tmp_path / f"{index}.ogg")
        dataset = read_dataset("music", tmp_path)
        assert {example.split for example in dataset.examples} == {"train", "valid", "test"}
        assert all(example.artist is None for example in dataset.examples)

    def test_splits_depend_only_on_the_seed(self, tmp_path: Path) -> None:
        for index in range(30):
            touch(tmp_path / f"album {index}" / "a.ogg")
        first = read_dataset("music", tmp_path, seed=1)
        assert first == read_dataset("music", tmp_path, seed=1)
        assert first.examples != read_dataset("music", tmp_path, seed=2).examples

    def test_every_split_gets_a_group_if_there_are_enough(self, tmp_path: Path) -> None:
        for index in range(30):
            touch(tmp_path / f"album {min(index, 2)}" / f"{index}.ogg")
        dataset = read_dataset("music", tmp_path)
        assert [len(dataset.split(split)) for split in ("train", "valid", "test")] == [28, 1, 1]

    def test_too_few_groups_are_refused(self, tmp_path: Path) -> None:
        for index in range(30):
            touch(tmp_path / "album" / f"{index}.ogg")
        with pytest.raises(BadRequestError, match=r"30 tracks are linked .* into 1 group; 3 are the fewest"):
            read_dataset("music", tmp_path)

    def test_a_negative_depth_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(BadRequestError, match="depth"):
            read_dataset("music", tmp_path, depth=-1)


class TestListing:
    def test_gives_the_artists_of_files_in_one_folder(self, tmp_path: Path) -> None:
        names = [f"audio/{index:03d}.ogg" for index in range(30)]
        for name in names:
            touch(tmp_path / "corpus" / name)
        lines = [{"file": name, "artist": f"Artist {index // 3}"} for index, name in enumerate(names)]
        listing(tmp_path / "corpus" / "list.jsonl", *lines)
        dataset = read_dataset("music", tmp_path / "corpus" / "list.jsonl")
        splits = splits_of(dataset, tmp_path / "corpus")
        assert set(splits.values()) == {"train", "valid", "test"}
        assert all(len({splits[name] for name in names[start : start + 3]}) == 1 for start in range(0, 30, 3))

    def test_album_and_genre_count_too(self, tmp_path: Path) -> None:
        names = [f"{index:03d}.ogg" for index in range(30)]
        for name in names:
            touch(tmp_path / name)
        lines = [{"path": name, "album": f"a{index // 3}", "genre": "Hip Hop"} for index, name in enumerate(names)]
        listing(tmp_path / "list.jsonl", *lines)
        dataset = read_dataset("music", tmp_path / "list.jsonl", genres=True)
        assert dataset.tags == ("Hip-Hop",)
        splits = splits_of(dataset, tmp_path)
        assert all(len({splits[name] for name in names[start : start + 3]}) == 1 for start in range(0, 30, 3))

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("{", "line 2: is not valid JSON"),
            ("[1]", "line 2: is not a JSON object"),
            ('{"artist": "x"}', "names no"),
        ],
    )
    def test_errors_name_the_line(self, text: str, reason: str, tmp_path: Path) -> None:
        touch(tmp_path / "a.ogg")
        write(tmp_path / "list.jsonl", f'{{"file": "a.ogg"}}\n{text}\n')
        with pytest.raises(BadRequestError, match=reason):
            read_dataset("music", tmp_path / "list.jsonl")

    def test_only_listed_files_are_used_and_missing_ones_reported(self, tmp_path: Path) -> None:
        lines = []
        for index in range(12):
            touch(tmp_path / "far" / f"{index}.ogg")
            lines.append({"file": str(tmp_path / "far" / f"{index}.ogg"), "artist": f"Artist {index}"})
        touch(tmp_path / "lists" / "unlisted.ogg")
        listing(tmp_path / "lists" / "list.jsonl", *lines, {"file": "gone.ogg"})
        dataset = read_dataset("music", tmp_path / "lists" / "list.jsonl")
        assert len(dataset.examples) == 12 and dataset.missing == (tmp_path / "lists" / "gone.ogg",)

    def test_its_own_split_is_used(self, tmp_path: Path) -> None:
        given = {f"{index}.ogg": ("train", "valid", "test", "train")[index % 4] for index in range(8)}
        for name in given:
            touch(tmp_path / name)
        lines = [{"file": name, "artist": given[name], "split": given[name]} for name in given]
        dataset = read_dataset("music", listing(tmp_path / "list.jsonl", *lines))
        assert splits_of(dataset, tmp_path) == given
        assert "split as in the listing" in dataset.notes[0]

    @pytest.mark.parametrize(
        ("line", "reason"),
        [
            ({}, "some have none"),
            ({"split": "dev"}, "line 2: unknown split 'dev'; expected train"),
            ({"split": ["train"]}, "line 2: unknown split"),
            ({"file": "a.ogg", "split": "test"}, "line 2: .*a.ogg is in another split"),
        ],
    )
    def test_a_partial_split_is_refused(self, line: dict[str, Any], reason: str, tmp_path: Path) -> None:
        for name in ("a.ogg", "b.ogg"):
            touch(tmp_path / name)
        lines = [{"file": "a.ogg", "split": "train"}, {"file": "b.ogg", **line}]
        with pytest.raises(BadRequestError, match=reason):
            read_dataset("music", listing(tmp_path / "list.jsonl", *lines))

    def test_a_genre_of_one_given_split_is_left_out(self, tmp_path: Path) -> None:
        lines = []
        for index in range(24):
            touch(tmp_path / f"{index}.ogg")
            split = ("train", "valid", "test")[index % 3]
            genre = "Polka" if split == "train" and index > 11 else "Jazz"
            lines.append({"file": f"{index}.ogg", "artist": f"{index}", "split": split, "genre": genre})
        path = listing(tmp_path / "list.jsonl", *lines)
        assert read_dataset("music", path, genres=True, min_tracks_per_genre=2).tags == ("Jazz",)

    def test_an_empty_listing_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(BadRequestError, match="an empty listing"):
            read_dataset("music", listing(tmp_path / "empty.jsonl"))
        with pytest.raises(BadRequestError, match="none of the 1 files"):
            read_dataset("music", listing(tmp_path / "list.jsonl", {"file": "gone.ogg"}))


class TestGenres:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        for index in range(24):
            genre = ("hip hop; Jazz", "jazz", "polka" if index == 2 else "JAZZ")[index % 3]
            tagged(tmp_path / f"album {index}" / "a.ogg", artist=f"Artist {index}", genre=genre)
        for index in range(6):
            write_tone(tmp_path / f"bare {index}" / "a.ogg", 0.1)
        return tmp_path

    def test_are_named_as_this_program_writes_them(self, folder: Path) -> None:
        dataset = read_dataset("music", folder, genres=True, min_tracks_per_genre=5)
        assert dataset.tags == ("Hip-Hop", "Jazz")
        assert dict(dataset.categories) == {"Hip-Hop": "genre", "Jazz": "genre"}
        assert len(dataset.examples) == 30
        assert sum(not example.tags for example in dataset.examples) == 7
        assert any("23 of 30 tracks carry a genre" in note for note in dataset.notes)
        assert any("1 genre with too few" in note for note in dataset.notes)

    def test_are_not_read_by_default(self, folder: Path) -> None:
        dataset = read_dataset("music", folder)
        assert dataset.tags == () and dataset.categories == {}
        assert all(example.tags == () for example in dataset.examples)


class TestUsable:
    def test_only_with_teachers(self, tmp_path: Path) -> None:
        for index in range(30):
            touch(tmp_path / f"album {index}" / "a.ogg")
        dataset = read_dataset("music", tmp_path)
        require_usable(dataset, with_teachers=True)
        with pytest.raises(BadRequestError, match="unlabelled tracks; name teachers"):
            require_usable(dataset)

    def test_teachers_need_tracks_to_learn_from(self, tmp_path: Path) -> None:
        dataset = Dataset("music", "tags", (), (), partial=True)
        with pytest.raises(BadRequestError, match="no track was found"):
            require_usable(dataset, with_teachers=True)
