"""Training from the command line: from folders of tones to a model that a scan uses, and wrong usage."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
from dataset_trees import TREES
from helpers import Result, run, write_tone

from musictagger.cli import progress, train
from musictagger.cli.labelled import SPLITS, assigned
from musictagger.cli.train import nested, read_value
from musictagger.errors import EXIT_INTERRUPTED, EXIT_USAGE, BadRequestError
from musictagger.evaluation.matching import SplitOrAll
from musictagger.models.card import Card
from musictagger.training import options as training_options
from musictagger.training.recipes import find_recipe, options_of, recipes

GENRES = {"Rock": 90, "Jazz": 500, "Metal": 2500}
SMALL = (
    *("--backbone", "fcn", "--set", "config.channels=[4,8]", "--set", "config.pools=[[8,16],[12,3]]"),
    *("--set", "front_end.frame_hops=60", "--batch-size", "4", "--workers", "1", "--threads", "1", "--device", "cpu"),
)
"""A network of a few hundred weights on frames of 1.3 s."""


@pytest.fixture(scope="module")
def music(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six tracks in each of three genres that a small network can separate."""
    folder = tmp_path_factory.mktemp("sorted")
    for genre, hz in GENRES.items():
        for index in range(6):
            write_tone(folder / genre / f"{index}.flac", 3, hz * (1 + 0.03 * index))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(autouse=True)
def _environment(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSICTAGGER_DATA_DIR", str(data))
    monkeypatch.setenv("MUSICTAGGER_CONFIG", os.devnull)
    monkeypatch.delenv("RANK", raising=False)


def train_small(music: Path, *more: object) -> Result:
    return run("train", "--data", music, *SMALL, "--epochs", "2", *more)


@pytest.fixture(scope="module")
def trained(music: Path, data: Path) -> Result:
    """A complete run, shared by several tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MUSICTAGGER_DATA_DIR", str(data))
        patch.setenv("MUSICTAGGER_CONFIG", os.devnull)
        return train_small(music, "--name", "mine")


@pytest.fixture
def weights(trained: Result, data: Path) -> Path:
    assert trained.code == 0, trained.err
    return data / "models" / "mine" / "mine.safetensors"


def test_the_choices_match_the_training_options() -> None:
    hints = training_options
    assert get_args(hints.Optimiser) == train.OPTIMISERS
    assert get_args(hints.Schedule) == train.SCHEDULES
    assert get_args(hints.Freeze) == train.FREEZABLE
    assert get_args(hints.HeadKind) == train.HEADS
    assert {*get_args(get_args(SplitOrAll)[0]), "all"} == set(SPLITS)


# ---- A complete run -----------------------------------------------------------------------------------------------


def test_the_output_ends_with_metrics_path_and_command(trained: Result, weights: Path) -> None:
    assert "Accuracy" in trained.out and "95 % interval" in trained.out
    assert f"Model   {weights}\n" in trained.out
    assert trained.out.splitlines()[-1].startswith("Use it  musictagger scan --model ")
    assert "folders: 18 tracks, 3 genres" in trained.err
    assert "epoch 2: " in trained.err
    assert weights.parent.joinpath("report.html").is_file()


def test_the_list_of_models_shows_metrics_and_speed(weights: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSICTAGGER_DATA_DIR", str(data))
    monkeypatch.setenv("COLUMNS", "200")
    listed = run("models").out
    speed = Card.load(weights.with_suffix(".json")).training["speed"]["x_real_time"]
    (line,) = [line for line in listed.splitlines() if line.startswith("mine")]
    assert "% right (folders/test)" in line and f"{speed:,} x (cpu" in line
    assert "`musictagger compare` measures both on your machine" in " ".join(listed.split())


def test_the_card_describes_the_run(weights: Path, music: Path) -> None:
    card = Card.load(weights.with_suffix(".json"))
    assert card.name == "mine" and card.task == "genre"
    assert card.training["command"].startswith(f"musictagger train --data {music} --backbone fcn --set 'config.")
    assert card.training["speed"]["x_real_time"] > 1
    assert card.training["options"]["config"] == {"channels": [4, 8], "pools": [[8, 16], [12, 3]]}
    assert card.front_end.frame_hops == 60
    assert card.metrics


def test_a_scan_uses_the_model(trained: Result, weights: Path, music: Path, tmp_path: Path) -> None:
    shutil.copytree(music / "Metal", tmp_path / "music")
    line = trained.out.splitlines()[-1].removeprefix("Use it  musictagger ").removesuffix(" ~/Music")
    scanned = run(*line.split(), tmp_path / "music", "--json", "--db", tmp_path / "x.db", "--device", "cpu")
    assert scanned.code == 0, scanned.err
    tracks = scanned.json["tracks"]
    assert len(tracks) == 6 and {track["model"] for track in tracks} == {"mine"}
    assert {tag["name"] for track in tracks for tag in track["tags"]} <= set(GENRES)


def test_a_second_run_leaves_the_first_one_unchanged(weights: Path, music: Path) -> None:
    before = weights.read_bytes()
    again = train_small(music, "--name", "mine")
    assert again.code == EXIT_USAGE and "--resume" in again.err
    assert weights.read_bytes() == before


def test_json_contains_the_shown_results(music: Path, tmp_path: Path) -> None:
    found = train_small(music, "--out", tmp_path / "run", "--no-report", "--json", "--seed", "3")
    assert found.code == 0, found.err
    document = found.json
    assert (document["schema"], document["name"], document["epochs"]) == ("musictagger.training/1", "run", 2)
    assert document["weights"] == str(tmp_path / "run" / "run.safetensors")
    assert (document["report"], document["resume"], document["interrupted"]) == (None, None, False)
    assert document["options"]["seed"] == 3
    assert list(document["metrics"]) == ["folders/test"]


def test_a_dry_run_trains_nothing(music: Path, tmp_path: Path) -> None:
    found = train_small(music, "--out", tmp_path / "run", "--cache-dir", tmp_path / "mels", "--dry-run")
    assert found.code == 0, found.err
    assert "weights" in found.out and "steps" in found.out
    assert not list(tmp_path.rglob("*.*"))


def test_the_other_processes_of_a_distributed_run_print_nothing(
    music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("musictagger.training.run.run_training", _interrupt)
    monkeypatch.setenv("RANK", "1")
    found = train_small(music, "--out", tmp_path / "run")
    assert (found.out, found.err) == ("", "")


# ---- Interruptions ------------------------------------------------------------------------------------------------


def _interrupt(request: Any, progress: Any) -> Any:
    """A run during which Ctrl-C is pressed."""
    from musictagger.training.run import Outcome

    assert not progress.stopping
    os.kill(os.getpid(), signal.SIGINT)
    return Outcome(None, None, 1, None, progress.stopping, None)


def test_ctrl_c_gives_exit_code_130_and_the_command_to_resume(
    music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("musictagger.training.run.run_training", _interrupt)
    found = train_small(music, "--out", tmp_path / "a run", "--no-report")
    assert found.code == EXIT_INTERRUPTED
    assert "Ctrl-C again" in found.err
    command = found.out.splitlines()[-1].strip()
    assert command.startswith("musictagger train --data") and command.endswith(
        f"'{tmp_path / 'a run'}' --no-report --resume"
    )
    resumed = train_small(music, "--out", tmp_path / "a run", "--resume", "--json")
    assert resumed.json["resume"].count("--resume") == 1


def test_a_resumed_run_gives_the_same_model(music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def epoch_then_ctrl_c(self: progress.Lines, record: Mapping[str, Any]) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    asked = ("--out", tmp_path / "run", "--name", "same", "--no-report")
    with monkeypatch.context() as patch:
        patch.setattr(progress.Lines, "epoch", epoch_then_ctrl_c)
        stopped = train_small(music, *asked)
    assert stopped.code == EXIT_INTERRUPTED, stopped.err
    assert not (tmp_path / "run" / "same.safetensors").exists()
    assert "Interrupted after 1 epoch;" in stopped.out
    resumed = train_small(music, *asked, "--resume")
    assert resumed.code == 0, resumed.err
    whole = train_small(music, "--out", tmp_path / "whole", "--name", "same", "--no-report")
    assert whole.code == 0, whole.err
    one, other = (tmp_path / folder / "same.safetensors" for folder in ("run", "whole"))
    assert one.read_bytes() == other.read_bytes()


# ---- Wrong usage --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "gtzn"], "did you mean 'gtzan'"),
        (["--backbone", "crn"], "did you mean 'crnn'"),
        (["--recipe", "choi2017-cnn"], "did you mean 'choi2017-crnn'"),
        (["--recipe", "mine.toml"], "there is no such recipe"),
        (["--dataset-option", "vald=0.2"], "did you mean 'valid'"),
        (["--dataset-option", "valid=lots"], "option valid of dataset folders must be a number, not 'lots'"),
        (["--dataset-option", "valid"], "--dataset-option takes NAME=VALUE"),
        (["--dataset-option", "valid=0.9", "--dataset-option", "test=0.9"], "valid=0.9 and test=0.9"),
        (["--set", "mixupp=1"], "did you mean 'mixup'"),
        (["--set", "epochs.x=1"], "training option epochs must be a whole number from 1 to 1e+09, not {'x': 1}"),
        (["--set", "patience={}"], "training option patience must be a whole number from 1 to 1e+09 or none, not {}"),
        (["--set", "mixup=x"], "training option mixup must be a number from 0 to 100, not 'x'"),
        (["--set", "mixup"], "--set takes NAME=VALUE"),
        (["--set", "mixup=1", "--set", "mixup=2"], "gives mixup twice"),
        (["--set", "lr=1", "--lr", "1"], "lr is given by --set and by its own option; give it once"),
        (["--set", "config=3"], "training option config must be a mapping of names to values, not '3'"),
        (["--set", "front_end.n_mel=3"], "did you mean 'n_mels'"),
        (["--set", "front_end.n_mels=many"], "front_end.n_mels must be a whole number of at least 1, not 'many'"),
        (
            ["--set", "l2.rn=1"],
            "one of cnn, rnn, dense, not 'rn'; did you mean 'rnn'?",
        ),
        (["--set", "l2.rnn=much"], "training option l2.rnn must be a number from 0 to 1e+09, not 'much'"),
        (["--epochs", "0"], "epochs must be a whole number from 1 to 1e+09, not 0"),
        (["--epochs", "many"], "is not a valid integer"),
        (["--lr", "0"], "lr must be a number from 1e-12 to 1000, not 0.0"),
        (["--patience", "soon"], "training option patience must be a whole number from 1 to 1e+09 or none, not 'soon'"),
        (["--set", "l2.cnn=-1"], "training option l2.cnn must be a number from 0 to 1e+09, not -1"),
        (
            ["--set", "front_end.compression=log"],
            "front_end.compression must be one of db, log1p, not 'log'",
        ),
        (["--optimizer", "adagrad"], "is not one of"),
        (["--freeze", "cnn"], "name the model with --init"),
        (["--init", "nobody"], "there is no model 'nobody'"),
        (["--teacher", "nobody"], "there is no model 'nobody'"),
        (["--init", "wang2019-crnn-tf"], "musictagger train --recipe wang2019-crnn-tf"),
        (["--name", "../x"], "'../x' is not a valid model name"),
        (["--name", "x.safetensors"], "no .safetensors at the end"),
        (["--name", "x" * 201], "at most 200 bytes of visible characters"),
        (["--name", "x\ny"], "at most 200 bytes of visible characters"),
        (["--device", "abacus"], "there is no device 'abacus'"),
        (["--workers", "0"], "workers must be a whole number of at least 1, not 0"),
        (["--threads", "0"], "0 is less than 1"),
        (["--set", "config.chanels=[4]", "--backbone", "fcn"], "chanels"),
    ],
)
def test_wrong_usage_gives_a_readable_message(arguments: list[str], message: str, music: Path, tmp_path: Path) -> None:
    found = run("train", "--data", music, "--out", tmp_path / "run", "--dry-run", *arguments)
    assert found.code in {EXIT_USAGE, 1}
    assert message in found.err
    assert "Traceback" not in found.err and "internal error" not in found.err


@pytest.mark.parametrize("name", ["fcn", "musicnn-msd"])
def test_the_name_of_another_model_is_refused(name: str, music: Path, tmp_path: Path) -> None:
    refused = run("train", "--data", music, "--name", name, "--dry-run")
    assert refused.code == EXIT_USAGE and "give another --name, or a folder with --out" in refused.err
    assert run("train", "--data", music, "--name", name, "--out", tmp_path / "run", "--dry-run").code == 0


def test_a_recipe_with_a_missing_model_shows_how_to_train_it(music: Path) -> None:
    found = run("train", "--recipe", "roy2020-multiframe", "--data", music)
    assert found.code == EXIT_USAGE
    assert "musictagger train --recipe choi2017-crnn --data FOLDER" in found.err


def test_unsuitable_data_is_refused(music: Path, tmp_path: Path) -> None:
    def message_for(*arguments: object) -> str:
        found = run("train", *SMALL, "--out", tmp_path / "run", *arguments)
        assert found.code == EXIT_USAGE, found.err
        assert "internal error" not in found.err and not (tmp_path / "run").exists()
        return found.err

    assert "give the data with --data PATH: a folder of music with one folder per genre (docs" in message_for()
    assert "give the data with --data PATH: the data of dataset mtat (docs" in message_for(
        "--recipe", "wang2019-crnn-tf"
    )
    assert "no such folder" in message_for("--data", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "one folder per genre" in message_for("--data", tmp_path / "empty")
    shutil.copytree(music / "Rock", tmp_path / "one" / "Rock")
    assert "only one tag, 'Rock'" in message_for("--data", tmp_path / "one")
    shutil.copytree(music / "Jazz", tmp_path / "few" / "Jazz")
    write_tone(tmp_path / "few" / "Rock" / "a.flac", 2)
    assert "genre 'Rock' has 1 tracks" in message_for("--data", tmp_path / "few")
    assert "MagnaTagATune's table not found" in message_for("--recipe", "wang2019-crnn-tf", "--data", music)
    assert "run `musictagger scan FOLDER` first" in run("train", "--dataset", "library", "--out", tmp_path / "run").err


def test_assignments() -> None:
    values = nested(assigned(["a=1", "b.x=[1, 2]", "b.y=relu", "b.z=1e-6", 'c={"d": null}', "e=p=q"], "--set"), "--set")
    assert values == {"a": "1", "b": {"x": [1, 2], "y": "relu", "z": 1e-6}, "c": {"d": None}, "e": "p=q"}
    assert read_value("NaN") == "NaN"
    for texts in (["=1"], ["a"], ["a=1", "a=2"]):
        with pytest.raises(BadRequestError):
            assigned(texts, "--set")
    for texts in (["a={}", "a.x=1"], ["a.x=1", "a=1"], ["a.=1"]):
        with pytest.raises(BadRequestError, match="both as a whole and in parts"):
            nested(assigned(texts, "--set"), "--set")


def test_the_help_of_train_imports_nothing_heavy() -> None:
    import subprocess
    import sys

    for name in ("train", "evaluate", "compare", "recipes"):
        code = (
            "import sys\nfrom musictagger.cli import main\n"
            f"try: main(['{name}', '--help'])\nexcept SystemExit: pass\n"
            "assert not {'torch', 'sqlalchemy', 'numpy', 'rich', 'sklearn'} & set(sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_recipes_are_listed_and_shown() -> None:
    listed = run("recipes").out
    assert "wang2019-crnn-tf" in listed and "0.9078" in listed
    shown = run("recipes", "wang2019-crnn-tf").out
    assert all(text in shown for text in ("Wang", "l2.cnn", "paper: V.C", "ours:", "default"))
    document = run("recipes", "wang2019-crnn-tf", "--json").json
    assert document["schema"] == "musictagger.recipes/1"
    assert document["recipes"][0]["paper"]["auc"] == 0.9078
    assert len(run("recipes", "--json").json["recipes"]) == 12
    unknown = run("recipes", "wang")
    assert unknown.code == EXIT_USAGE and "unknown recipe 'wang'" in unknown.err


@pytest.mark.parametrize("recipe", [recipe.name for recipe in recipes()])
def test_a_recipe_needs_only_its_data(recipe: str, tmp_path: Path) -> None:
    if recipe == "panwar2017-crnn":
        pytest.skip("a small tree, split at random, lacks tags in some split")
    options = options_of(find_recipe(recipe), {})
    fresh = ("--init", "", "--freeze", "none") if options.init else ()
    tree = TREES[options.dataset](tmp_path / "data")
    found = run("train", "--recipe", recipe, "--data", tree, "--out", tmp_path / "run", "--dry-run", *fresh)
    assert found.code == 0, found.err
    assert "weights" in found.out and f"{options.epochs} epochs" in found.out
