"""Complete trainings on tones: from folders to a model that a scan can load."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from safetensors.torch import load_file
from training_material import BANDS_HZ, RATE_HZ, read_log, write_genres

from musictagger.config import Settings
from musictagger.datasets import read_dataset
from musictagger.errors import BadRequestError, ModelError, MusictaggerError
from musictagger.evaluation.evaluate import evaluate_model
from musictagger.models.card import Card
from musictagger.models.inference import Predictor
from musictagger.models.weights import load_model
from musictagger.progress import Progress
from musictagger.training import checkpoint
from musictagger.training.options import options_from
from musictagger.training.run import Outcome, RunRequest, run_training
from musictagger.training.trainer import BEST

SMALL: dict[str, Any] = {
    "backbone": "fcn",
    "config": {"n_mels": 16, "channels": [4, 8], "pools": [[4, 4], [4, 4]]},
    "front_end": {"sample_rate_hz": RATE_HZ, "n_fft": 256, "hop_samples": 128, "frame_hops": 63, "n_mels": 16},
    "epochs": 3,
    "batch_size": 8,
    "windows_per_track": 1,
    "lr": 1e-2,
    "precision": "float32",
}
MFCC: dict[str, Any] = {"backbone": "mfcc", "config": {"n_mels": 16, "n_mfcc": 8}}


class Reporter(Progress):
    """Keeps the messages, and asks to stop from the `stop_at`th query on or in a given stage."""

    def __init__(self, stop_at: float = math.inf, stop_in: str = "") -> None:
        self.lines: list[str] = []
        self._stop_at, self._stop_in = stop_at, stop_in
        self._asked, self._stopped = 0, False

    @property
    def stopping(self) -> bool:  # type: ignore[override]
        self._asked += 1
        return self._stopped or self._asked >= self._stop_at

    def start(self, stage: str, total: int | None, unit: str) -> None:
        self._stopped = self._stopped or stage == self._stop_in

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def music(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three genres of ten tracks each."""
    return write_genres(tmp_path_factory.mktemp("all") / "music")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all runs of this file, so that tracks are decoded once."""
    return tmp_path_factory.mktemp("cache")


def _request(music: Path, cache: Path, out: Path, changes: dict[str, Any] | None = None, **more: Any) -> RunRequest:
    values = {**SMALL, **(changes or {})}
    values = {name: value for name, value in values.items() if value is not None}
    settings = Settings(data_dir=out / "data", device="cpu", workers=1, trim_edges=0)
    return RunRequest(options_from(values), music, out, "mine", settings, cache, report=False, **more)


def _run(request: RunRequest, **stop: Any) -> tuple[Outcome, list[str]]:
    reporter = Reporter(**stop)
    return run_training(request, reporter), reporter.lines


def test_trains_a_model_that_predicts(music: Path, cache: Path, tmp_path: Path) -> None:
    outcome, lines = _run(_request(music, cache, tmp_path, {"epochs": 12}, command="musictagger train --data x"))
    assert outcome.weights == tmp_path / "mine.safetensors" and outcome.epochs > 1 and not outcome.interrupted
    assert lines[0].startswith("folders: 30 tracks, 3 genres")
    card = Card.load(tmp_path / "mine.json")
    assert card == outcome.card and [tag.name for tag in card.tags] == list(BANDS_HZ)
    assert card.training["command"] == "musictagger train --data x" and card.training["options"]["seed"] == 0
    assert card.metrics["folders/test"]["accuracy"]["value"] == 1.0
    predictor = Predictor(load_model(outcome.weights), "cpu")
    wave, _ = soundfile.read(music / "Techno" / "0.wav", dtype="float32")
    scores = predictor([wave[: card.front_end.frame_samples]]).scores[0]
    assert scores.argmax() == list(card.outputs).index("Techno") and scores.sum() == pytest.approx(1, abs=1e-5)


def test_resumed_run_gives_the_same_model(music: Path, cache: Path, tmp_path: Path) -> None:
    whole, _ = _run(_request(music, cache, tmp_path / "whole"))
    stopped, _ = _run(_request(music, cache, tmp_path / "parts"), stop_at=4)
    assert stopped.interrupted and stopped.weights is None
    again, lines = _run(_request(music, cache, tmp_path / "parts", resume=True))
    assert any(line.startswith("resuming after") for line in lines)
    assert whole.weights and again.weights
    assert whole.weights.read_bytes() == again.weights.read_bytes()


def test_thresholds_are_not_fitted_on_an_incomplete_split(music: Path, cache: Path, tmp_path: Path) -> None:
    outcome, _ = _run(_request(music, cache, tmp_path, {"epochs": 1}), stop_in="valid split")
    assert outcome.interrupted and outcome.epochs == 1
    card = Card.load(tmp_path / "mine.json")
    assert not card.metrics and "thresholds" not in card.training and {tag.threshold for tag in card.tags} == {0.5}
    again, _ = _run(_request(music, cache, tmp_path, {"epochs": 1}, resume=True))
    assert again.card and again.card.metrics and "thresholds" in again.card.training


def test_interrupted_before_anything_is_cached(music: Path, tmp_path: Path) -> None:
    outcome, _ = _run(_request(music, tmp_path / "cache", tmp_path / "out"), stop_at=1)
    assert outcome.interrupted and outcome.weights is None


def test_a_finished_model_is_not_overwritten(music: Path, cache: Path, tmp_path: Path) -> None:
    head = {**MFCC, "head": "logistic", "epochs": 1}
    _run(_request(music, cache, tmp_path, head))
    with pytest.raises(BadRequestError, match="holds a model 'mine' already"):
        _run(_request(music, cache, tmp_path, head))
    assert _run(_request(music, cache, tmp_path, head, resume=True))[0].weights
    with pytest.raises(BadRequestError, match="holds a model 'mine' already"):
        _run(_request(music, cache, tmp_path, {**head, "seed": 1}, resume=True))
    _, lines = _run(_request(music, cache, tmp_path / "dense", {"epochs": 1}, resume=True))
    assert any(line.endswith("holds no checkpoint, so a new training starts") for line in lines)
    with pytest.raises(BadRequestError, match="holds a run of another kind"):
        _run(_request(music, cache, tmp_path / "dense", head, resume=True))


def test_unknown_backbone_options_are_refused_before_decoding(music: Path, tmp_path: Path) -> None:
    request = _request(music, tmp_path / "cache", tmp_path / "out", {"config": {"nonsense": 1}})
    with pytest.raises(ModelError, match="nonsense"):
        _run(request)
    assert not request.cache_folder.exists()


def test_damaged_best_weights_give_an_error(music: Path, cache: Path, tmp_path: Path) -> None:
    _run(_request(music, cache, tmp_path, {"epochs": 1}))
    (tmp_path / BEST).write_bytes(b"half of a file")
    with pytest.raises(MusictaggerError, match=r"best\.safetensors: .* missing or damaged"):
        _run(_request(music, cache, tmp_path, {"epochs": 1}, resume=True))


def test_one_training_at_a_time_writes_into_a_folder(music: Path, cache: Path, tmp_path: Path) -> None:
    with checkpoint.locked(tmp_path), pytest.raises(BadRequestError, match="another training is writing here"):
        _run(_request(music, cache, tmp_path, {"epochs": 1}))
    assert _run(_request(music, cache, tmp_path, {"epochs": 1}))[0].weights


def test_tracks_that_cannot_be_scored_are_reported(cache: Path, tmp_path: Path) -> None:
    music = write_genres(tmp_path / "music", 8)
    request = _request(music, cache, tmp_path / "out", {"epochs": 1})
    broken = read_dataset("folders", music).split("test")[0].path
    broken.write_bytes(b"no audio")
    _, lines = _run(request)
    reported = [line for line in lines if "test split cannot be scored" in line]
    assert len(reported) == 1 and reported[0].startswith("1 tracks of") and str(broken) in reported[0]


def test_genres_with_one_meaning_are_refused(cache: Path, tmp_path: Path) -> None:
    music = write_genres(tmp_path / "music", 4)
    for old, new in zip(BANDS_HZ, ("hiphop", "Hip-Hop", "hip hop"), strict=True):
        (music / old).rename(music / new)
    with pytest.raises(BadRequestError, match="all its tags mean 'Hip-Hop'"):
        _run(_request(music, cache, tmp_path / "out"))
    (music / "hiphop").rename(music / "Techno")
    _, lines = _run(_request(music, cache, tmp_path / "out", {"epochs": 1}, dry_run=True))
    assert "note: taken to mean the same: Hip-Hop, hip hop as Hip-Hop" in lines


def test_a_folder_with_a_run_is_not_overwritten(music: Path, cache: Path, tmp_path: Path) -> None:
    _run(_request(music, cache, tmp_path, {"epochs": 1}))
    with pytest.raises(BadRequestError, match="holds a run already; continue it with --resume"):
        _run(_request(music, cache, tmp_path, {"epochs": 1}))


def test_checkpoint_of_another_backbone_is_refused(music: Path, cache: Path, tmp_path: Path) -> None:
    _run(_request(music, cache, tmp_path, {"epochs": 1}))
    other = {"backbone": "crnn_tf", "config": {"n_mels": 16, "channels": [4], "pools": [[4, 8]], "units": 4}}
    with pytest.raises(BadRequestError, match="backbone was 'fcn', now 'crnn_tf'"):
        _run(_request(music, cache, tmp_path, {**other, "epochs": 1}, resume=True))


def test_dry_run_describes_the_training(music: Path, cache: Path, tmp_path: Path) -> None:
    outcome, _ = _run(_request(music, cache, tmp_path / "out", dry_run=True))
    assert outcome.weights is None and not (tmp_path / "out").exists()
    assert any("fcn: " in line and "weights" in line for line in outcome.lines)
    assert any("3 epochs, 3 steps each" in line for line in outcome.lines)
    outcome, _ = _run(_request(music, cache, tmp_path / "out", {**MFCC, "head": "svm"}, dry_run=True))
    assert "head svm on at most 8 frames of each of 21 tracks" in outcome.lines
    changes = {"teachers": ("musicnn-msd",), "dataset": "music", "metric": "auc"}
    outcome, _ = _run(_request(music, cache, tmp_path / "out", changes, dry_run=True))
    assert "teacher musicnn-msd: missing; the training fetches it first" in outcome.lines
    with pytest.raises(BadRequestError, match="did you mean 'musicnn-msd'"):
        _run(_request(music, cache, tmp_path / "out", {**changes, "teachers": ("musicn-msd",)}, dry_run=True))


@pytest.fixture(scope="module")
def first(music: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    outcome, _ = _run(_request(music, cache, tmp_path_factory.mktemp("first"), {"epochs": 2}))
    assert outcome.weights
    return outcome.weights


def test_training_overlap_is_counted(first: Path, music: Path) -> None:
    predictor = Predictor(load_model(first), "cpu")
    assert evaluate_model(predictor, read_dataset("folders", music)).overlap == 0
    trained = {example.path for example in read_dataset("folders", music).split("train")}
    other = read_dataset("folders", music, seed=1, test=0.5)
    both = trained & {example.path for example in other.split("test")}
    assert both and evaluate_model(predictor, other).overlap == len(both)
    assert evaluate_model(predictor, other, "train").overlap == 0


@pytest.fixture(scope="module")
def two_genres(music: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("two")
    for genre in ("Blues", "Folk"):
        (root / genre).symlink_to(music / genre)
    return root


def test_tensorboard_gets_the_metrics_of_the_log(music: Path, cache: Path, tmp_path: Path) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    _run(_request(music, cache, tmp_path, {"epochs": 2}, tensorboard=True))
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    losses = [(event.step, event.value) for event in events.Scalars("train_loss")]
    records = read_log(tmp_path)
    assert [step for step, _ in losses] == [1, 2]
    assert [value for _, value in losses] == pytest.approx([record["train_loss"] for record in records])


class TestTransfer:
    @pytest.mark.parametrize("freeze", ["all", "cnn", "none"])
    def test_freezing_keeps_the_frozen_weights(
        self, first: Path, two_genres: Path, cache: Path, tmp_path: Path, freeze: str
    ) -> None:
        changes = {"backbone": None, "config": None, "front_end": None, "init": str(first), "freeze": freeze}
        outcome, _ = _run(_request(two_genres, cache, tmp_path, {**changes, "epochs": 2}))
        assert outcome.card and outcome.card.outputs == ("Blues", "Folk") and outcome.card.backbone == "fcn"
        before, after = load_file(first), load_file(tmp_path / "mine.safetensors")
        same = {
            name
            for name in before
            if before[name].shape == after[name].shape and torch.equal(before[name], after[name])
        }
        weights = {name for name in before if name.startswith("cnn") and name.endswith("weight")}
        assert weights <= same if freeze != "none" else not weights & same
        assert "dense.weight" not in same
        # The tracks of the first training still count after a second one on fewer tracks.
        everything = [
            Card.load(path).training["heard"] for path in (first.with_suffix(".json"), tmp_path / "mine.json")
        ]
        assert everything[0] == everything[1]

    def test_same_outputs_keep_the_dense_layer(self, first: Path, music: Path, cache: Path, tmp_path: Path) -> None:
        changes = {"backbone": None, "config": None, "front_end": None, "init": str(first), "lr": 1e-12}
        _run(_request(music, cache, tmp_path, {**changes, "epochs": 1, "weight_decay": 0}))
        before, after = load_file(first), load_file(tmp_path / "mine.safetensors")
        torch.testing.assert_close(before["dense.weight"], after["dense.weight"])

    def test_another_backbone_than_the_models_is_refused(
        self, first: Path, music: Path, cache: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(BadRequestError, match="has another backbone than requested"):
            _run(_request(music, cache, tmp_path, {"backbone": "crnn", "config": None, "init": str(first)}))

    @pytest.mark.parametrize("head", ["svm", "logistic", "knn"])
    def test_heads_on_the_frozen_embedding(
        self, first: Path, music: Path, cache: Path, tmp_path: Path, head: str
    ) -> None:
        changes = {"backbone": None, "config": None, "front_end": None, "init": str(first), "head": head}
        outcome, _ = _run(_request(music, cache, tmp_path, changes))
        assert outcome.card and outcome.card.head and outcome.weights
        assert outcome.card.metrics["folders/test"]["accuracy"]["value"] >= 0.8
        assert load_model(outcome.weights).card.head == outcome.card.head

    def test_a_head_is_not_fitted_once_stopped(self, music: Path, cache: Path, tmp_path: Path) -> None:
        request = _request(music, cache, tmp_path, {**MFCC, "head": "svm"})
        outcome, _ = _run(request, stop_in="embedding")
        assert outcome.interrupted and outcome.weights is None and not list(tmp_path.glob("mine*"))

    def test_a_head_on_fresh_weights_is_refused(self, music: Path, tmp_path: Path) -> None:
        with pytest.raises(BadRequestError, match="backbone fcn is untrained; name a model with --init"):
            _run(_request(music, tmp_path / "cache", tmp_path / "out", {"head": "svm"}))
        outcome, _ = _run(_request(music, tmp_path / "cache", tmp_path / "out", {**MFCC, "head": "logistic"}))
        assert outcome.card and outcome.card.backbone == "mfcc" and outcome.card.head

    def test_distils_into_another_backbone_and_front_end(
        self, first: Path, music: Path, cache: Path, tmp_path: Path
    ) -> None:
        changes = {"teachers": str(first), "dataset": "music", "epochs": 2}
        outcome, _ = _run(_request(music, cache, tmp_path, changes))
        assert outcome.card and outcome.card.task == "tags"
        assert set(outcome.card.outputs) == set(BANDS_HZ)
        assert read_log(tmp_path)[-1]["auc"] is not None
        # A track to which the teachers give no tag counts as labelled.
        tested = outcome.card.training["dataset"]["tracks"]["test"]
        assert outcome.card.metrics["music/test"]["tracks"] == tested > len(BANDS_HZ)


class TestBadData:
    def test_empty_folder(self, cache: Path, tmp_path: Path) -> None:
        (tmp_path / "none").mkdir()
        with pytest.raises(BadRequestError):
            _run(_request(tmp_path / "none", cache, tmp_path / "out"))

    def test_one_class(self, music: Path, cache: Path, tmp_path: Path) -> None:
        (tmp_path / "one").mkdir()
        (tmp_path / "one" / "Blues").symlink_to(music / "Blues")
        with pytest.raises(BadRequestError, match="only one tag, 'Blues'"):
            _run(_request(tmp_path / "one", cache, tmp_path / "out"))

    def test_broken_track_is_left_out_and_named(self, music: Path, cache: Path, tmp_path: Path) -> None:
        for genre in BANDS_HZ:
            (tmp_path / "some" / genre).mkdir(parents=True)
            for file in (music / genre).iterdir():
                (tmp_path / "some" / genre / file.name).symlink_to(file)
        for number in range(20, 24):
            (tmp_path / "some" / "Folk" / f"{number}.wav").write_bytes(b"RIFF but no audio" * 10)
        outcome, lines = _run(_request(tmp_path / "some", cache, tmp_path / "out", {"epochs": 1}))
        assert outcome.weights and any("cannot be used and are left out" in line for line in lines)
        assert any("Folk/2" in line for line in lines)

    @pytest.mark.parametrize("other", ["valid", "test"])
    def test_the_same_audio_in_two_splits_is_refused(
        self, music: Path, cache: Path, tmp_path: Path, other: str
    ) -> None:
        manifest = tmp_path / "tracks.jsonl"
        rows = []
        for genre in BANDS_HZ:
            for number, split in enumerate(["train", "train", "valid", "test"]):
                rows.append({"path": str(music / genre / f"{number}.wav"), "tags": [genre], "split": split})
        copy = tmp_path / "copy.wav"
        copy.write_bytes((music / "Folk" / "0.wav").read_bytes())
        rows.append({"path": str(copy), "tags": ["Folk"], "split": other})
        manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
        with pytest.raises(BadRequestError, match="the same audio in two splits"):
            _run(_request(manifest, cache, tmp_path / "out", {"dataset": "manifest"}))
        outcome, lines = _run(
            _request(manifest, cache, tmp_path / "out", {"dataset": "manifest", "allow_leak": True, "epochs": 1})
        )
        assert outcome.weights and any(line.startswith("leak, allowed: the same audio") for line in lines)

    def test_accuracy_of_tags_is_refused_before_decoding(self, music: Path, tmp_path: Path) -> None:
        rows = [
            {"path": str(music / genre / f"{number}.wav"), "tags": [genre], "split": split}
            for genre in BANDS_HZ
            for number, split in enumerate(["train", "train", "valid", "test"])
        ]
        manifest = tmp_path / "tracks.jsonl"
        manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
        changes = {"dataset": "manifest", "dataset_options": {"task": "tags"}, "metric": "accuracy"}
        with pytest.raises(BadRequestError, match="metric accuracy needs tracks with one genre each"):
            _run(_request(manifest, tmp_path / "cache", tmp_path / "out", changes))
        assert not (tmp_path / "cache").exists()

    def test_full_disk_names_the_folder(
        self, music: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*arguments: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(torch, "save", full)
        with pytest.raises(MusictaggerError, match="the disk is full"):
            _run(_request(music, cache, tmp_path, {"epochs": 1}))
        assert not (tmp_path / checkpoint.NAME).exists()
