"""Comparison of models: the same tracks and tags, paired differences, speed measured in turns."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from helpers import make_model, write_tone

from musictagger.config import Settings
from musictagger.datasets.base import Dataset, Example
from musictagger.errors import BadRequestError, MusictaggerError
from musictagger.evaluation.bootstrap import Resampling
from musictagger.evaluation.compare import GENRE_METRICS, TAG_METRICS, Contender, compare
from musictagger.evaluation.evaluate import evaluate_model
from musictagger.models.card import Card, Tag
from musictagger.models.inference import Predictor
from musictagger.models.weights import Model, load_model
from musictagger.progress import Progress


def contender(weights: Path) -> Contender:
    return Contender(load_model(weights), weights)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Contender]:
    """Two models that differ, and the first one again under another name of Rock."""
    folder = tmp_path_factory.mktemp("models")
    one, two, renamed = (make_model(folder, name, seed=seed, thresholds=0.5) for name, seed in MODELS.items())
    card = Card.load(renamed.with_suffix(".json"))
    tags = tuple(Tag(t.name.replace("Rock", "Stone"), t.category, t.outputs, t.threshold) for t in card.tags)
    dataclasses.replace(card, tags=tags).save(renamed.with_suffix(".json"))
    return [contender(weights) for weights in (one, two, renamed)]


MODELS = {"one": 1, "two": 2, "renamed": 1}
SETTINGS = Settings(device="cpu", workers=1)


@pytest.fixture(scope="module")
def music(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("music")
    for index, hz in enumerate((110, 123, 147, 165, 220, 262)):
        write_tone(folder / ("rock", "jazz", "polka")[index % 3] / f"{hz}.flac", 31, hz)
    (folder / "rock" / "broken.flac").write_bytes(b"no")
    return folder


def genres(music: Path) -> Dataset:
    examples = tuple(Example(path, (path.parent.name,), "test") for path in sorted(music.rglob("*.flac")))
    return Dataset("tones", "genre", ("jazz", "polka", "rock"), examples)


def tags(music: Path) -> Dataset:
    words = {"rock": ("rock", "guitar"), "jazz": ("jazz",), "polka": ("mellow",)}
    examples = tuple(Example(path, words[path.parent.name], "test") for path in sorted(music.rglob("*.flac")))
    return Dataset("tones", "tags", ("guitar", "jazz", "mellow", "rock", "tuvan"), examples)


@pytest.fixture(scope="module")
def of_tags(models: list[Contender], music: Path) -> dict[str, Any]:
    return compare(models, tags(music), "test", SETTINGS, resampling=Resampling(100), speed_rounds=2).to_json()


def test_the_comparison_as_json(of_tags: dict[str, Any], music: Path) -> None:
    assert json.loads(json.dumps(of_tags, allow_nan=False)) == of_tags
    assert (of_tags["dataset"], of_tags["split"], of_tags["task"], of_tags["device"]) == (
        "tones", "test", "tags", "cpu",
    )  # fmt: skip
    assert (of_tags["tracks"], of_tags["tags"], of_tags["only_some"]) == (
        6, ["Rock", "Jazz", "Mellow", "Guitar"], ["tuvan"],
    )  # fmt: skip
    assert list(of_tags["left_out"]) == [str(music / "rock" / "broken.flac")]
    assert of_tags["left_out"][str(music / "rock" / "broken.flac")].startswith("one: ")
    assert of_tags["metrics"] == [*TAG_METRICS]
    assert [model["name"] for model in of_tags["models"]] == [*MODELS]
    assert all(list(model["figures"]) == of_tags["metrics"] for model in of_tags["models"])


def test_metrics_are_those_of_an_evaluation(of_tags: dict[str, Any], models: list[Contender], music: Path) -> None:
    found = evaluate_model(
        Predictor(models[1].model, "cpu"), tags(music), "test", SETTINGS, resampling=Resampling(100)
    ).metrics_json()
    metrics = of_tags["models"][1]["figures"]
    assert metrics["auc"] == pytest.approx(found["auc"]["macro"])
    assert metrics["average_precision"] == pytest.approx(found["average_precision"]["macro"])
    for name in ("recall@1", "recall@3", "jaccard"):
        assert metrics[name] == pytest.approx(found[name])


def test_differences_are_paired_and_against_the_first(of_tags: dict[str, Any]) -> None:
    one, two, renamed = of_tags["models"]
    assert one["difference"] is None
    for name in of_tags["metrics"]:
        wanted = two["figures"][name]["value"] - one["figures"][name]["value"]
        assert two["difference"][name]["value"] == pytest.approx(wanted)
        # The same network: not only the difference is 0, but that of every resample.
        assert renamed["difference"][name] == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_size_and_speed_are_reported(of_tags: dict[str, Any], models: list[Contender]) -> None:
    for found, model in zip(of_tags["models"], models, strict=True):
        assert found["file_bytes"] == model.weights.stat().st_size
        assert found["parameters"] * 4 < found["file_bytes"]
        speed = found["speed"]
        assert 0 < speed["ratio_low"] <= speed["ratio"] <= speed["ratio_high"]
        assert speed["realtime"] == pytest.approx(speed["frames_per_s"] * 29.12)
    assert of_tags["models"][0]["speed"]["ratio"] == 1.0


def test_genres_that_not_all_models_know_are_left_out(models: list[Contender], music: Path) -> None:
    found = compare(models[:2], genres(music), "test", SETTINGS, resampling=Resampling(20), speed_rounds=0).to_json()
    assert (found["task"], found["tags"], found["only_some"], found["tracks"]) == (
        "genre", ["Rock", "Jazz"], ["polka"], 4,
    )  # fmt: skip
    assert sum("its genre" in reason for reason in found["left_out"].values()) == 2
    assert found["metrics"] == [*GENRE_METRICS]
    assert found["models"][0]["speed"] is None
    whole = evaluate_model(
        Predictor(models[0].model, "cpu"), genres(music), "test", SETTINGS, resampling=Resampling(20)
    ).metrics_json()
    metrics = found["models"][0]["figures"]
    assert metrics["accuracy"]["value"] == whole["song"]["accuracy"]["value"]
    assert metrics["frame_accuracy"]["value"] == whole["frame"]["accuracy"]["value"]
    for name in ("f1", "auc"):
        assert metrics[name] == pytest.approx(whole["song"][name]["macro"])


def only(one: Contender, output: str) -> Contender:
    """The model with a single tag in its card."""
    card = one.model.card
    outputs = tuple(each if each == output else f"no{each}" for each in card.outputs)
    tags = (Tag(output.title(), "other", (output,), 0.5),)
    return dataclasses.replace(one, model=dataclasses.replace(one.model, card=card_with(card, outputs, tags)))


def card_with(card: Card, outputs: tuple[str, ...], tags: tuple[Tag, ...]) -> Card:
    return dataclasses.replace(card, outputs=outputs, tags=tags)


def named(one: Contender, name: str) -> Model:
    return dataclasses.replace(one.model, card=dataclasses.replace(one.model.card, name=name))


def test_incomparable_models_raise(models: list[Contender], music: Path) -> None:
    with pytest.raises(BadRequestError, match="1 models: at least two"):
        compare(models[:1], tags(music))
    rock, guitar = (only(models[1], name) for name in ("rock", "guitar"))
    with pytest.raises(BadRequestError, match="one, two have none of the tags of dataset tones in common"):
        compare([dataclasses.replace(rock, model=named(rock, "one")), guitar], tags(music))
    with pytest.raises(BadRequestError, match="only 'Rock' in common"):
        compare([models[0], rock], genres(music))
    with pytest.raises(MusictaggerError, match="interrupted"):
        stopping = Progress()
        stopping.stopping = True
        compare(models[:2], tags(music), "test", SETTINGS, progress=stopping)
