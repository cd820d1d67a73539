"""`musictagger models` and `musictagger weights` through the command line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from helpers import TINY, make_model, run
from test_convert import musicnn_arrays, put_checkpoint

from musictagger.errors import EXIT_USAGE
from musictagger.models.published import catalogue
from musictagger.models.weights import load_model


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's empty folder of models."""
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
    assert f"there is already a model {name!r}; give another --name" in result.err
    assert not (models / f"{name}.safetensors").exists()


def test_an_unknown_name_gives_the_same_error_as_a_scan() -> None:
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


def test_damaged_weights_are_reported(models: Path) -> None:
    make_model(models)
    damaged = make_model(models, "damaged")
    damaged.write_bytes(damaged.read_bytes()[:-100])
    shown = run("models")
    assert shown.code == 0
    assert "damaged is broken" in shown.out and "is not the file its card describes" in " ".join(shown.out.split())
    listed = {model["name"]: model for model in run("models", "--json").json["models"]}
    assert listed[TINY]["error"] is None and "SHA-256 differs" in listed["damaged"]["error"]
    assert "card" not in listed["damaged"]


def test_a_hidden_model_is_reported(models: Path) -> None:
    hidden = make_model(models, "fcn")
    shown = " ".join(run("models").out.split())
    assert f"fcn hides another model of that name; give its path: {hidden}" in shown
    listed = {model["name"]: model["hides"] for model in run("models", "--json").json["models"]}
    assert listed["fcn"] == [str(hidden)] and listed["crnn"] == []


# --- how they are shown ------------------------------------------------------------------------------------------

LONG = "a-model-that-somebody-trained-on-everything-they-had-last-summer"


@pytest.mark.parametrize("width", [1, 40, 80, 100, 120, 200, 0])
def test_names_are_never_shortened_at_any_width(width: int, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if width:
        monkeypatch.setenv("COLUMNS", str(width))
    names = [TINY, LONG, "[red]x", "two [b]"]
    for name in names:
        make_model(models, name)
    (make_model(models, "damaged").with_suffix(".json")).write_text("{}")
    shown = run("models")
    assert shown.code == 0
    lines = shown.out.splitlines()
    for name in (*names, "fcn (default)", "damaged", *catalogue.names()):
        assert any(line == name or line.startswith(f"{name} ") for line in lines), name
    assert "`musictagger weights pull NAME`" in " ".join(lines)
    # Only a name or a path may be longer than a line.
    assert all(len(line) <= max(width or 160, 60) or LONG in line or str(models) in line for line in lines)


@pytest.mark.parametrize(
    ("default", "message"), [("zzz", "does not exist."), ("vgg-msd", "is not installed yet; the next scan")]
)
def test_a_missing_default_is_reported(default: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSICTAGGER_MODEL", default)
    shown = " ".join(run("models").out.split())
    assert f"The default, {default} (MUSICTAGGER_MODEL or config.toml names it), {message}" in shown


def test_a_default_by_path_is_marked_where_it_is_listed(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUSICTAGGER_MODEL", str(make_model(models)))
    shown = run("models").out
    assert f"{TINY} (default)" in shown and "The default" not in shown
    monkeypatch.setenv("MUSICTAGGER_MODEL", str(make_model(tmp_path / "elsewhere")))
    assert "is a file in another folder." in run("models").out


def test_impossible_metrics_and_speeds_are_left_out(models: Path) -> None:
    card = make_model(models).with_suffix(".json")
    metrics = {"metrics": {"x": {"auc": {"value": float("inf")}}, "roc_auc": float("nan")}}
    speed = {"training": {"speed": {"x_real_time": 10**400, "device": "\x1b[31m"}}}
    card.write_text(json.dumps(json.loads(card.read_text()) | metrics | speed))
    shown = run("models")
    assert shown.code == 0 and f"{TINY} " in shown.out


@pytest.mark.parametrize("change", [{"front_end": []}, {"licence": None}, {"metrics": 5}, {"training": []}])
def test_a_bad_card_is_one_row_and_stops_nothing_else(change: dict[str, Any], models: Path, tmp_path: Path) -> None:
    card = make_model(models, "bad").with_suffix(".json")
    card.write_text(json.dumps(json.loads(card.read_text()) | change))
    shown, listed = run("models"), run("models", "--json")
    assert (shown.code, listed.code) == (0, 0)
    # The line is wrapped where the path of the temporary folder is long.
    assert "bad is broken: " in " ".join(shown.out.split()) and "fcn (default)" in shown.out
    (tmp_path / "music").mkdir()
    assert run("scan", tmp_path / "music", "--db", tmp_path / "x.db").code == 0


def test_an_unreadable_folder_is_named_and_bundled_models_are_listed(models: Path) -> None:
    models.touch()
    for arguments in (["models"], ["models", "--json"]):
        shown = run(*arguments)
        assert (shown.code, shown.err) == (0, f"musictagger: {models}: cannot be read: Not a directory\n")
        assert "fcn" in shown.out
