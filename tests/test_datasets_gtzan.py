from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from conftest import SHARED
from dataset_trees import gtzan_lists, gtzan_tree, touch, write

from musictagger.datasets import gtzan
from musictagger.datasets.base import require_usable
from musictagger.errors import BadRequestError


@pytest.mark.parametrize("suffix", [".wav", ".au", ".mp3"])
def test_a_fold(suffix: str, tmp_path: Path) -> None:
    dataset = gtzan.read(gtzan_tree(tmp_path, suffix))
    assert dataset.task == "genre" and dataset.tags == gtzan.GENRES
    assert dataset.examples[0].path == tmp_path / "genres" / "blues" / f"blues.00000{suffix}"
    counts = dataset.counts()
    assert all(counts["test"][genre] == counts["valid"][genre] == 1 for genre in gtzan.GENRES)
    assert [len(dataset.split(name)) for name in ("train", "valid", "test")] == [80, 10, 10]
    assert dataset.notes[1] == "100 excerpts were found; the whole set has 1,000"


def test_every_excerpt_is_tested_once(tmp_path: Path) -> None:
    gtzan_tree(tmp_path)
    tested = [e.path for fold in range(10) for e in gtzan.read(tmp_path, fold=fold).split("test")]
    assert len(tested) == len(set(tested)) == 100
    valid = [{e.path for e in gtzan.read(tmp_path, fold=fold).split("valid")} for fold in range(10)]
    assert valid[3] == {e.path for e in gtzan.read(tmp_path, fold=4).split("test")}
    assert gtzan.read(tmp_path, seed=1).examples != gtzan.read(tmp_path).examples


@pytest.mark.parametrize("subfolder", ["", "genres_original", "Data/genres_original"])
def test_possible_folders_of_the_genres(subfolder: str, tmp_path: Path) -> None:
    gtzan_tree(tmp_path / "tree")
    shutil.move(tmp_path / "tree" / "genres", tmp_path / "new" / subfolder)
    assert len(gtzan.read(tmp_path / "new").examples) == 100


def test_the_filtered_lists(tmp_path: Path) -> None:
    gtzan_tree(tmp_path, ".au")
    dataset = gtzan.read(gtzan_lists(tmp_path), split="filtered")
    assert [len(dataset.split(name)) for name in ("train", "valid", "test")] == [50, 20, 20]
    assert dataset.missing == () and "the usual ones 443 / 197 / 290" in dataset.notes[1]
    assert gtzan.read(tmp_path / "genres", split="filtered") == dataset
    require_usable(dataset)


def test_lists_in_another_folder(tmp_path: Path) -> None:
    gtzan_tree(tmp_path / "data")
    (tmp_path / "lists").mkdir()
    with pytest.raises(
        BadRequestError, match=r"gtzan_train_filtered\.txt, .* are not all in .*; give their folder with lists="
    ):
        gtzan.read(tmp_path / "data", split="filtered")
    gtzan_lists(tmp_path / "lists")
    assert len(gtzan.read(tmp_path / "data", split="filtered", lists=tmp_path / "lists").examples) == 90


def test_missing_listed_excerpts(tmp_path: Path) -> None:
    gtzan_lists(gtzan_tree(tmp_path))
    gone = tmp_path / "genres" / "pop" / "pop.00003.wav"
    gone.unlink()
    assert gtzan.read(tmp_path, split="filtered").missing == (gone,)


def test_the_real_lists(tmp_path: Path) -> None:
    labels = SHARED / "data" / "labels"
    if not labels.is_dir():
        pytest.skip("the reference data are not here")
    dataset = gtzan.read(gtzan_tree(tmp_path, each=100), split="filtered", lists=labels)
    assert tuple(len(dataset.split(name)) for name in ("train", "valid", "test")) == gtzan.FILTERED_COUNTS
    assert len(dataset.notes) == 1 and dataset.missing == ()


def test_the_broken_excerpt_is_a_note(tmp_path: Path) -> None:
    broken = touch(gtzan_tree(tmp_path, each=60) / "genres" / "jazz" / "jazz.00054.wav", b"not audio")
    dataset = gtzan.read(tmp_path)
    assert broken not in [e.path for e in dataset.examples] and len(dataset.examples) == 599
    assert dataset.notes[-1].startswith("jazz.00054 is left out") and dataset.missing == ()
    whole = touch(broken, b"RIFF....WAVE")
    # The folds of the others do not change with it.
    repaired = gtzan.read(tmp_path)
    assert [e for e in repaired.examples if e.path != whole] == list(dataset.examples)
    assert len(repaired.examples) == 600


def test_other_files_are_ignored(tmp_path: Path) -> None:
    gtzan_tree(tmp_path)
    for name in (
        "genres/bextracted.mf",
        "genres/jazz/jazz.mf",
        "genres/jazz/jazz.1.wav",
        "genres/polka/polka.00000.wav",
    ):
        touch(tmp_path / name)
    assert len(gtzan.read(tmp_path).examples) == 100


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("blues/blues.00009.wav\nfolk/folk.00001.wav\n", "line 2: 'folk/folk.00001.wav' is not an excerpt"),
        ("\nblues.wav\n", "line 2: 'blues.wav' is not an excerpt"),
        ("blues/blues.00005.wav\n", r"line 1: blues\.00005 is in the valid list as well"),
    ],
)
def test_errors_of_a_list(text: str, message: str, tmp_path: Path) -> None:
    gtzan_lists(gtzan_tree(tmp_path))
    write(tmp_path / "gtzan_test_filtered.txt", text)
    with pytest.raises(BadRequestError, match=rf"gtzan_test_filtered\.txt, {message}"):
        gtzan.read(tmp_path, split="filtered")
