"""Calibration in a card: read, refused if invalid, and applied wherever scores of tracks are used."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_card
from helpers import TINY, make_model, run, write_tone

from musictagger import Tagger
from musictagger.errors import BadRequestError, ModelError
from musictagger.models.calibration import Calibration, Curve, calibrated
from musictagger.models.card import Card

LOWER = {"curves": {"Rock": Curve("platt", offset=-1.0).to_json()}, "left_out": ["Jazz"]}


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"method": "magic"},
        {"method": "isotonic"},
        {"method": "isotonic", "x": [0.1, 0.2], "y": [0.5]},
        {"method": "isotonic", "x": [0.1, 0.2], "y": [0.5, 0.4]},
        {"method": "isotonic", "x": [0.2, 0.2], "y": [0.4, 0.5]},
        {"method": "isotonic", "x": ["a"], "y": ["b"]},
        {"method": "isotonic", "x": [0.1, 0.2], "y": [0.5, 1.5]},
        {"method": "platt", "slope": -1.0},
        {"method": "platt", "slope": "1"},
        {"method": "platt", "offset": True},
        {"method": "platt", "slope": float("nan")},
        [],
        None,
    ],
)
def test_an_invalid_curve_is_refused_with_its_tag(broken: Any) -> None:
    with pytest.raises(ModelError, match=r"^(the calibration: curves\.rock(\.| must | lacks )|tag 'rock': the )"):
        Calibration.from_json({"curves": {"rock": broken}})


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({}, "the calibration lacks curves"),
        ({"curves": []}, r"the calibration: curves must be a mapping of names to values, not \[\]"),
        ([], r"the calibration must be a mapping of names to values, not \[\]"),
        (None, "the calibration must be a mapping of names to values, not None"),
    ],
)
def test_an_invalid_calibration_is_refused(broken: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Calibration.from_json(broken)


def test_an_identity_curve_changes_nothing() -> None:
    scores = np.linspace(0.001, 0.999, 50)
    assert Curve("platt").apply(scores) == pytest.approx(scores)


@pytest.mark.parametrize("curve", [Curve("platt", slope=1.7, offset=-2.0), Curve("isotonic", (0.1, 0.4), (0.2, 0.9))])
def test_undo_inverts_apply(curve: Curve) -> None:
    for score in (0.12, 0.3, 0.39):
        assert curve.undo(float(curve.apply(np.array(score)))) == pytest.approx(score, rel=1e-6)


def test_only_tags_with_a_curve_change_and_keep_their_order() -> None:
    scores = np.random.default_rng(0).random((20, 2)).astype(np.float32)
    changed = calibrated(scores, Calibration.from_json(LOWER), ["Rock", "Jazz"])
    assert changed.dtype == np.float32
    np.testing.assert_array_equal(changed[:, 1], scores[:, 1])
    assert (changed[:, 0] < scores[:, 0]).all()
    np.testing.assert_array_equal(np.argsort(changed[:, 0]), np.argsort(scores[:, 0]))


def test_without_calibration_or_tracks_nothing_changes() -> None:
    scores = np.zeros((3, 2), np.float32)
    assert calibrated(scores, make_card().curves, ["Rock", "Jazz"]) is scores
    assert calibrated(scores[:0], Calibration.from_json(LOWER), ["Rock", "Jazz"]).shape == (0, 2)


def test_scores_of_another_shape_are_refused() -> None:
    with pytest.raises(BadRequestError, match=r"shape \[3, 2\], expected \[tracks, 1 tags\]"):
        Calibration({}).apply(np.zeros((3, 2)), ["Rock"])


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({}, "model small: the calibration lacks curves"),
        (3, "the model card: calibration must be a mapping of names to values, not 3"),
        (
            {"curves": {"Rock": {"method": "magic"}}},
            "model small: the calibration: curves.Rock.method must be one of isotonic, platt, not 'magic'",
        ),
        (
            {"curves": {"Polka": {"method": "platt"}}},
            "model small: the calibration has a curve for 'Polka', which is not a tag",
        ),
    ],
)
def test_a_card_with_an_invalid_calibration_is_refused_with_its_name(broken: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "small.json"
    path.write_text(json.dumps(make_card().to_json() | {"calibration": broken}), encoding="utf-8")
    with pytest.raises(ModelError) as caught:
        Card.load(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_a_calibration_does_not_change_the_key() -> None:
    assert make_card(calibration=LOWER).key == make_card().key


def test_show_and_the_api_calibrate_stored_raw_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSICTAGGER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("MUSICTAGGER_CONFIG", os.devnull)
    card_file = make_model(tmp_path / "data" / "models").with_suffix(".json")
    path = write_tone(tmp_path / "music" / "a.flac", 40)
    assert run("scan", path.parent, "--model", TINY, "--write", "none", "--quiet").code == 0
    before = _shown(path)
    dataclasses.replace(Card.load(card_file), calibration=LOWER).save(card_file)
    again = run("scan", path.parent, "--model", TINY, "--write", "none")
    assert "1 unchanged" in again.out + again.err
    after, predicted = _shown(path), Tagger(TINY, device="cpu").tag(path)
    logit = np.log(before["Rock"] / (1 - before["Rock"]))
    assert after["Rock"] == pytest.approx(1 / (1 + np.exp(1 - logit)), abs=2e-3)
    assert {name: score for name, score in after.items() if name != "Rock"} == {
        name: score for name, score in before.items() if name != "Rock"
    }
    assert {tag.name: tag.score for tag in predicted.tags} == pytest.approx(after, abs=2e-3)
    raw = predicted.frame_scores.mean(axis=0)[predicted.tag_names.index("Rock")]
    assert raw == pytest.approx(before["Rock"], abs=2e-3)


def _shown(path: Path) -> dict[str, float]:
    return {tag["name"]: tag["score"] for tag in run("show", path, "--json").json["tags"]}
