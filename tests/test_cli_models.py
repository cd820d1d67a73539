"""`musictagger models` and `musictagger weights`, as a user types them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers import TINY, make_model, run
from test_convert import musicnn_arrays, put_checkpoint

from musictagger.errors import EXIT_USAGE
from musictagger.models.weights import load_model


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder of models, with nothing in it."""
    monkeypatch.setenv("MUSICTAGGER_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("MUSICTAGGER_CONFIG", os.devnull)
    return tmp_path / "models"


def test_a_checkpoints_folder_is_imported(models: Path, tmp_path: Path) -> None:
    put_checkpoint(tmp_path / "MSD_small", musicnn_arrays(50))
    result = run("weights", "import", tmp_path / "MSD_small", "--format", "musicnn", "--name", "mine")
    assert (result.code, result.err.count("\n")) == (0, 2)
    assert load_model(models / "mine.safetensors").card.outputs[0] == "rock"
    assert "mine" in run("models").out


@pytest.mark.parametrize("name", ["fcn", TINY])
def test_the_name_of_another_model_is_refused(name: str, models: Path, tmp_path: Path) -> None:
    make_model(models / TINY)
    put_checkpoint(tmp_path / "MSD_small", musicnn_arrays(50))
    result = run("weights", "import", tmp_path / "MSD_small", "--format", "musicnn", "--name", name)
    assert (result.code, result.out) == (EXIT_USAGE, "")
    assert f"there is a model {name!r} already; give another --name" in result.err
    assert not (models / f"{name}.safetensors").exists()


def test_a_wrong_name_is_answered_as_scan_answers_it() -> None:
    pulled = run("weights", "pull", "musicnn-msdd")
    assert pulled.code == run("scan", ".", "--model", "musicnn-msdd").code == EXIT_USAGE
    assert "did you mean 'musicnn-msd'?" in pulled.err


def test_one_bad_model_is_one_row_with_its_reason(models: Path, tmp_path: Path) -> None:
    make_model(models)
    make_model(models, "dangling").unlink()
    (models / "dangling.safetensors").symlink_to(tmp_path / "nowhere")
    shown = run("models")
    assert shown.code == 0 and TINY in shown.out
    assert "cannot be read: No such file" in " ".join(shown.out.split())
    listed = {model["name"]: model["error"] for model in run("models", "--json").json["models"]}
    assert listed[TINY] is None and "cannot be read" in listed["dangling"]
