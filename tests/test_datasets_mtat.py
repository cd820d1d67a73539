from __future__ import annotations

from pathlib import Path

import pytest
from conftest import SHARED
from dataset_trees import MTAT_COLUMNS, MTAT_TOP50, mtat_tables, mtat_tree, touch, write

from musictagger.datasets import mtat
from musictagger.datasets.base import check_leaks, require_usable
from musictagger.errors import BadRequestError
from musictagger.paths import read_toml


def test_the_usual_benchmark(tmp_path: Path) -> None:
    dataset = mtat.read(mtat_tree(tmp_path))
    assert dataset.task == "tags" and dataset.tags == MTAT_TOP50
    assert {e.path.parent.name: e.split for e in dataset.examples} == {
        **dict.fromkeys("0123456789ab", "train"),
        "c": "valid",
        **dict.fromkeys("def", "test"),
    }
    # The 16 clips with no tag but "monks" are left out.
    assert [len(dataset.split(name)) for name in ("train", "valid", "test")] == [120, 10, 30]
    assert dataset.examples[0].tags == MTAT_TOP50[:5]
    assert (dataset.examples[0].artist, dataset.examples[0].duration_s) == ("artist_0", 29.0)
    assert dataset.notes == (
        "folders 0-b are train, c is valid, d-f are test",
        "16 clips with none of the 50 tags are left out",
        "the table has 176 clips; the whole set has 25,863",
    )


def test_the_random_split_has_all_clips(tmp_path: Path) -> None:
    mtat_tree(tmp_path)
    dataset = mtat.read(tmp_path, split="random")
    assert [len(dataset.split(name)) for name in ("train", "valid", "test")] == [135, 10, 31]
    assert sum(e.tags == () for e in dataset.examples) == 16
    assert "at random by seed 0" in dataset.notes[0]
    assert mtat.read(tmp_path, split="random", seed=1).examples != dataset.examples
    with pytest.raises(BadRequestError, match="artists in more than one split"):
        check_leaks(dataset)


def test_the_usual_split_may_share_artists(tmp_path: Path) -> None:
    clips = [
        (1, "0/american_bach_soloists-a-0-29.mp3", ["guitar"]),
        (2, "f/american_bach_soloists-b-0-29.mp3", ["guitar"]),
    ]
    for _, name, _ in clips:
        touch(tmp_path / name)
    dataset = mtat.read(mtat_tables(tmp_path, clips))
    with pytest.raises(BadRequestError, match="1 artist in more than one split: american_bach_soloists"):
        check_leaks(dataset)
    assert len(check_leaks(dataset, allow=True)) == 1


def test_the_proportions_give_the_papers_counts() -> None:
    clips = list(map(str, range(sum(mtat.RANDOM_COUNTS))))
    found = list(mtat._at_random(clips, 0).values())
    assert tuple(found.count(name) for name in ("train", "valid", "test")) == mtat.RANDOM_COUNTS
    assert len(clips) == mtat.CLIPS - 3


def test_synonyms_are_merged_and_the_most_frequent_kept(tmp_path: Path) -> None:
    clips = [
        (1, "0/a-b-0-29.mp3", ["beats", "female vocal", "woman"]),
        (2, "c/a-b-0-29.mp3", ["beat", "beats", "weird"]),
        (3, "d/c-b-0-29.mp3", ["beat", "electronica"]),
        (4, "d/d-b-0-29.mp3", ["monks"]),
    ]
    for _, name, _ in clips:
        touch(tmp_path / name)
    dataset = mtat.read(mtat_tables(tmp_path, clips), vocabulary="merged")
    # By number of clips; then in the order of the table, where each group stands at its first column.
    assert dataset.tags[0] == "beat" and set(dataset.tags) == {"beat", "female", "strange", "electro", "monks"}
    assert [e.tags for e in dataset.examples][:2] == [("beat", "female"), ("beat", "strange")]
    assert "synonyms are merged as in mtat.toml" in dataset.notes


def test_no_more_than_fifty_are_kept(tmp_path: Path) -> None:
    merged = mtat.read(mtat_tree(tmp_path), vocabulary="merged")
    assert len(merged.tags) < 50 and {"strange", "no singer", "india", "heavy"} < set(merged.tags)
    require_usable(merged)
    clips = [(n, f"0/a-b-{n}.mp3", MTAT_COLUMNS[n : n + 100]) for n in range(100)]
    touch(tmp_path / clips[0][1])
    assert len(mtat.read(mtat_tables(tmp_path, clips), vocabulary="merged").tags) == 50


def test_188_columns_leave_134_tags() -> None:
    data = read_toml(Path(mtat.__file__).with_name("mtat.toml"))
    assert len(MTAT_COLUMNS) == len(set(MTAT_COLUMNS)) == 188
    synonyms = [tag for group in data["merged"].values() for tag in group]
    assert len(synonyms) == len(set(synonyms)) and set(synonyms).isdisjoint(data["merged"])
    assert {*synonyms, *data["merged"], *data["top50"]} <= set(MTAT_COLUMNS)
    assert len(set(MTAT_COLUMNS) - set(synonyms)) == 134
    assert tuple(data["top50"]) == MTAT_TOP50


def test_the_tags_are_those_of_the_published_weights() -> None:
    path = SHARED / "data" / "labels" / "mtat_top50.txt"
    if not path.is_file():
        pytest.skip("the reference data are not here")
    published = {tag.lower() for tag in path.read_text(encoding="utf-8").split()}
    assert published == {tag.replace(" ", "") for tag in MTAT_TOP50}


def test_empty_mp3s_count_as_missing(tmp_path: Path) -> None:
    mtat_tree(tmp_path)
    empty = tmp_path / "6" / "artist_6-album-00-aria-0-29.mp3"
    empty.write_bytes(b"")
    dataset = mtat.read(tmp_path)
    assert dataset.missing == (empty,) and len(dataset.examples) == 159


def test_the_mp3s_in_their_own_folder(tmp_path: Path) -> None:
    mtat_tree(tmp_path)
    (tmp_path / "mp3").mkdir()
    for name in "0123456789abcdef":
        (tmp_path / name).rename(tmp_path / "mp3" / name)
    assert len(mtat.read(tmp_path).examples) == 160


def test_without_clip_info(tmp_path: Path) -> None:
    mtat_tree(tmp_path)
    (tmp_path / "clip_info_final.csv").unlink()
    dataset = mtat.read(tmp_path)
    assert {(e.artist, e.duration_s) for e in dataset.examples} == {(None, None)}
    assert dataset.notes[0] == "clip_info_final.csv is missing: artists and lengths are unknown"


def test_the_whole_set_is_compared_with_the_papers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mtat_tree(tmp_path)
    monkeypatch.setattr(mtat, "CLIPS", 176)
    assert mtat.read(tmp_path).notes[-1] == (
        "train / valid / test are 120 / 10 / 30, but 15,244 / 1,529 / 4,332 in Wang et al. 2019"
    )
    assert "19,773 / 1,521 / 4,566 in Panwar et al. 2017" in mtat.read(tmp_path, split="random").notes[-1]
    assert "merged" in mtat.read(tmp_path, vocabulary="merged").notes[-1]
    monkeypatch.setattr(mtat, "FOLDER_COUNTS", (120, 10, 30))
    assert mtat.read(tmp_path).notes[-1] == "train / valid / test are as many as in Wang et al. 2019"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"mp3_path"\n', '"path"\n', "does not begin with clip_id and end with mp3_path"),
        ('"guitar"', '"gitarre"', "has no column for guitar"),
        ('"1"\t"0"', '"1"\t"2"', "line 2: has '2' where only 0 and 1 are allowed"),
        ('\n"1"\t', '\n"0"\t', "line 3: clip 0 was already in line 2"),
        ('"0/', '"x/', "is not in one of the folders 0 to f"),
    ],
)
def test_errors_of_the_table(old: str, new: str, message: str, tmp_path: Path) -> None:
    path = mtat_tree(tmp_path) / "annotations_final.csv"
    text = path.read_text(encoding="utf-8")
    assert old in text
    write(path, text.replace(old, new, 1))
    for name in "0x":
        touch(tmp_path / name / "artist_0-album-00-aria-0-29.mp3")
    with pytest.raises(BadRequestError, match=message):
        mtat.read(tmp_path)
