from __future__ import annotations

from pathlib import Path

import pytest
from dataset_trees import JAMENDO_HEADER, jamendo_table, jamendo_tree, write

from musictagger.datasets import jamendo
from musictagger.errors import BadRequestError

SPLITS = Path("data") / "splits" / "split-0"


def test_tags_and_their_categories(tmp_path: Path) -> None:
    dataset = jamendo.read(jamendo_tree(tmp_path))
    assert dataset.task == "tags" and dataset.tags == ("ambient", "punkrock", "piano", "calm")
    assert dataset.categories == {"ambient": "genre", "punkrock": "genre", "piano": "instrument", "calm": "mood"}
    first = dataset.examples[0]
    assert first.path == tmp_path / "raw_30s" / "audio" / "14" / "1214.mp3"
    assert (first.tags, first.split, first.artist, first.duration_s) == (
        ("ambient", "piano", "calm"),
        "valid",
        "artist_001214",
        124.6,
    )
    assert [len(dataset.split(name)) for name in ("train", "valid", "test")] == [6, 6, 6]
    assert dataset.notes == ("split-0 of autotagging",)


def test_a_subset_and_another_split(tmp_path: Path) -> None:
    jamendo_tree(tmp_path)
    for word in ("train", "validation", "test"):
        name = tmp_path / "data" / "splits" / "split-3" / f"autotagging_genre-{word}.tsv"
        jamendo_table(name, [({"train": 214, "validation": 1214, "test": 2214}[word], 1, ["genre---rock"])])
    dataset = jamendo.read(tmp_path, subset="genre", split=3)
    assert dataset.tags == ("rock",) and dataset.notes == ("split-3 of autotagging_genre",)
    with pytest.raises(BadRequestError, match=r"train list not found; .*split-0/autotagging_moodtheme-train\.tsv"):
        jamendo.read(tmp_path, subset="moodtheme")


def test_the_smaller_audio_in_its_own_folder(tmp_path: Path) -> None:
    jamendo_tree(tmp_path)
    for path in sorted((tmp_path / "raw_30s").rglob("*.mp3")):
        path.rename(path.with_name(f"{path.stem}.low.mp3"))
    (tmp_path / "raw_30s" / "audio").rename(tmp_path / "elsewhere")
    dataset = jamendo.read(tmp_path, audio=tmp_path / "elsewhere")
    assert dataset.examples[0].path == tmp_path / "elsewhere" / "14" / "1214.low.mp3" and dataset.missing == ()
    gone = jamendo.read(tmp_path)
    assert gone.examples == () and gone.missing[0] == tmp_path / "14" / "1214.mp3"


def test_a_word_under_two_prefixes_keeps_them(tmp_path: Path) -> None:
    jamendo_tree(tmp_path)
    tags = ["genre---classical", "instrument---classical", "mood/theme---calm"]
    jamendo_table(tmp_path / SPLITS / "autotagging-train.tsv", [(214, 1, tags)])
    dataset = jamendo.read(tmp_path)
    assert {"genre---classical", "instrument---classical", "calm"} < set(dataset.tags)
    assert dataset.categories["instrument---classical"] == "instrument"


def test_a_quote_is_a_character(tmp_path: Path) -> None:
    jamendo_tree(tmp_path)
    jamendo_table(
        tmp_path / SPLITS / "autotagging-train.tsv", [(214, 1, ['genre---"rock']), (215, 1, ["genre---rock"])]
    )
    assert '"rock' in jamendo.read(tmp_path).tags


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\tb\n", "does not begin with the columns TRACK_ID, ARTIST_ID"),
        (f"{JAMENDO_HEADER}\ntrack_0000214\tartist_000014\n", "line 2: has 2 fields"),
        (f"{JAMENDO_HEADER}\nt\ta\tb\t14/214.mp3\tlong\tgenre---rock\n", "line 2: 'long' is not a length"),
        (f"{JAMENDO_HEADER}\nt\ta\tb\t14/214.mp3\t10.0\trock\n", "line 2: 'rock' is not a tag; expected genre---"),
        (
            f"{JAMENDO_HEADER}\nt\ta\tb\t14/1214.mp3\t10.0\tgenre---rock\n",
            "line 2: 14/1214.mp3 is already in the train list",
        ),
    ],
)
def test_errors_of_a_list(text: str, message: str, tmp_path: Path) -> None:
    jamendo_tree(tmp_path)
    if "1214" in text:
        jamendo_table(tmp_path / SPLITS / "autotagging-train.tsv", [(1214, 1, ["genre---rock"])])
    write(tmp_path / SPLITS / "autotagging-validation.tsv", text)
    with pytest.raises(BadRequestError, match=rf"autotagging-validation\.tsv.*{message}"):
        jamendo.read(tmp_path)
