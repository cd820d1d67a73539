"""The models that come with the program: complete, small, described correctly, and right about the examples."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from safetensors.torch import load_file

from musictagger import Tagger
from musictagger.models.card import Card
from musictagger.models.find import DEFAULT, find_models
from musictagger.models.weights import load_model
from musictagger.paths import bundled_folder

WEIGHTS = sorted(bundled_folder("weights").glob("*.safetensors"))
EXAMPLES = Path(__file__).parent.parent / "examples"
README = Path(__file__).parent.parent / "README.md"
LIMIT_BYTES = 2_000_000


def test_the_default_model_is_among_them() -> None:
    found = {model.name: model for model in find_models([])}
    assert {path.stem for path in WEIGHTS} == set(found)
    assert found[DEFAULT].card is not None


@pytest.mark.parametrize("weights", WEIGHTS, ids=[path.stem for path in WEIGHTS])
class TestEach:
    def test_is_complete_and_small(self, weights: Path) -> None:
        assert weights.stat().st_size < LIMIT_BYTES
        load_model(weights)
        assert json.loads(weights.with_suffix(".json").read_text(encoding="utf-8"))["name"] == weights.stem
        assert all(tensor.isfinite().all() for tensor in load_file(weights).values() if tensor.is_floating_point())

    def test_card_records_how_the_model_was_made(self, weights: Path) -> None:
        card = Card.load(weights.with_suffix(".json"))
        training = card.training
        assert training["command"].startswith("musictagger train --recipe musictagger-")
        assert training["options"]["seed"] == 0 and len(training["options"]["teachers"]) == 5
        assert training["speed"]["x_real_time"] > 0 and training["heard"]
        assert card.metrics["music/test"]["auc"]["value"] > 0.8
        assert card.licence and card.attribution
        assert not re.search(r"/(tmp|home|root|work)/", weights.with_suffix(".json").read_text(encoding="utf-8"))

    def test_readme_agrees_with_the_card(self, weights: Path) -> None:
        card = Card.load(weights.with_suffix(".json"))
        (row,) = re.findall(rf"^\| `{weights.stem}`.*$", README.read_text(encoding="utf-8"), re.MULTILINE)
        auc = card.metrics["music/test"]["auc"]
        assert f"{auc['value']:.3f} ({auc['low']:.3f} to {auc['high']:.3f})" in row
        assert f"| {card.training['speed']['x_real_time']:,} |" in row
        assert f"| {weights.stat().st_size / 1e6:.1f} MB |" in row

    def test_vocabulary(self, weights: Path) -> None:
        tags = Card.load(weights.with_suffix(".json")).tags
        assert 60 < len(tags) < 100
        assert {tag.category for tag in tags} >= {"genre", "mood", "instrument", "voice", "era"}
        assert all(0 < tag.threshold < 1 for tag in tags)

    def test_scores_differ_between_tracks(self, weights: Path) -> None:
        """An untrained network would give every track the same scores."""
        tagger = Tagger(weights, device="cpu")
        predicted = (tagger.tag(path).tags for path in sorted(EXAMPLES.glob("0*")))
        scores = [{tag.name: tag.score for tag in tags} for tags in predicted]
        assert scores[0]["Metal"] > 2 * max(each["Metal"] for each in scores[1:])
        classical = [each["Classical"] for each in scores]
        assert classical.index(max(classical)) == 1


def test_no_model_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("musictagger.models.published.pull.pull", lambda *_, **__: pytest.fail("fetched"))
    Tagger().tag(next(EXAMPLES.glob("01*")))
