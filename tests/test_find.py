"""Finding a model by path, by name, or by default."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import make_card

from musictagger.errors import BadRequestError, ModelError
from musictagger.models import find
from musictagger.models.card import Card, sha256_of
from musictagger.models.find import find_model, find_models, verified


@pytest.fixture(autouse=True)
def bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Replace the bundled models by an empty folder."""
    folder = tmp_path / "bundled"
    folder.mkdir()
    monkeypatch.setattr(find, "bundled_folder", lambda name: folder)
    return folder


def put(folder: Path, name: str, *, card: bool = True) -> Path:
    folder.mkdir(exist_ok=True)
    weights = folder / f"{name}.safetensors"
    weights.write_bytes(b"weights")
    if card:
        make_card(name=name).save(weights.with_suffix(".json"))
    return weights


def test_a_model_is_found_by_name_and_by_path(tmp_path: Path) -> None:
    weights = put(tmp_path / "models", "mine")
    assert find_model("mine", [tmp_path / "models"]) == weights
    assert find_model(str(weights), []) == weights


def test_a_trained_model_is_found_in_the_folder_of_its_run(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    weights = put(tmp_path / "models" / "mine", "mine")
    put(tmp_path / "models" / "mine", "best", card=False)
    assert find_model("mine", [tmp_path / "models"]) == weights
    assert [model.name for model in find_models([tmp_path / "models"])] == ["mine"]


def test_a_path_that_does_not_exist_is_a_usage_error(tmp_path: Path) -> None:
    for name in (str(tmp_path / "gone.safetensors"), "gone.safetensors", "some/where"):
        with pytest.raises(BadRequestError, match="there is no such model file"):
            find_model(name, [])


def test_an_unknown_name_is_a_usage_error_with_a_suggestion(tmp_path: Path) -> None:
    put(tmp_path / "models", "mine")
    with pytest.raises(BadRequestError, match=r"no model 'mien'; did you mean 'mine'.*musictagger models"):
        find_model("mien", [tmp_path / "models"])
    put(tmp_path / "models", "Crnn_TF")
    with pytest.raises(BadRequestError, match="no model 'CRNN-TF'; did you mean 'Crnn_TF'"):
        find_model("CRNN-TF", [tmp_path / "models"])
    with pytest.raises(BadRequestError, match="did you mean 'musicnn-msd'"):
        find_model("musicn-msd", [])
    with pytest.raises(BadRequestError, match="no model 'xyzzy'"):
        find_model("xyzzy", [])


def test_a_published_model_that_is_not_installed_is_none(tmp_path: Path) -> None:
    assert find_model("musicnn-msd", [tmp_path]) is None
    weights = put(tmp_path, "musicnn-msd")
    assert find_model("musicnn-msd", [tmp_path]) == weights


def test_models_are_sorted_and_the_first_of_a_name_wins(tmp_path: Path, bundled: Path) -> None:
    embedded = put(bundled, "b")
    put(tmp_path / "one", "b")
    first = put(tmp_path / "one", "a")
    put(tmp_path / "two", "a")
    put(tmp_path / "two", ".hidden")
    folders = [tmp_path / "one", tmp_path / "two", tmp_path / "gone"]
    assert [(model.name, model.weights) for model in find_models(folders)] == [("a", first), ("b", embedded)]


def test_hidden_models_of_the_same_name_are_listed(tmp_path: Path, bundled: Path) -> None:
    put(bundled, "b")
    put(tmp_path / "models", "a")
    hidden = [put(tmp_path / "models", "b"), put(tmp_path / "more", "b")]
    a, b = find_models([tmp_path / "models", tmp_path / "more"])
    assert (a.hides, b.hides) == ((), tuple(hidden))


def test_damaged_weights_are_detected_where_every_byte_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    for name in ("cut", "gone", "whole"):
        weights = put(folder, name)
        card = Card.load(weights.with_suffix(".json"))
        dataclasses.replace(card, weights_sha256=sha256_of(weights)).save(weights.with_suffix(".json"))
    found = find_models([folder])
    assert not any(model.error for model in found)
    (folder / "cut.safetensors").write_bytes(b"weight")
    (folder / "gone.safetensors").unlink()
    cut, gone, whole = map(verified, found)
    assert (cut.card, gone.card) == (None, None) and whole == found[2]
    assert "cut.safetensors: is not the file its card describes" in cut.error
    assert "gone.safetensors: cannot be read: No such file" in gone.error
    assert verified(cut) == cut


def test_a_model_without_a_readable_card_is_listed_with_the_reason(tmp_path: Path) -> None:
    put(tmp_path / "models", "bare", card=False)
    put(tmp_path / "models", "list").with_suffix(".json").write_text("[]")
    put(tmp_path / "models", "whole")
    bare, listed, whole = find_models([tmp_path / "models"])
    assert bare.card is None
    assert bare.error.endswith("bare.json: not a readable model card: No such file or directory")
    assert "the model card is not a JSON object" in listed.error
    assert (whole.error, whole.card) == ("", make_card(name="whole"))


def test_finding_imports_no_torch() -> None:
    code = "import sys, musictagger.models.find; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_link_to_nothing_is_listed_with_the_reason(tmp_path: Path) -> None:
    put(tmp_path / "models", "gone").unlink()
    (tmp_path / "models" / "gone.safetensors").symlink_to(tmp_path / "nowhere")
    put(tmp_path / "models", "whole")
    gone, whole = find_models([tmp_path / "models"])
    assert gone.card is None
    assert "gone.safetensors: cannot be read: No such file" in gone.error
    assert (whole.error, whole.size_bytes) == ("", len(b"weights"))


def test_a_folder_that_cannot_be_read_does_not_count_as_empty(tmp_path: Path, bundled: Path) -> None:
    embedded = put(bundled, "b")
    folder = tmp_path / "models"
    folder.touch()
    assert find_model("b", [folder]) == embedded
    assert [model.name for model in find_models([folder])] == ["b"]
    for name in ("mine", "musicnn-msd"):
        with pytest.raises(ModelError, match=r"models: cannot be read: Not a directory"):
            find_model(name, [folder])
