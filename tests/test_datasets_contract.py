from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from dataset_trees import TREES, write

from musictagger.datasets import DATASETS, read_dataset
from musictagger.datasets.base import Dataset, check_leaks, describe, require_usable
from musictagger.errors import BadRequestError, MusictaggerError
from musictagger.models.card import CATEGORIES

NAMES = sorted(DATASETS)


def read(name: str, tmp_path: Path) -> Dataset:
    return read_dataset(name, TREES[name](tmp_path))


def test_every_dataset_has_a_tree() -> None:
    assert set(TREES) == set(DATASETS)


@pytest.mark.parametrize("name", NAMES)
class TestEveryDataset:
    def test_has_a_source_and_a_licence(self, name: str, tmp_path: Path) -> None:
        source = DATASETS[name]
        assert source.name == name and source.source and source.licence and source.read.__doc__

    def test_is_usable_and_leaks_nothing(self, name: str, tmp_path: Path) -> None:
        dataset = read(name, tmp_path)
        assert dataset.name == name
        require_usable(dataset, with_teachers=dataset.partial)
        assert check_leaks(dataset) == []
        assert set(dataset.categories.values()) <= set(CATEGORIES)

    def test_gives_absolute_paths_of_existing_files(self, name: str, tmp_path: Path) -> None:
        dataset = read(name, tmp_path)
        assert all(example.path.is_absolute() and example.path.is_file() for example in dataset.examples)
        assert dataset.missing == ()

    def test_gives_the_same_each_time(self, name: str, tmp_path: Path) -> None:
        where = TREES[name](tmp_path)
        assert read_dataset(name, where) == read_dataset(name, where)

    def test_splits_do_not_depend_on_the_folder(self, name: str, tmp_path: Path) -> None:
        found = []
        for parent in ("one", "two"):
            (tmp_path / parent).mkdir()
            dataset = read(name, tmp_path / parent)
            found.append([(e.path.relative_to(tmp_path / parent), e.tags, e.split) for e in dataset.examples])
        assert found[0] == found[1]

    def test_lists_missing_and_empty_files(self, name: str, tmp_path: Path) -> None:
        where = TREES[name](tmp_path)
        whole = read_dataset(name, where)
        gone, empty = whole.examples[0].path, whole.examples[1].path
        gone.unlink()
        empty.write_bytes(b"")
        dataset = read_dataset(name, where)
        assert len(dataset.examples) == len(whole.examples) - 2
        assert {gone, empty}.isdisjoint(example.path for example in dataset.examples)
        # Where the folder itself is the list, or with folds, a deleted file is not missing.
        assert set(dataset.missing) == {"folders": {empty}, "music": {empty}, "gtzan": set()}.get(name, {gone, empty})

    def test_describes_itself(self, name: str, tmp_path: Path) -> None:
        dataset = read(name, tmp_path)
        lines = describe(dataset)
        assert lines[0].startswith(f"{name}: {len(dataset.examples)} tracks, {len(dataset.tags)} ")
        assert [line.split(":")[0] for line in lines[1:4]] == ["  train", "  valid", "  test"]
        assert all(line.isprintable() for line in lines)

    def test_refuses_a_missing_folder(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(MusictaggerError, match="nowhere"):
            read_dataset(name, tmp_path / "nowhere")

    def test_refuses_an_empty_folder(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(MusictaggerError):
            read_dataset(name, tmp_path)

    def test_all_audio_missing_is_an_error_that_names_some(self, name: str, tmp_path: Path) -> None:
        where = TREES[name](tmp_path)
        for example in read_dataset(name, where).examples:
            example.path.unlink()
        with pytest.raises(BadRequestError, match=r"no track was found; .* missing or empty: .*mp3|no music|no GTZAN"):
            require_usable(read_dataset(name, where))

    def test_suggests_an_option(self, name: str, tmp_path: Path) -> None:
        option = next(iter(DATASETS[name].options), None)
        if option is None:
            pytest.skip("has no options")
        message = f"unknown option of dataset {name} '{option}x'; did you mean '{option}'"
        with pytest.raises(BadRequestError, match=message):
            read_dataset(name, tmp_path, **{f"{option}x": 1})


def test_an_unknown_dataset_gets_a_suggestion() -> None:
    with pytest.raises(BadRequestError, match="unknown dataset 'gtzn'; did you mean 'gtzan'"):
        read_dataset("gtzn", Path())
    with pytest.raises(BadRequestError, match="there are: folders, "):
        read_dataset("?", Path())


def test_options_may_be_text(tmp_path: Path) -> None:
    where = TREES["folders"](tmp_path)
    typed = read_dataset("folders", where, valid=0.2, seed=3, artists=False)
    assert read_dataset("folders", str(where), valid="0.2", seed="3", artists="no") == typed


@pytest.mark.parametrize(
    ("name", "option", "value", "message"),
    [
        ("folders", "seed", "many", "option seed of dataset folders must be a whole number, not 'many'"),
        ("folders", "valid", "much", "option valid of dataset folders must be a number, not 'much'"),
        ("folders", "artists", "perhaps", "option artists of dataset folders must be true or false, not 'perhaps'"),
        ("folders", "seed", True, "option seed of dataset folders must be a whole number, not True"),
        ("fma", "subset", "meduim", "did you mean 'medium'"),
        ("mtat", "split", "x", "option split of dataset mtat must be one of folders, random, not 'x'"),
        ("folders", "valid", 0.0, "leave 0.85 to train on"),
        ("folders", "test", 0.9, "leave -0.05 to train on"),
        ("library", "valid", float("nan"), "leave nan"),
        ("gtzan", "fold", 10, "there are 0 to 9"),
        ("jamendo", "split", 5, "there are 0 to 4"),
    ],
)
def test_an_unsuitable_value(name: str, option: str, value: object, message: str, tmp_path: Path) -> None:
    where = TREES[name](tmp_path)
    with pytest.raises(BadRequestError, match=message):
        read_dataset(name, where, **{option: value})


@pytest.mark.parametrize("name", ["mtat", "fma", "jamendo"])
def test_a_table_of_another_kind_is_refused(name: str, tmp_path: Path) -> None:
    where = TREES[name](tmp_path)
    for table in (*where.rglob("*_final.csv"), *where.rglob("tracks.csv"), *where.rglob("*.tsv")):
        write(table, "something,else\n1,2\n3,4\n5,6\n")
    with pytest.raises(BadRequestError, match=r"(annotations_final.csv|tracks.csv|autotagging-train.tsv)"):
        read_dataset(name, where)


@pytest.mark.parametrize("name", ["mtat", "fma", "jamendo", "manifest"])
def test_an_empty_table_is_refused(name: str, tmp_path: Path) -> None:
    where = TREES[name](tmp_path)
    tables = [where] if where.is_file() else [*where.rglob("*.csv"), *where.rglob("*.tsv")]
    for table in tables:
        table.write_bytes(b"")
    with pytest.raises(BadRequestError):
        read_dataset(name, where)


@pytest.mark.parametrize("name", ["mtat", "fma", "jamendo", "manifest"])
def test_invalid_utf8_is_refused_with_its_line(name: str, tmp_path: Path) -> None:
    where = TREES[name](tmp_path)
    tables = [where] if where.is_file() else [*where.rglob("annotations_final.csv"), *where.rglob("tracks.csv")]
    for table in tables or where.rglob("*.tsv"):
        data = table.read_bytes().rstrip(b"\n").split(b"\n")
        line = len(data)
        data[-1] = data[-1].replace(b"3", b"\xff").replace(b"a", b"\xff")
        table.write_bytes(b"\n".join(data) + b"\n")
    with pytest.raises(BadRequestError, match=rf"line {line}: .* is not in UTF-8"):
        read_dataset(name, where)


def test_trees_are_small(tmp_path: Path) -> None:
    for name, tree in TREES.items():
        (tmp_path / name).mkdir()
        tree(tmp_path / name)
        assert sum(path.stat().st_size for path in (tmp_path / name).rglob("*")) < 1 << 20
        shutil.rmtree(tmp_path / name)
