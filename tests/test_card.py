"""The card of a model: written and read, its errors, and the key of stored scores."""

from __future__ import annotations

import dataclasses
import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from conftest import TAGS, make_card

from musictagger.audio.frontend import FrontEnd
from musictagger.errors import ModelError
from musictagger.models.card import CATEGORIES, Card, Tag

FULL = make_card(
    config={"pools": [[2, 2], [3, 3]], "activation": "elu"},
    front_end=FrontEnd(sample_rate_hz=16_000, top_db=None),
    description="Größe und Maß",
    licence="ISC",
    attribution="somebody",
    training={"seed": 1},
    metrics={"auc": 0.9},
)


def test_saved_cards_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "small.json"
    for card in (make_card(), FULL):
        card.save(path)
        assert Card.load(path) == card
        assert Card.load(path).key == card.key


def test_equal_cards_give_equal_files(tmp_path: Path) -> None:
    one, other = tmp_path / "a" / "small.json", tmp_path / "b" / "small.json"
    for path in (one, other):
        path.parent.mkdir()
    FULL.save(one)
    Card.load(one).save(other)
    assert one.read_bytes() == other.read_bytes()
    assert "Größe" in one.read_text(encoding="utf-8")
    assert one.read_text(encoding="utf-8").endswith("}\n")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": "musictagger.model/9"}, "'musictagger.model/9'; this version reads musictagger.model/1"),
        ({"schema": None}, "schema None; this version reads musictagger.model/1"),
        ({"tags": None}, "the model card: tags must be a list of mappings, not None"),
        ({"tags": [{"name": "Rock"}]}, r"tags\[0\] lacks category, outputs, threshold"),
        ({"colour": "blue"}, "the model card has unknown fields: colour"),
        ({"front_end": FrontEnd().to_json() | {"warp": 9}}, "unknown settings: warp"),
        ({"front_end": {"n_fft": 512}}, "the model card's front end lacks sample_rate_hz"),
        ({"front_end": None}, "the model's front end must be a mapping of names to values, not None"),
        ({"outputs": ["only this"]}, "tag 'Rock' names outputs that the network does not have"),
        (
            {"tags": [{"name": "X", "category": "taste", "outputs": ["rock"], "threshold": 0.5}]},
            r"tags\[0\].category must be one of genre, .*, not 'taste'",
        ),
        ({"tags": [{"name": "X", "category": "mood", "outputs": [], "threshold": 0.5}]}, "tag 'X' names outputs"),
    ],
)
def test_invalid_cards_are_reported_with_path_and_reason(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text(json.dumps(FULL.to_json() | change))
    with pytest.raises(ModelError, match=message) as caught:
        Card.load(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("missing", ["name", "backbone", "front_end", "outputs", "tags", "weights_sha256"])
def test_a_missing_field_is_named(missing: str) -> None:
    values = FULL.to_json()
    del values[missing]
    with pytest.raises(ModelError, match=f"the model card lacks {missing}$"):
        Card.from_json(values)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"3", b'"text"', b"null"])
def test_files_that_are_not_cards_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"m\.json"):
        Card.load(path)


@pytest.mark.parametrize("levels", [40, 900, 100_000])
def test_a_card_nested_too_deeply_is_refused(levels: int, tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    nested = "[" * levels + "]" * levels
    path.write_text(json.dumps(FULL.to_json() | {"training": {"x": 0}}).replace('{"x": 0}', f'{{"x": {nested}}}'))
    with pytest.raises(ModelError, match=r"m\.json: .*nested too deeply"):
        Card.load(path)


def test_the_file_name_is_the_name_of_the_model(tmp_path: Path) -> None:
    FULL.save(tmp_path / "renamed.json")
    assert Card.load(tmp_path / "renamed.json").name == "renamed"


def test_a_card_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"gone\.json: not a readable model card"):
        Card.load(tmp_path / "gone.json")


@pytest.mark.parametrize(
    "change",
    [
        {"tags": TAGS[:3]},
        {"tags": tuple(dataclasses.replace(tag, threshold=0.9) for tag in TAGS)},
        {"name": "other"},
        {"description": "better words"},
        {"metrics": {"auc": 0.1}},
        {"licence": "?"},
        # Scores are stored by position: a name put right needs no new analysis.
        {"outputs": ("ROCK", *FULL.outputs[1:]), "tags": TAGS[1:]},
    ],
)
def test_the_key_is_unchanged_when_scores_are_unchanged(change: dict[str, Any]) -> None:
    assert dataclasses.replace(FULL, **change).key == FULL.key


@pytest.mark.parametrize(
    "change",
    [
        {"weights_sha256": "1" * 64},
        {"backbone": "fcn"},
        {"config": {}},
        {"task": "genre"},
        {"front_end": FrontEnd(sample_rate_hz=16_000, top_db=80.0)},
    ],
)
def test_the_key_changes_with_the_scores(change: dict[str, Any]) -> None:
    assert dataclasses.replace(FULL, **change).key != FULL.key


def test_the_key_does_not_depend_on_the_order_of_the_configuration() -> None:
    turned = dict(reversed(list(FULL.config.items())))
    assert dataclasses.replace(FULL, config=turned).key == FULL.key


def test_the_categories_are_those_of_the_design() -> None:
    assert CATEGORIES == ("genre", "mood", "instrument", "voice", "era", "other")


def test_a_tag_may_have_several_outputs() -> None:
    assert make_card(outputs=("a", "b"), tags=(Tag("A", "mood", ("a", "b"), 0.5),)).tags[0].outputs == ("a", "b")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *product(["sample_rate_hz"], (0, -5, "12k", 12e3, True, None)),
        *[(name, 0) for name in ("n_fft", "hop_samples", "frame_hops", "n_mels", "mel_exponent")],
        *product(("amin", "gain", "top_db", "f_max_hz"), ("x", float("nan"), [])),
        *[("mel_scale", "bark"), ("pad_mode", None), ("compression", []), ("standardise", 1)],
    ],
)
def test_invalid_front_ends_are_refused(name: str, value: object) -> None:
    document = make_card().to_json()
    document["front_end"][name] = value
    with pytest.raises(ModelError, match=f"the model's front end: {name} must be "):
        Card.from_json(document)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("name", name) for name in ("", "\x1b[31m", 5)],
        *product(("licence", "description", "attribution", "backbone", "weights_sha256", "task"), (None, 5, [])),
        *product(("metrics", "training", "config", "front_end"), (None, [], 5, "x")),
        *product(("head", "calibration"), ([], 5)),
        ("calibration", {"curves": {}, "left_out": 5}),
        ("calibration", {"curves": {"Rock": {"method": "platt", "slope": 10**400}}}),
        *[("tags", [5]), ("tags", [{**make_card().to_json()["tags"][0], "outputs": "rock"}]), ("outputs", "rock")],
        *[("task", "dance"), ("tags", []), ("outputs", ["rock"] * 9), ("outputs", 5), ("outputs", [[]])],
    ],
)
def test_invalid_cards_are_refused(key: str, value: object) -> None:
    with pytest.raises(ModelError):
        Card.from_json(make_card().to_json() | {key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("name", name) for name in ("\x1b[31m", 5, "Jazz")],
        *[("threshold", value) for value in ("x", None, True, float("nan"), float("inf"))],
        pytest.param("threshold", 10**400, id="threshold-beyond-every-float"),
    ],
)
def test_invalid_tags_are_refused(key: str, value: object) -> None:
    document = make_card().to_json()
    document["tags"] = [{**document["tags"][0], key: value}, *document["tags"][1:]]
    with pytest.raises(ModelError):
        Card.from_json(document)
