from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from dataset_trees import write
from hypothesis import given
from hypothesis import strategies as st

from musictagger.datasets.base import (
    Dataset,
    Example,
    Split,
    artist_key,
    check_leaks,
    describe,
    require_usable,
    shared_artists,
    shared_audio,
)
from musictagger.datasets.reading import read_rows
from musictagger.datasets.splitting import RandomSplit, shuffled
from musictagger.errors import BadRequestError


def example(name: str, split: Split = "train", tags: tuple[str, ...] = ("rock",), artist: str | None = None) -> Example:
    return Example(Path("/music") / name, tags, split, artist)


def small() -> Dataset:
    """Two tags in each of three splits."""
    splits: tuple[Split, ...] = ("train", "valid", "test")
    examples = tuple(example(f"{split}-{tag}", split, (tag,)) for split in splits for tag in ("jazz", "rock"))
    return Dataset("small", "genre", ("jazz", "rock"), examples)


class TestUsable:
    def test_a_small_one(self) -> None:
        require_usable(small())

    def test_nothing_found(self) -> None:
        dataset = replace(small(), examples=(), missing=tuple(Path(f"/{n}.mp3") for n in range(7)))
        with pytest.raises(BadRequestError, match=r"no track was found; 7 files .* /4.mp3 and 2 more"):
            require_usable(dataset)

    def test_one_class(self) -> None:
        dataset = replace(small(), tags=("rock",), examples=(example("a"),))
        with pytest.raises(BadRequestError, match="has only one tag, 'rock'; at least two"):
            require_usable(dataset)

    @pytest.mark.parametrize("split", ["train", "valid", "test"])
    def test_a_tag_without_a_track_in_a_split(self, split: Split) -> None:
        kept = tuple(e for e in small().examples if (e.split, e.tags) != (split, ("jazz",)))
        with pytest.raises(BadRequestError, match=f"no track of the {split} split has jazz; add tracks"):
            require_usable(replace(small(), examples=kept))

    def test_only_test_may_be_empty(self) -> None:
        require_usable(replace(small(), examples=small().split("train") + small().split("valid")))
        with pytest.raises(BadRequestError, match="the valid split is empty"):
            require_usable(replace(small(), examples=small().split("train") + small().split("test")))

    def test_only_the_given_splits(self) -> None:
        require_usable(replace(small(), examples=small().split("test")), ["test"])

    def test_a_path_named_twice(self) -> None:
        with pytest.raises(BadRequestError, match="named more than once: /music/train-jazz"):
            require_usable(replace(small(), examples=small().examples + small().examples[:1]))

    @pytest.mark.parametrize("tags", [(), ("jazz", "rock"), ("blues",)])
    def test_tags_that_do_not_fit(self, tags: tuple[str, ...]) -> None:
        with pytest.raises(BadRequestError, match=r"/music/odd has the tags .* expected exactly one of jazz, rock"):
            require_usable(replace(small(), examples=(*small().examples, example("odd", tags=tags))))


class TestLeaks:
    def test_artists_are_recognised_in_any_spelling(self) -> None:
        examples = [example("a", "train", artist="Miles  Davis"), example("b", "test", artist="miles davis")]
        assert shared_artists(examples) == ["Miles  Davis"]
        assert shared_artists([replace(e, split="train") for e in examples]) == []

    @pytest.mark.parametrize("name", [None, "", " ", "Various Artists", "unknown"])
    def test_unknown_artists_are_not_shared(self, name: str | None) -> None:
        assert artist_key(name) is None
        assert shared_artists([example("a", "train", artist=name), example("b", "test", artist=name)]) == []

    def test_the_same_audio_in_two_splits(self) -> None:
        a, b, c, d = example("a"), example("b"), example("c", "test"), example("d", "valid")
        digests = {a.path: "x", b.path: "x", c.path: "x"}
        assert shared_audio(digests, [a, b, c, d]) == [(a.path, c.path)]

    def test_a_leak_is_refused_with_examples_unless_allowed(self) -> None:
        dataset = replace(small(), examples=tuple(replace(e, artist="Nina") for e in small().examples))
        with pytest.raises(BadRequestError, match=r"1 artist in more than one split: Nina\. .*allow the leak"):
            check_leaks(dataset)
        digests = {e.path: "same" for e in dataset.examples}
        lines = check_leaks(dataset, digests, allow=True)
        assert len(lines) == 2 and "/music/train-jazz = /music/valid-jazz" in lines[1]

    def test_no_leak_gives_no_line(self) -> None:
        assert check_leaks(small(), {e.path: e.path.name for e in small().examples}) == []


class TestDescribe:
    def test_everything(self) -> None:
        timed = tuple(replace(e, duration_s=1800.0) for e in small().examples[:-1]) + small().examples[-1:]
        missing = tuple(Path(f"/gone/{n}\udcff.mp3") for n in range(7))
        lines = describe(replace(small(), examples=timed, missing=missing, notes=("drawn by lot",)))
        assert lines == [
            "small: 6 tracks, 2 genres, 2.5 h in the 5 of known length",
            "  train: 2 tracks (33.3 %), 1.0 h; genres from jazz 1 to rock 1",
            "  valid: 2 tracks (33.3 %), 1.0 h; genres from jazz 1 to rock 1",
            "  test: 2 tracks (33.3 %), 0.5 h in the 1 of known length; genres from jazz 1 to rock 1",
            "missing: 7 files",
            *(f"  /gone/{n}?.mp3" for n in range(5)),
            "  and 2 more",
            "note: drawn by lot",
        ]

    def test_nothing(self) -> None:
        assert describe(Dataset("none", "tags", (), ()))[0] == "none: 0 tracks, 0 tags, length unknown"


def track(key: str, tags: tuple[str, ...] = ("a",), artist: str | None = None) -> tuple[str, Example]:
    return key, example(key, tags=tags, artist=artist)


@st.composite
def drawn_tracks(draw: st.DrawFn) -> dict[str, Example]:
    count = draw(st.integers(1, 60))
    tags = st.lists(st.sampled_from("abcde"), max_size=3, unique=True).map(tuple)
    artists = st.one_of(st.none(), st.sampled_from(["p", "q", "r", "s", "t", "u"]))
    return dict(track(f"track {n}", draw(tags), draw(artists)) for n in range(count))


class TestSplitting:
    @given(drawn_tracks(), st.integers(0, 5))
    def test_every_track_has_a_split_and_no_artist_has_two(self, tracks: dict[str, Example], seed: int) -> None:
        splits = RandomSplit(0.2, 0.2, seed).draw(tracks)
        assert set(splits) == set(tracks)
        assert shared_artists(replace(each, split=splits[key]) for key, each in tracks.items()) == []
        assert RandomSplit(0.2, 0.2, seed).draw(dict(reversed(tracks.items()))) == splits

    @given(st.dictionaries(st.sampled_from("abcdef"), st.integers(3, 40), min_size=1), st.integers(0, 5))
    def test_single_tracks_are_split_in_proportion(self, sizes: dict[str, int], seed: int) -> None:
        tracks = dict(track(f"{tag}{n}", (tag,)) for tag, size in sizes.items() for n in range(size))
        split = RandomSplit(0.15, 0.15, seed)
        splits = split.draw(tracks)
        for tag, size in sizes.items():
            found = [splits[f"{tag}{n}"] for n in range(size)]
            for name, share in split.shares.items():
                assert found.count(name) >= 1
                assert abs(found.count(name) - share * size) < 2

    def test_the_test_split_may_be_empty(self) -> None:
        splits = RandomSplit(0.2, 0.0, 0).draw(dict(track(str(n)) for n in range(10)))
        assert sorted(splits.values()) == ["train"] * 8 + ["valid"] * 2

    def test_the_largest_artist_is_in_train(self) -> None:
        sizes = {"big": 20, "middle": 4, "small": 3}
        tracks = dict(track(f"{artist}{n}", artist=artist) for artist, size in sizes.items() for n in range(size))
        splits = RandomSplit(0.15, 0.15, 0).draw(tracks)
        assert splits["big0"] == "train" and {splits["middle0"], splits["small0"]} == {"valid", "test"}

    def test_splits_depend_on_the_seed(self) -> None:
        tracks = dict(track(str(n)) for n in range(40))
        assert RandomSplit(0.2, 0.2, 1).draw(tracks) != RandomSplit(0.2, 0.2, 2).draw(tracks)
        # Fixed, so that every later version draws the same splits.
        assert shuffled("abcdef", 0) == ["f", "d", "c", "e", "a", "b"]

    def test_undecodable_keys(self) -> None:
        assert sorted(shuffled(["a\udcff", "b"], 0)) == ["a\udcff", "b"]


class TestTables:
    def test_long_and_broken_fields(self, tmp_path: Path) -> None:
        path = write(tmp_path / "t.csv", '\ufeffa,b\r\n\r\n1,"two\nlines"\n3,' + "x" * 200_000 + "\n")
        assert [(line, row[0], len(row[1])) for line, row in read_rows(path)] == [
            (1, "a", 1),
            (4, "1", 9),
            (5, "3", 200_000),
        ]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("a,b\n1\n", "line 2: has 1 fields where the first line has 2"),
            ("a,b\n1,2\n1,2,3\n", "line 3: has 3 fields"),
            ('a,b\n1,"2\n', r"line 2: unexpected end of data"),
            ('a,b\n1,"2"x\n', "line 2: .* expected after"),
        ],
    )
    def test_broken_rows(self, text: str, message: str, tmp_path: Path) -> None:
        with pytest.raises(BadRequestError, match=f"t.csv, {message}"):
            list(read_rows(write(tmp_path / "t.csv", text)))

    def test_a_missing_table(self, tmp_path: Path) -> None:
        with pytest.raises(BadRequestError, match=r"none\.csv: cannot be read: No such file"):
            list(read_rows(tmp_path / "none.csv"))
