"""The programs that make, ship and measure the project's own models: corpus, mixes, ship and weights."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import soundfile
import torch
from conftest import make_card
from dataset_trees import touch, write
from helpers import TINY_OUTPUTS, make_model, write_tone

from benchmarks import weights, weights_audio
from benchmarks.weights import Bench
from benchmarks.weights_audio import VARIANTS, Contender, Predictions, write_variants
from musictagger.datasets import read_dataset
from musictagger.datasets.base import shared_artists
from musictagger.errors import BadRequestError, ModelError, MusictaggerError
from musictagger.evaluation.scoring import TrackScores
from musictagger.evaluation.speed import Speed
from musictagger.models.card import Card, Tag
from musictagger.models.inference import Predictor
from musictagger.models.weights import load_model
from musictagger.training.distillation.teacher_scores import make_teacher
from tools import corpus, mixes, ship
from tools.corpus import listing_lines

ODD = "Q\u2028R\u0085S é \udcff"
"""Characters at which str.splitlines splits, and a byte that is not valid UTF-8."""


def call(main: Callable[[], None], monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr("sys.argv", ["program", *(str(argument) for argument in arguments)])
    main()


def json_file(path: Path, lines: Sequence[dict[str, Any]]) -> Path:
    return write(path, "".join(json.dumps(line) + "\n" for line in lines))


class TestCorpus:
    def made(self, folder: Path, monkeypatch: pytest.MonkeyPatch, *entries: dict[str, Any]) -> list[dict[str, Any]]:
        for entry in entries:
            touch(folder / "music" / entry.get("package", "") / (entry.get("path") or entry["file"]))
        catalogue = json_file(folder / "catalogue.jsonl", entries)
        call(corpus.main, monkeypatch, folder / "listing.jsonl", f"{catalogue}={folder / 'music'}")
        return [json.loads(line) for line in (folder / "listing.jsonl").read_text(encoding="utf-8").splitlines()]

    def test_short_and_spoken_files_are_left_out_and_unknown_lengths_kept(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        lines = self.made(
            tmp_path,
            monkeypatch,
            {"path": "long.ogg", "seconds": 7200},
            {"path": "short.ogg", "seconds": 19.9},
            {"path": "nothing.ogg", "seconds": 0},
            {"path": "spoken.ogg", "seconds": 100, "music": False},
            {"file": "unknown.ogg"},
            {"file": "null.ogg", "seconds": None, "music": True},
        )
        assert [Path(line["path"]).name for line in lines] == ["long.ogg", "unknown.ogg", "null.ogg"]
        assert [line["seconds"] for line in lines] == [7200, None, None]
        assert "3 tracks, 2.0 h, 2 of unknown length not counted" in capsys.readouterr().out

    def test_only_existing_files_count(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        there = touch(tmp_path / "music" / "game" / "data.pk3.unzipped" / "a.ogg")
        entries = [{"path": "data.pk3!a.ogg", "package": "game"}, {"path": "data.pk3!b.ogg", "package": "game"}]
        catalogue = json_file(tmp_path / "catalogue.jsonl", entries)
        assert [line["path"] for line in corpus.records(catalogue, tmp_path / "music")] == [str(there.resolve())]

    def test_names_with_unicode_line_separators(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        entries = [{"path": f"{number}.ogg", "artist": f"{ODD}{number}"} for number in range(6)]
        assert [line["artist"] for line in self.made(tmp_path, monkeypatch, *entries)] == [
            entry["artist"] for entry in entries
        ]
        dataset = read_dataset("music", tmp_path / "listing.jsonl")
        assert {example.artist for example in dataset.examples} == {entry["artist"] for entry in entries}

    def test_a_catalogue_may_hold_such_names_unescaped(self, tmp_path: Path) -> None:
        touch(tmp_path / "a.ogg")
        line = json.dumps({"path": "a.ogg", "artist": "Q\u2028R\u0085S"}, ensure_ascii=False)
        found = corpus.records(write(tmp_path / "catalogue.jsonl", line + "\n\n"), tmp_path)
        assert [record["artist"] for record in found] == ["Q\u2028R\u0085S"]

    def test_split_by_artist_and_package(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        # Even numbers have artists that occur in several packages, odd numbers only a package.
        entries: list[dict[str, Any]] = [
            {"path": f"{number}.ogg", "package": f"package {number // 4}"}
            | ({} if number % 2 else {"artist": f"Artist {number // 6}"})
            for number in range(80)
        ]
        lines = self.made(tmp_path, monkeypatch, *entries)
        dataset = read_dataset("music", tmp_path / "listing.jsonl")
        albums = {Path(line["path"]): line["album"] for line in lines}
        splits: dict[str, set[str]] = {}
        for example in dataset.examples:
            splits.setdefault(albums[example.path], set()).add(example.split)
        assert len(splits) == 20 and all(len(each) == 1 for each in splits.values())
        assert shared_artists(dataset.examples) == []
        assert all(dataset.split(split) for split in ("train", "valid", "test"))

    def test_an_invalid_catalogue_is_reported(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for text, message in (
            ("[1]\n", "line 1: is not a JSON object"),
            ('{"path": "a"}\n{"path"', "line 2: is not valid JSON"),
            ('{"artist": "A"}\n', 'has neither "file" nor "path"'),
        ):
            with pytest.raises(SystemExit):
                call(corpus.main, monkeypatch, tmp_path / "out", f"{write(tmp_path / 'bad.jsonl', text)}={tmp_path}")
            assert message in capsys.readouterr().err
        with pytest.raises(SystemExit):
            call(corpus.main, monkeypatch, tmp_path / "out", "bad.jsonl")
        assert "is not CATALOGUE=FOLDER" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()

    def test_a_listing_is_read_as_the_dataset_reads_it(self, tmp_path: Path) -> None:
        lines: list[dict[str, Any]] = [
            {"file": "music/a.ogg", "artist": "A", "style": "jazz"},
            {"path": "music/../music/b.ogg", "artist": "B"},
            {"path": str(tmp_path / "music" / "c.ogg"), "artist": "C"},
            {"file": "music/d.ogg", "path": "music/a.ogg", "artist": "D"},
        ]
        for name in "abcd":
            touch(tmp_path / "music" / f"{name}.ogg")
        listing = json_file(tmp_path / "listing.jsonl", lines)
        read = listing_lines(listing)
        assert list(read.values()) == lines
        assert set(read) == {example.path for example in read_dataset("music", listing).examples}


def tone(path: Path, hz: float, seconds: float = 6.0) -> Path:
    """Write a tone, quiet enough that no filter clips it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    time_s = np.arange(round(seconds * 16_000)) / 16_000
    soundfile.write(path, 0.05 * np.sin(2 * np.pi * hz * time_s), 16_000)
    return path


LOW_HZ, HIGH_HZ = 300.0, 4000.0
"""Tones of tracks that may be mixed, and of those that must not be. They stay apart at any speed."""


@pytest.fixture
def split_listing(tmp_path: Path) -> Path:
    """Six training tracks with low tones, two each for validation and test with high tones. Names are relative."""
    splits = ["train"] * 6 + ["valid"] * 2 + ["test"] * 2
    lines = []
    for number, split in enumerate(splits):
        hz = LOW_HZ + 30 * number if split == "train" else HIGH_HZ + 30 * number
        tone(tmp_path / "corpus" / "music" / f"{number}.wav", hz)
        lines.append({"file": f"music/{number}.wav", "artist": f"{ODD}{number}", "style": "tone", "split": split})
    return json_file(tmp_path / "corpus" / "listing.jsonl", lines)


def high_share(path: Path) -> float:
    """The share of a file's energy above 2 kHz."""
    wave, rate_hz = soundfile.read(path)
    energy = np.abs(np.fft.rfft(wave * np.hanning(len(wave)))) ** 2
    return float(energy[int(2000 / rate_hz * len(wave)) :].sum() / energy.sum())


class TestMixes:
    def made(self, listing: Path, out: Path, monkeypatch: pytest.MonkeyPatch, *options: object) -> dict[str, bytes]:
        call(mixes.main, monkeypatch, listing, out, "--seconds", 2, *options)
        return {path.name: path.read_bytes() for path in sorted((out / "audio").iterdir())}

    def test_only_the_seed_determines_the_mixes(
        self, split_listing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = self.made(split_listing, tmp_path / "one", monkeypatch, "--passes", 1)
        assert len(first) == 6
        assert first == self.made(split_listing, tmp_path / "two", monkeypatch, "--passes", 1)
        both = self.made(split_listing, tmp_path / "three", monkeypatch, "--passes", 2)
        assert first.items() <= both.items() and len(set(both.values())) == 12
        other = self.made(split_listing, tmp_path / "four", monkeypatch, "--passes", 1, "--seed", 1)
        assert not set(other.values()) & set(first.values())

    def test_listing_has_the_originals_and_their_splits(
        self, split_listing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.made(split_listing, tmp_path / "out", monkeypatch)
        before, after = (read_dataset("music", path) for path in (split_listing, tmp_path / "out" / "listing.jsonl"))
        splits = {example.path: example.split for example in after.examples}
        assert {(e.path, e.split, e.artist) for e in before.examples} <= {
            (e.path, e.split, e.artist) for e in after.examples
        }
        made = splits.keys() - {example.path for example in before.examples}
        assert len(made) == 12 and {splits[path] for path in made} == {"train"}
        lines = listing_lines(tmp_path / "out" / "listing.jsonl")
        assert {line.get("style") for line in lines.values()} == {"tone", None}

    def test_a_drawn_split_is_written_down(
        self, split_listing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lines = [{k: v for k, v in line.items() if k != "split"} for line in listing_lines(split_listing).values()]
        json_file(split_listing, lines)
        self.made(split_listing, tmp_path / "out", monkeypatch, "--passes", 1)
        drawn = {(e.path, e.split) for e in read_dataset("music", split_listing).examples}
        written = listing_lines(tmp_path / "out" / "listing.jsonl")
        assert drawn <= {(path, line["split"]) for path, line in written.items()}

    def test_only_training_tracks_are_in_them_and_peaks_are_equal(
        self, split_listing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.made(split_listing, tmp_path / "out", monkeypatch)
        for path in (tmp_path / "out" / "audio").iterdir():
            wave, rate_hz = soundfile.read(path)
            assert rate_hz == mixes.RATE_HZ and 1.9 < len(wave) / rate_hz < 2.7
            assert np.abs(wave).max() == pytest.approx(mixes.PEAK, abs=1e-3)
            assert high_share(path) < 1e-3
        test = read_dataset("music", split_listing).split("test")
        (tmp_path / "high").mkdir()
        assert min(high_share(path) for path in mixes.mixes(test, tmp_path / "high", 2.0, (0, 0))) > 0.9

    def test_a_file_that_cannot_be_decoded_is_left_out_and_counted(
        self,
        split_listing: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        (split_listing.parent / "music" / "2.wav").write_bytes(b"not audio")
        assert len(self.made(split_listing, tmp_path / "out", monkeypatch, "--passes", 1)) == 5
        assert "10 tracks and 5 mixes of 6" in capsys.readouterr().out

    def test_the_second_track_keeps_within_its_level(self) -> None:
        random = np.random.default_rng(0)
        one = random.standard_normal(16_000).astype(np.float32)
        other = 0.01 * random.standard_normal(20_000).astype(np.float32)
        levels = []
        for _ in range(50):
            both = mixes.mixed(one, other, random)
            assert len(both) == len(one)
            levels.append(20 * np.log10(np.std(both - one) / np.std(one)))
        low, high = mixes.SECOND_DB
        assert low - 0.1 < min(levels) < low + 2 and high - 2 < max(levels) < high + 0.1

    def test_an_invalid_listing_is_reported(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit):
            call(mixes.main, monkeypatch, json_file(tmp_path / "bad.jsonl", [{"artist": "A"}]), tmp_path / "out")
        assert "bad.jsonl, line 1" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


TRAINING: dict[str, Any] = {
    "command": "musictagger train --recipe musictagger-fcn --resume --data corpus.jsonl --out fine",
    "options": {"teachers": ["musicnn-msd", "musicnn-mtt"]},
    "heard": "AAAAAA==",
}


class TestShip:
    @pytest.fixture(autouse=True)
    def weights(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        (tmp_path / "weights").mkdir()
        monkeypatch.setattr(ship, "WEIGHTS", tmp_path / "weights")
        return tmp_path / "weights"

    def finished(self, folder: Path, **changes: Any) -> Path:
        run = folder / "fine"
        run.mkdir()
        card = make_model(run, "fine").with_suffix(".json")
        values: dict[str, Any] = {"training": TRAINING, "metrics": {"music/test": {"auc": {"value": 0.9}}}}
        dataclasses.replace(Card.load(card), **(values | changes)).save(card)
        return run

    def test_a_finished_run(self, tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        run = self.finished(tmp_path)
        before = Card.load(run / "fine.json")
        call(ship.main, monkeypatch, run)
        card = load_model(weights / "fine.safetensors").card
        assert card.training["command"] == "musictagger train --recipe musictagger-fcn --data corpus.jsonl --out fine"
        assert card.licence == "GPL-2.0-or-later, as the program"
        assert card.attribution.startswith("Learnt from musicnn-msd, musicnn-mtt, which are by Jordi Pons")
        # Two teachers by the same authors are attributed once.
        assert card.attribution.count("Jordi Pons") == 1 and card.attribution.endswith("listed in weights/README.md")
        assert (card.metrics, card.tags, card.key) == (before.metrics, before.tags, before.key)
        assert sorted(path.name for path in weights.iterdir()) == ["fine.json", "fine.safetensors"]

    def test_speeds_are_measured_side_by_side(
        self, tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        asked: list[tuple[list[str], int]] = []

        def measure(predictors: Sequence[Predictor], rounds: int) -> list[Speed]:
            asked.append(([one.card.name for one in predictors], rounds))
            return [
                Speed(n, realtime=1000.4 * n, ratio=n + 0.5, ratio_low=n + 0.25, ratio_high=n + 0.75)
                for n in range(1, 4)
            ]

        monkeypatch.setattr(ship, "measure_speed", measure)
        monkeypatch.setattr(ship, "DEFAULT", "there")
        there = make_model(weights, "there").with_suffix(".json")
        before = Card.load(there)
        earlier = {"speed": {"x_real_time": -1, "device": "abacus"}, "seed": 3}
        dataclasses.replace(before, training=earlier).save(there)
        other = make_model(tmp_path, "other")
        unchanged = other.with_suffix(".json").read_bytes()
        call(ship.main, monkeypatch, self.finished(tmp_path), "--beside", other)
        assert asked == [(["there", "fine", "other"], ship.SPEED_ROUNDS)]
        cards = {name: load_model(weights / f"{name}.safetensors").card for name in ("there", "fine")}
        device = f"cpu, {torch.get_num_threads()} threads"
        assert cards["there"].training == {"speed": {"x_real_time": 1000, "device": device}, "seed": 3}
        assert cards["fine"].training["speed"] == {"x_real_time": 2001, "device": device}
        # Nothing else is touched.
        assert dataclasses.replace(cards["there"], training=before.training) == before
        assert other.with_suffix(".json").read_bytes() == unchanged
        printed = capsys.readouterr().out
        assert (
            "| there | 1,000 | 1.50 (1.25 to 1.75) |" in printed
            and "| other | 3,001 | 3.50 (3.25 to 3.75) |" in printed
        )

    def test_speeds_are_measured_again_without_a_run(self, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ship, "SPEED_ROUNDS", 1)
        make_model(weights, "there")
        call(ship.main, monkeypatch)
        assert Card.load(weights / "there.json").training["speed"]["x_real_time"] > 0

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"metrics": {}}, "no metrics on music/test.*--resume"),
            ({"metrics": {"music/valid": {}}}, "no metrics on music/test"),
            ({"training": TRAINING | {"heard": ""}}, "the tracks that the model was trained on"),
            ({"training": {k: v for k, v in TRAINING.items() if k != "heard"}}, "the tracks that"),
            ({"training": TRAINING | {"options": {}}}, "no teachers"),
        ],
    )
    def test_an_unfinished_run_is_refused(
        self, tmp_path: Path, weights: Path, changes: dict[str, Any], reason: str
    ) -> None:
        with pytest.raises(BadRequestError, match=rf"fine\.json: .*{reason}"):
            ship.ship(self.finished(tmp_path, **changes))
        assert not list(weights.iterdir())

    def test_unknown_teachers_leave_nothing_behind(self, tmp_path: Path, weights: Path) -> None:
        run = self.finished(tmp_path, training=TRAINING | {"options": {"teachers": ["nobody"]}})
        with pytest.raises(MusictaggerError, match="nobody"):
            ship.ship(run)
        assert not list(weights.iterdir())

    def test_missing_foreign_or_large_weights_are_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run = self.finished(tmp_path)
        with monkeypatch.context() as patch, pytest.raises(BadRequestError, match=r"larger than 0\.001 MB"):
            patch.setattr(ship, "LIMIT_BYTES", 1000)
            ship.ship(run)
        shutil.copyfile(make_model(tmp_path, "other", seed=1), run / "fine.safetensors")
        with pytest.raises(ModelError, match="SHA-256 differs"):
            ship.ship(run)
        (run / "fine.safetensors").unlink()
        with pytest.raises(SystemExit):
            call(ship.main, monkeypatch, run)
        assert "fine.safetensors: does not exist" in capsys.readouterr().err


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six tones with labels, one file that is not audio, and their listing."""
    folder = tmp_path_factory.mktemp("tones")
    lines: list[dict[str, Any]] = []
    for number in range(6):
        write_tone(folder / f"{number}.wav", 30, 110.0 * 1.5**number)
        jazz = number < 3
        line = {"file": f"{number}.wav", "artist": f"Artist {number}", "genre": "Jazz" if jazz else "Rock"}
        lines.append(line | {"style": "jazz/ragtime/lounge" if jazz else "metal/rock/punk", "split": "train"})
    for number, split in ((0, "test"), (5, "test"), (4, "valid")):
        lines[number]["split"] = split
    touch(folder / "broken.wav")
    lines.append({"file": "broken.wav", "genre": "Jazz", "style": "jazz/ragtime/lounge", "split": "train"})
    json_file(folder / "listing.jsonl", lines)
    return folder


def contender(folder: Path, name: str = "tiny", **options: Any) -> Contender:
    weights_file = make_model(folder, name, **options)
    return Contender(Predictor(load_model(weights_file), "cpu"), folder / "predictions")


def bench(tones: Path, out: Path, *contenders: Contender, clips: Sequence[Path] = ()) -> Bench:
    return Bench(out, contenders, tones / "listing.jsonl", out / "cache", clips)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The names of files in each call that scores some. The scores depend on the bytes of the files alone."""
    found: list[list[str]] = []

    def score_tracks(_: Predictor, paths: Sequence[Path]) -> TrackScores:
        found.append([path.name for path in paths])
        randoms = [np.random.default_rng(list(path.read_bytes())) for path in paths]
        frames = tuple(random.random((3, len(TINY_OUTPUTS)), np.float32) for random in randoms)
        embeddings = np.stack([random.random(8, np.float32) for random in randoms])
        return TrackScores(tuple(paths), frames, embeddings, {}, 0.0, 0.0, interrupted=False)

    monkeypatch.setattr(weights_audio, "score_tracks", score_tracks)
    monkeypatch.setattr(weights_audio, "SAVE_AFTER", 2)
    return found


class TestPredict:
    def test_each_file_is_scored_once_even_by_the_next_run(self, asked: list[list[str]], tmp_path: Path) -> None:
        paths = [touch(tmp_path / f"{name}.wav", name.encode()) for name in "abcd"]
        first = contender(tmp_path).predict(paths[:3])
        assert asked == [["a.wav", "b.wav"], ["c.wav"]]
        again = contender(tmp_path).predict([*reversed(paths), paths[0]])
        assert asked[2:] == [["d.wav"]]
        assert again.paths == tuple(reversed(paths))
        assert np.array_equal(again.scores[:0:-1], first.scores)
        assert np.array_equal(again.embeddings[:0:-1], first.embeddings)
        touch(paths[0], b"other audio")
        altered = contender(tmp_path).predict(paths[:2])
        assert asked[3:] == [["a.wav"]]
        assert not np.array_equal(altered.scores[0], first.scores[0])
        assert np.array_equal(altered.scores[1], first.scores[1])

    def test_an_interrupted_run_continues(
        self, asked: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        paths = [touch(tmp_path / f"{name}.wav", name.encode()) for name in "abc"]
        save = weights_audio.Contender._save

        def save_once(self: Contender) -> None:
            if len(asked) == 2:
                raise KeyboardInterrupt
            save(self)

        monkeypatch.setattr(weights_audio.Contender, "_save", save_once)
        with pytest.raises(KeyboardInterrupt):
            contender(tmp_path).predict(paths)
        assert contender(tmp_path).predict(paths).paths == tuple(paths)
        assert asked == [["a.wav", "b.wav"], ["c.wav"], ["c.wav"]]

    def test_other_weights_or_tags_are_another_model(self, tones: Path, tmp_path: Path) -> None:
        path = tones / "0.wav"
        one = contender(tmp_path).predict([path])
        other = contender(tmp_path, seed=1).predict([path])
        assert not np.array_equal(one.scores, other.scores)
        model = load_model(make_model(tmp_path))
        fewer = dataclasses.replace(model, card=dataclasses.replace(model.card, tags=model.card.tags[:0:-1]))
        cut = Contender(Predictor(fewer, "cpu"), tmp_path / "predictions").predict([path])
        assert np.array_equal(cut.scores, one.scores[:, :0:-1])

    def test_files_that_cannot_be_scored_are_left_out_unless_none_can_be(self, tones: Path, tmp_path: Path) -> None:
        one = contender(tmp_path)
        predicted = one.predict([tones / "broken.wav", tones / "0.wav", tones / "gone.wav"])
        assert predicted.paths == (tones / "0.wav",)
        with pytest.raises(BadRequestError, match=r"broken\.wav: could not be scored"):
            predicted.of(tones / "broken.wav")
        with pytest.raises(BadRequestError, match=r"tiny can score none of 2 tracks: .*gone\.wav: cannot be read"):
            one.predict([tones / "gone.wav", tones / "broken.wav"])
        with pytest.raises(BadRequestError, match="none of 0 tracks"):
            one.predict([])


@dataclass(frozen=True, eq=False)
class FixedModel(Contender):
    """A model with fixed scores [tags] by file name; it can score no other file."""

    scores_by_name: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def predict(self, paths: Sequence[Path]) -> Predictions:
        known = tuple(path for path in paths if path.name in self.scores_by_name)
        scores = np.array([self.scores_by_name[path.name] for path in known], np.float32)
        return Predictions(known, scores, scores)


def fixed_model(name: str, tags: Sequence[Tag], scores_by_name: Mapping[str, Sequence[float]]) -> FixedModel:
    card = make_card(name=name, tags=tuple(tags), outputs=tuple(output for tag in tags for output in tag.outputs))
    return FixedModel(cast(Predictor, SimpleNamespace(card=card)), Path(), scores_by_name)


JAZZ, ROCK = Tag("Jazz", "genre", ("jazz",), 0.3), Tag("Rock", "genre", ("rock",), 0.5)
GUITAR, PIANO = Tag("Guitar", "instrument", ("guitar",), 0.5), Tag("Piano", "instrument", ("piano",), 0.8)


class TestParts:
    def test_labels(self, tones: Path, tmp_path: Path) -> None:
        jazz = {f"{number}.wav": [score] for number, score in enumerate([0.9, 0.8, 0.2, 0.5, 0.1, 0.1])}
        one, other = fixed_model("one", [JAZZ], jazz), fixed_model("other", [ROCK], jazz)
        table, results = weights.labels(bench(tones, tmp_path, one, other))
        # The listing has a fourth jazz track, which is broken.
        assert table == [
            ["tag", "kind", "tracks", "one", "other"],
            ["Jazz", "genre", "3 of 6", "0.889", ""],
            ["Metal", "style", "3 of 6", "", ""],
            ["Jazz", "style", "3 of 6", "0.889", ""],
        ]
        assert results["Jazz, genre"] == {"one": pytest.approx(8 / 9)}

    def test_labels_compare_only_tracks_that_all_models_scored(self, tones: Path, tmp_path: Path) -> None:
        scores = {f"{number}.wav": [1.0 - number / 10] for number in range(6)}
        fewer = {name: score for name, score in scores.items() if name != "4.wav"}
        table, _ = weights.labels(
            bench(tones, tmp_path, fixed_model("one", [JAZZ], scores), fixed_model("two", [JAZZ], fewer))
        )
        assert table[1] == ["Jazz", "genre", "3 of 5", "1.000", "1.000"]
        fewer.pop("0.wav")
        table, _ = weights.labels(
            bench(tones, tmp_path, fixed_model("one", [JAZZ], scores), fixed_model("two", [JAZZ], fewer))
        )
        assert table[1:] == []

    def test_genres(self, tones: Path, tmp_path: Path) -> None:
        scores_by_name = {
            "0.wav": (0.9, 0.4),
            "1.wav": (0.4, 0.9),
            "2.wav": (0.2, 0.2),
            "3.wav": (0.2, 0.6),
            "4.wav": (0.6, 0.7),
        }
        table, results = weights.genres(bench(tones, tmp_path, fixed_model("one", [JAZZ, ROCK], scores_by_name)))
        assert results["one"]["jazz/ragtime/lounge"] == {"tracks": 3, "given": 2, "fit": 1}
        assert results["one"]["all"] == {"tracks": 5, "given": 4, "fit": 3}
        assert ["metal/rock/punk", "2", "100%", "100%"] in table
        assert table[-1] == ["all", "5", "80%", "75%"]

    def test_instruments(self, tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        recordings = {Path("g1"): "Guitar", Path("g2"): "Guitar", Path("p1"): "Piano", Path("p2"): "Piano"}
        monkeypatch.setattr(weights, "render_instruments", lambda _: recordings)
        monkeypatch.setattr(weights, "INSTRUMENTS", {"Guitar": (24,), "Piano": (0,)})
        scores_by_name = {"g1": (0.9, 0.1), "g2": (0.6, 0.1), "p1": (0.7, 0.2), "p2": (0.1, 0.9)}
        both = bench(
            tones,
            tmp_path,
            fixed_model("one", [GUITAR, PIANO], scores_by_name),
            fixed_model("two", [GUITAR], scores_by_name),
        )
        table, results = weights.instruments(both)
        assert table[1:] == [
            ["Guitar", "2", "0.750; 100% / 50%", "0.750; 100% / 50%"],
            ["Piano", "2", "1.000; 50% / 0%", ""],
        ]
        assert results["Guitar"]["one"] == pytest.approx(
            {"auc": 0.75, "own_given": 1.0, "others_given": 0.5, "own_mean": 0.75, "others_mean": 0.4}
        )
        # A tag that no model knows leaves a gap only in its own row.
        assert weights.instruments(bench(tones, tmp_path, fixed_model("two", [GUITAR], scores_by_name)))[0][2] == [
            "Piano",
            "2",
            "",
        ]
        with pytest.raises(BadRequestError, match="none of the models knows any of: Guitar, Piano"):
            weights.instruments(bench(tones, tmp_path, fixed_model("three", [ROCK], scores_by_name)))

    def test_held_out(self, tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        paths = [tones / f"{number}.wav" for number in range(5)]
        # The teachers rank jazz as 0, 1, ... 4; the model swaps the first two.
        targets = {path: np.array([0.5, 0.9 - number / 10], np.float32) for number, path in enumerate(paths)}
        monkeypatch.setattr(weights, "_soft_targets", lambda _: (("Flute", "Jazz"), targets))
        scores_by_name = {path.name: (0.5, score) for path, score in zip(paths, (0.8, 0.9, 0.7, 0.6), strict=False)}
        table, results = weights.held_out(bench(tones, tmp_path, fixed_model("one", [ROCK, JAZZ], scores_by_name)))
        assert table[1] == ["one", "1", "0.667", "0.800", "nan (nan)", "Jazz 0.67"]
        assert results["one"]["tracks"] == 4 and results["one"]["auc"] == {"Jazz": pytest.approx(2 / 3)}
        assert results["one"]["same_album"]["tracks"] == 0

    def test_held_out_without_teachers(self, tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        one = contender(tmp_path)
        with pytest.raises(BadRequestError, match="none of the models was trained with teachers"):
            weights.held_out(bench(tones, tmp_path, one))
        model = load_model(tmp_path / "tiny.safetensors")
        student = dataclasses.replace(model, card=dataclasses.replace(model.card, training=TRAINING))
        monkeypatch.setattr(weights, "load_teachers", lambda *_: [make_teacher(model)])
        with pytest.raises(BadRequestError, match=r"cache: has teachers' scores for none of 2 held-out tracks"):
            weights.held_out(bench(tones, tmp_path, Contender(Predictor(student, "cpu"), tmp_path / "predictions")))

    def test_robustness(self, tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(weights, "ROBUST_TRACKS", 1)
        table, results = weights.robustness(bench(tones, tmp_path, contender(tmp_path)))
        assert [row[0] for row in table[1:]] == list(VARIANTS)
        changes = {variant: each["tiny"]["mean_change"] for variant, each in results.items()}
        assert changes["6 dB louder"] > 0 and changes["6 dB softer"] > 0
        assert changes["noise 5 dB below"] > changes["noise 20 dB below"] > changes["22.05 kHz"]
        assert all(each["tiny"]["genre_changes"] in (0, 1) for each in results.values())

    def test_variants_match_their_names(self, tones: Path, tmp_path: Path) -> None:
        written = write_variants([tones / "0.wav", tones / "broken.wav"], tmp_path)
        plain, rate_hz = soundfile.read(written["plain"][0])
        assert len(plain) == 30 * rate_hz and all(len(paths) == 1 for paths in written.values())
        louder, _ = soundfile.read(written["6 dB louder"][0])
        assert np.std(louder) / np.std(plain) == pytest.approx(10 ** (6 / 20), rel=1e-3)
        noisy, _ = soundfile.read(written["noise 5 dB below"][0])
        assert 20 * np.log10(np.std(plain) / np.std(noisy - plain)) == pytest.approx(5, abs=0.1)
        assert soundfile.info(written["8 kHz"][0]).samplerate == 8000
        before = {path: path.stat().st_mtime_ns for paths in written.values() for path in paths}
        assert write_variants([tones / "0.wav"], tmp_path) == written
        assert {path: path.stat().st_mtime_ns for path in before} == before

    def test_variants_need_a_track_that_can_be_decoded(self, tones: Path, tmp_path: Path) -> None:
        soundfile.write(tmp_path / "empty.wav", np.zeros(0, np.float32), 16_000)
        for tracks, reason in (
            ([tones / "broken.wav"], r"1 tracks .*broken\.wav"),
            ([tmp_path / "empty.wav"], r"1 tracks .*empty\.wav"),
            ([], "there are none"),
        ):
            with pytest.raises(BadRequestError, match=reason):
                write_variants(tracks, tmp_path / "variants")

    def test_the_whole_program(
        self,
        tones: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        model, out = make_model(tmp_path), tmp_path / "out"
        arguments = (out, model, "--listing", tones / "listing.jsonl", "--cache", tmp_path / "cache", "--parts")
        call(weights.main, monkeypatch, *arguments, "clips,labels", "--clips", tones / "0.wav")
        assert {path.name for path in out.iterdir()} == {
            "predictions",
            *(f"{p}.{s}" for p in ("clips", "labels") for s in ("json", "md")),
        }
        assert set(json.loads((out / "clips.json").read_text(encoding="utf-8"))) == {"0.wav"}
        assert "## labels" in capsys.readouterr().out
        for parts, reason in (("nothing", "unknown parts: nothing"), ("clips", "none of 0 tracks")):
            with pytest.raises(SystemExit):
                call(weights.main, monkeypatch, *arguments, parts)
            assert reason in capsys.readouterr().err
