"""Evaluation: scores as in a scan, tags matched by meaning, thresholds fitted, metrics in the card."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_card
from helpers import TINY, make_model, run, write_tone

from musictagger import __version__
from musictagger.config import Settings
from musictagger.datasets.base import Dataset, Example, Split
from musictagger.errors import BadRequestError
from musictagger.evaluation import evaluate as evaluate_module
from musictagger.evaluation.bootstrap import Resampling
from musictagger.evaluation.evaluate import card_metrics, evaluate_model, evaluate_scores, save_metrics
from musictagger.evaluation.fit_card import GIVEN_SHARE, fit_card, top_ceilings
from musictagger.evaluation.matching import match_tags, truth_of
from musictagger.evaluation.scoring import TrackScores, score_tracks
from musictagger.models.card import Card, Tag
from musictagger.models.inference import Predictor
from musictagger.models.weights import load_model
from musictagger.progress import Progress
from musictagger.scores.aggregate import merge_outputs
from musictagger.scores.genres import GenreChoice, chooser

GENRES = ("rock", "jazz", "folk")
GENRE_CARD = make_card(
    name="three",
    outputs=GENRES,
    tags=tuple(Tag(name.title(), "genre", (name,), 0.5) for name in GENRES),
    task="genre",
)


def make_dataset(
    tags: Sequence[str], given: Sequence[Sequence[str]], split: Split = "valid", **changes: object
) -> Dataset:
    """Tracks 0.mp3, 1.mp3, ... with these tags."""
    examples = tuple(Example(Path(f"{index}.mp3"), tuple(words), split) for index, words in enumerate(given))
    return dataclasses.replace(Dataset("some", "tags", tuple(tags), examples), **changes)  # type: ignore[arg-type]


def make_scores(scores: Any, failures: dict[Path, str] | None = None) -> TrackScores:
    """Two equal frames for each track of [tracks, outputs]."""
    frames = tuple(np.stack([row, row]).astype(np.float32) for row in scores)
    paths = tuple(path for index in range(len(frames)) if (path := Path(f"{index}.mp3")) not in (failures or {}))
    kept = tuple(frames[int(path.stem)] for path in paths)
    return TrackScores(paths, kept, np.zeros((len(paths), 2), np.float32), failures or {}, 60.0, 1.0, False)


def genre_case(tracks: int = 300, seed: int = 0, sharp: float = 1.0) -> tuple[Dataset, TrackScores]:
    """A genre model that is right in most cases, with low scores."""
    random = np.random.default_rng(seed)
    truth = random.integers(3, size=tracks)
    logits = random.normal(0, 1, (tracks, 3)) + 1.5 * (truth[:, None] == np.arange(3))
    scores = np.exp(sharp * logits) / np.exp(sharp * logits).sum(axis=1, keepdims=True)
    return make_dataset(GENRES, [(GENRES[genre],) for genre in truth], task="genre"), make_scores(scores)


# Scoring


class Steps(Progress):
    """A record of the progress."""

    def __init__(self) -> None:
        self.started: list[tuple[str, int | None, str]] = []
        self.done: list[int] = []

    def start(self, stage: str, total: int | None, unit: str) -> None:
        self.started.append((stage, total, unit))

    def advance(self, done: int, **metrics: float) -> None:
        self.done.append(done)


@pytest.fixture(scope="module")
def music(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two genres, a copy, a file that is broken, and one that is too short."""
    folder = tmp_path_factory.mktemp("music")
    for genre, pitches in {"rock": (110, 147, 165), "jazz": (220, 262, 330)}.items():
        for hz in pitches:
            write_tone(folder / genre / f"{hz}.flac", 75 if hz == 110 else 31, hz)
    (folder / "jazz" / "copy.flac").write_bytes((folder / "jazz" / "220.flac").read_bytes())
    (folder / "rock" / "broken.mp3").write_bytes(b"not a track")
    write_tone(folder / "rock" / "short.flac", 0.4)
    return folder


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor(load_model(make_model(tmp_path_factory.mktemp("models"))), "cpu")


def paths_of(music: Path) -> list[Path]:
    return [*sorted(music.rglob("*.*"), reverse=True), music / "gone.flac"]


def music_dataset(music: Path) -> Dataset:
    examples = tuple(Example(path, (path.parent.name,), "test") for path in sorted(music.rglob("*.*")))
    return Dataset("tones", "genre", ("jazz", "rock"), examples)


@pytest.fixture(scope="module")
def track_scores(music: Path, predictor: Predictor) -> TrackScores:
    return score_tracks(predictor, paths_of(music), Settings(workers=1))


def test_tracks_are_scored_in_order_and_failures_are_named(track_scores: TrackScores, music: Path) -> None:
    failed = {music / "rock" / "broken.mp3", music / "rock" / "short.flac", music / "gone.flac"}
    assert set(track_scores.failures) == failed
    assert track_scores.paths == tuple(path for path in paths_of(music) if path not in failed)
    assert "No such file" in track_scores.failures[music / "gone.flac"]
    assert [len(scores) for scores in track_scores.frame_scores] == [
        2 if path.stem == "110" else 1 for path in track_scores.paths
    ]
    assert track_scores.embeddings.shape[0] == len(track_scores.paths) == 7
    assert track_scores.audio_s == pytest.approx(75 + 6 * 31, abs=0.1)
    assert not track_scores.interrupted


def test_copies_have_the_same_scores(track_scores: TrackScores, music: Path) -> None:
    one, copy = (track_scores.paths.index(music / "jazz" / name) for name in ("220.flac", "copy.flac"))
    np.testing.assert_array_equal(track_scores.frame_scores[one], track_scores.frame_scores[copy])


def test_scores_are_those_of_a_scan(
    track_scores: TrackScores, music: Path, predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUSICTAGGER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("MUSICTAGGER_CONFIG", os.devnull)
    make_model(tmp_path / "data" / "models")
    path = music / "rock" / "110.flac"
    assert run("scan", path, "--model", TINY, "--write", "none", "--quiet", "--device", "cpu").code == 0
    shown = {tag["name"]: tag["score"] for tag in run("show", path, "--json").json["tags"]}
    scores = track_scores.frame_scores[track_scores.paths.index(path)].mean(axis=0)
    mine = {tag.name: float(score) for tag, score in zip(predictor.card.tags, scores, strict=True)}
    assert mine == pytest.approx(shown, abs=1e-4)


def test_progress_counts_tracks_and_no_track_is_started_after_a_stop(music: Path, predictor: Predictor) -> None:
    steps = Steps()
    paths = sorted(music.glob("jazz/*"))
    score_tracks(predictor, paths, Settings(workers=1, frames=1), steps)
    assert steps.done == [1, 2, 3, 4]
    steps.stopping = True
    stopped = score_tracks(predictor, paths, Settings(workers=1), steps)
    assert (stopped.paths, stopped.failures, stopped.interrupted) == ((), {}, True)


def test_no_track_needs_no_worker(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("musictagger.pipeline.stream.WorkerPool")
    assert score_tracks(predictor, []).paths == ()


# Matching


def test_tags_match_by_output_then_by_meaning() -> None:
    dataset = make_dataset(["Hip Hop", "woman", "female vocals", "polka", "rhythm and blues"], [])
    matching = match_tags(make_card(), dataset)
    assert matching.tags == {
        "Hip-Hop": ("Hip Hop",),
        "R&B": ("rhythm and blues",),
        "Female Vocals": ("woman", "female vocals"),
    }
    assert matching.only_dataset == ("polka",)
    assert matching.only_model == ("Rock", "Jazz", "Mellow", "Guitar", "80s")
    assert matching.describe() == [
        "3 of the model's tags are in the dataset",
        "taken to mean the same: rhythm and blues as R&B, woman, female vocals as Female Vocals",
        "not known to the model, so not measured: polka",
        "not in the dataset, so not measured: Rock, Jazz, Mellow, Guitar, 80s",
    ]


def test_a_track_has_a_tag_if_it_has_any_word_for_it() -> None:
    dataset = make_dataset(["woman", "female", "rock"], [["woman"], ["female", "woman"], ["rock"], []])
    matching = match_tags(make_card(), dataset)
    assert list(matching.tags) == ["Rock", "Female Vocals"]
    assert truth_of(dataset.examples, matching).tolist() == [[False, True], [False, True], [True, False], [False] * 2]


@pytest.mark.parametrize(
    ("task", "tags", "message"),
    [
        ("tags", ["polka", "tuvan"], "have no tag in common: the model knows Rock, Jazz"),
        ("genre", ["rock", "polka"], "have only 'Rock' in common"),
    ],
)
def test_too_few_common_tags_raise(task: str, tags: list[str], message: str) -> None:
    with pytest.raises(BadRequestError, match=message):
        match_tags(make_card(), make_dataset(tags, [], task=task))


# Fitting


def test_thresholds_separate_the_tracks_that_have_a_tag() -> None:
    given = [["rock"]] * 5 + [["jazz"]] * 2 + [[]] * 3
    scores = np.full((10, 9), 0.1)
    scores[:5, 0] = 0.3
    scores[5:7, 1] = 0.9
    card = fit_card(make_card(), make_scores(scores), make_dataset(["rock", "jazz"], given))
    limits = {tag.name: tag.threshold for tag in card.tags}
    assert limits["Rock"] == pytest.approx(0.2)
    # Two tracks are too few, and no track has a mood.
    assert (limits["Jazz"], limits["Mellow"]) == (0.3, 0.2)
    summary = card.training["thresholds"]
    assert summary["f1"] == {"Rock": 1.0}
    assert summary["kept_default"] == [tag.name for tag in card.tags if tag.name != "Rock"]
    assert (summary["tracks"], summary["split"], summary["dataset"]) == (10, "valid", "some")
    assert Card.from_json(json.loads(json.dumps(card.to_json(), allow_nan=False))) == card


def test_only_the_validation_split_is_used_for_fitting() -> None:
    dataset = make_dataset(["rock", "jazz"], [["rock"]] * 5 + [["jazz"]] * 5, split="test")
    card = fit_card(make_card(), make_scores(np.full((10, 9), 0.5)), dataset)
    assert card.tags == make_card().tags
    assert card.training["thresholds"]["tracks"] == 0


def test_an_unlabelled_track_is_not_a_negative() -> None:
    given = [["rock"]] * 5 + [["jazz"]] * 5 + [[]] * 20
    scores = np.full((30, 9), 0.1)
    scores[:5, 0] = 0.6
    scores[10:, 0] = 0.9
    dataset = make_dataset(["rock", "jazz"], given, partial=True)
    card = fit_card(make_card(), make_scores(scores), dataset)
    assert card.tags[0].threshold == pytest.approx(0.35)
    found = evaluate_scores(card, make_scores(scores), dataset, "valid", resampling=Resampling(5))
    assert (found.metrics_json()["tracks"], found.metrics_json()["auc"]["per_tag"]["Rock"]["value"]) == (10, 1.0)


@pytest.mark.parametrize("tags", [[], ["polka"]])
def test_a_dataset_without_the_models_tags_changes_no_threshold(tags: list[str]) -> None:
    dataset = make_dataset(tags, [tags] * 5, partial=True)
    card = fit_card(make_card(), make_scores(np.full((5, 9), 0.5)), dataset, calibration="platt")
    assert (card.tags, card.calibration) == (make_card().tags, None)
    assert len(card.training["thresholds"]["kept_default"]) == len(card.tags)


def test_a_genre_model_nearly_always_gives_its_most_probable_genre() -> None:
    dataset, track_scores = genre_case()
    card = fit_card(GENRE_CARD, track_scores, dataset)
    scores = np.stack([frames.mean(axis=0) for frames in track_scores.frame_scores])
    given = [chooser(card, GenreChoice(max_genres=1))(row) for row in scores]
    assert np.mean([bool(genres) for genres in given]) >= GIVEN_SHARE
    assert sum(bool(chooser(GENRE_CARD, GenreChoice())(row)) for row in scores) < 0.85 * len(scores)
    assert card.training["thresholds"]["kept_default"] == []


def test_a_minimum_precision_takes_precedence_over_giving_a_genre() -> None:
    dataset, track_scores = genre_case()
    free, strict = (fit_card(GENRE_CARD, track_scores, dataset, min_precision=p) for p in (0.0, 0.9))
    assert all(more.threshold > less.threshold for more, less in zip(strict.tags, free.tags, strict=True))


def test_a_genre_that_is_never_first_has_the_ceiling_of_all_tracks() -> None:
    scores = np.array([[0.6, 0.4, 0.0], [0.3, 0.7, 0.0], [0.9, 0.1, 0.0]], np.float32)
    assert top_ceilings(scores) == pytest.approx([0.6, 0.7, 0.6])


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_a_calibrated_card_is_calibrated_before_its_thresholds(method: str) -> None:
    dataset, track_scores = genre_case(sharp=3.0)
    card = fit_card(GENRE_CARD, track_scores, dataset, calibration=method)  # type: ignore[arg-type]
    assert card.curves is not None and set(card.curves.curves) == {"Rock", "Jazz", "Folk"}
    assert card.training["thresholds"]["not_calibrated"] == []
    found = evaluate_scores(card, track_scores, dataset, "valid", resampling=Resampling(20))
    raw = evaluate_scores(GENRE_CARD, track_scores, dataset, "valid", resampling=Resampling(20))
    ours, theirs, truth = found.labelled.matched_scores, raw.labelled.matched_scores, found.labelled.truth
    assert np.abs(ours - truth).mean() != pytest.approx(np.abs(theirs - truth).mean(), abs=0.01)
    np.testing.assert_array_equal(found.labelled.matched_raw, theirs)
    right = found.labelled.matched_scores.argmax(axis=1) == found.labelled.genres
    assert found.metrics_json()["song"]["accuracy"]["value"] == pytest.approx(right.mean())
    assert found.metrics_json()["frame"] == raw.metrics_json()["frame"]


def test_lift_makes_rare_and_common_tags_comparable() -> None:
    random = np.random.default_rng(3)
    usual = np.linspace(-6, 1, 9)
    scores = 1 / (1 + np.exp(-(usual + random.normal(0, 0.3, (40, 9)))))
    odd = 1 / (1 + np.exp(-(usual[0] + 3)))
    scores[7, 0] = odd
    dataset = make_dataset([], [[]] * 40)
    card = fit_card(make_card(), make_scores(scores), dataset, calibration="lift")
    assert {tag.threshold for tag in card.tags} == {0.5}
    assert card.curves is not None
    lifted = card.curves.apply(merge_outputs(scores.astype(np.float32), card), [tag.name for tag in card.tags])
    assert (lifted >= 0.5).sum() == 1 and lifted[7].argmax() == 0
    # Without lift, the rarest tag never reached its threshold.
    assert odd < 0.05 and not (scores[:, 0] >= 0.3).any()


# Evaluation


def test_a_tags_model_on_folders_of_genres(predictor: Predictor, music: Path, track_scores: TrackScores) -> None:
    steps = Steps()
    found = evaluate_model(
        predictor, music_dataset(music), "test", Settings(workers=1), resampling=Resampling(50), progress=steps
    )
    assert steps.started == [("tones, test", 9, "tracks")]
    assert (found.task, found.labelled.names, found.labelled.truth.shape) == ("genre", ("Rock", "Jazz"), (7, 2))
    assert found.matching.only_model == ("Mellow", "Guitar")
    assert found.metrics_json()["tracks_left_out"] == {
        track_scores.failures[music / "rock" / "broken.mp3"]: 1,
        track_scores.failures[music / "rock" / "short.flac"]: 1,
    }
    right = found.labelled.matched_scores.argmax(axis=1) == found.labelled.genres
    assert found.metrics_json()["song"]["accuracy"]["value"] == pytest.approx(right.mean())
    assert found.metrics_json()["frames"] == 8
    assert sum(found.metrics_json()["written"].values()) == 7
    assert set(found.metrics_json()["tags"]["auc"]["per_tag"]) == {"Rock", "Jazz"}
    assert json.loads(json.dumps(found.metrics_json(), allow_nan=False)) == found.metrics_json()


def test_tracks_of_unknown_genres_are_left_out_and_counted() -> None:
    dataset, track_scores = genre_case(60)
    card = make_card(
        outputs=("rock", "jazz", "noise"), tags=(*GENRE_CARD.tags[:2], Tag("Noise", "mood", ("noise",), 0.5))
    )
    found = evaluate_scores(card, track_scores, dataset, "valid", resampling=Resampling(20))
    folk = sum(example.tags == ("folk",) for example in dataset.examples)
    assert found.metrics_json()["tracks_left_out"] == {"genre that the model does not know": folk}
    assert len(found.labelled.paths) == 60 - folk
    assert found.metrics_json()["genres"] == ["Rock", "Jazz"]


def test_a_subgenre_counts_as_right_and_no_genre_as_none() -> None:
    names = ("rock", "indie rock", "jazz")
    card = make_card(outputs=names, tags=tuple(Tag(n.title(), "genre", (n,), 0.5) for n in names), task="genre")
    scores = np.array([[0.5, 0.6, 0], [0.9, 0, 0], [0.1, 0, 0.9], [0.4, 0.4, 0.2]])
    dataset = make_dataset(["rock", "jazz"], [["rock"], ["rock"], ["rock"], ["rock"]], task="genre")
    found = evaluate_scores(card, make_scores(scores), dataset, "valid", resampling=Resampling(5))
    assert found.metrics_json()["written"] == {"right": 2, "wrong": 1, "none": 1}


def test_too_few_tracks_raise_with_the_reasons() -> None:
    dataset = make_dataset(["rock", "jazz"], [["rock"], ["jazz"]])
    track_scores = make_scores(np.full((2, 9), 0.5), {Path("0.mp3"): "silent"})
    with pytest.raises(BadRequestError, match=r"1 tracks of split valid can be measured, at least 2.*\(1 silent\)"):
        evaluate_scores(make_card(), track_scores, dataset, "valid")


def test_the_split_all_includes_every_split() -> None:
    dataset = make_dataset(["rock", "jazz"], [["rock"], ["jazz"]])
    both = dataclasses.replace(
        dataset, examples=(dataset.examples[0], dataclasses.replace(dataset.examples[1], split="test"))
    )
    found = evaluate_scores(
        make_card(), make_scores(np.random.default_rng(0).random((2, 9))), both, "all", resampling=Resampling(5)
    )
    assert len(found.labelled.paths) == 2


# Metrics in the card


def test_card_metrics_are_short_and_deterministic() -> None:
    dataset, track_scores = genre_case()
    metrics, again = (
        card_metrics(evaluate_scores(GENRE_CARD, track_scores, dataset, "valid", resampling=Resampling(50)))
        for _ in range(2)
    )
    assert metrics == again
    assert metrics["musictagger"] == __version__
    assert (metrics["dataset"], metrics["split"], metrics["tracks"], metrics["tags"]) == ("some", "valid", 300, 3)
    accuracy = metrics["accuracy"]
    assert 0.5 < accuracy["low"] < accuracy["value"] < accuracy["high"] < 1
    assert len(json.dumps(metrics)) < 2000


def test_card_metrics_of_tags() -> None:
    random = np.random.default_rng(0)
    given = [["rock"] if flag else ["jazz"] for flag in random.random(40) < 0.5]
    evaluation = evaluate_scores(
        make_card(),
        make_scores(random.random((40, 9))),
        make_dataset(["rock", "jazz"], given),
        "valid",
        resampling=Resampling(20),
    )
    metrics = card_metrics(evaluation)
    assert {"auc", "average_precision", "recall@1", "recall@3", "recall@5", "recall@10", "jaccard"} < set(metrics)
    assert metrics["tags_not_measured"] == ["Hip-Hop", "R&B", "Mellow", "Guitar", "Female Vocals", "80s"]


def test_metrics_are_saved_under_dataset_and_split_beside_others(tmp_path: Path) -> None:
    dataset, track_scores = genre_case()
    path = tmp_path / "three.json"
    dataclasses.replace(GENRE_CARD, metrics={"other/test": {"auc": 1}}).save(path)
    evaluation = evaluate_scores(GENRE_CARD, track_scores, dataset, "valid", resampling=Resampling(20))
    assert save_metrics(tmp_path / "three.safetensors", evaluation) == f"{path}: metrics saved"
    card = Card.load(path)
    assert set(card.metrics) == {"other/test", "some/valid"}
    assert card.metrics["some/valid"] == card_metrics(evaluation)
    assert dataclasses.replace(card, metrics={}) == GENRE_CARD
    assert [entry.name for entry in tmp_path.iterdir()] == ["three.json"]


def test_read_only_bundled_and_interrupted_are_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, track_scores = genre_case(30)
    path, weights = tmp_path / "three.json", tmp_path / "three.safetensors"
    GENRE_CARD.save(path)
    before = path.read_bytes()
    evaluation = evaluate_scores(GENRE_CARD, track_scores, dataset, "valid", resampling=Resampling(5))
    path.chmod(0o444)
    assert "read-only" in save_metrics(weights, evaluation)
    path.chmod(0o644)
    broken_off = dataclasses.replace(evaluation, track_scores=dataclasses.replace(track_scores, interrupted=True))
    assert "not all tracks" in save_metrics(weights, broken_off)
    monkeypatch.setattr(evaluate_module, "bundled_folder", lambda name: tmp_path)
    assert "part of the program" in save_metrics(weights, evaluation)
    assert path.read_bytes() == before
