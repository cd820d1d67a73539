"""Recipes: complete, sourced, and fit to be run as they stand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from dataset_trees import TREES

from musictagger.datasets import SPLITS, check_leaks, read_dataset
from musictagger.errors import BadRequestError
from musictagger.models.registry import build
from musictagger.training.options import DEFAULT_BACKBONE, TrainOptions
from musictagger.training.recipes import Recipe, find_recipe, flattened, option_lines, options_of, recipes

BUNDLED = {recipe.name: recipe for recipe in recipes()}
PAPERS = [name for name in BUNDLED if not name.startswith("musictagger-")]


def recipe_file(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_the_papers_are_all_there() -> None:
    assert set(PAPERS) == {
        *("panwar2017-crnn", "choi2016-fcn4", "choi2017-crnn", "roy2020-multiframe", "flores2017-fcn3"),
        *("wang2019-crnn-tf", "wang2019-crnn-tf-fma", "wang2019-crnn-tf-gtzan-transfer"),
    }
    assert list(BUNDLED) == sorted(BUNDLED)


@pytest.mark.parametrize("name", BUNDLED)
def test_every_value_says_where_it_is_from(name: str) -> None:
    recipe = BUNDLED[name]
    assert recipe.title and recipe.source and recipe.data and recipe.paper_where
    assert not set(recipe.given) & set(recipe.ours)
    assert set(recipe.given) | set(recipe.ours) == set(flattened(recipe.options))
    assert all(recipe.given.values()) and all(recipe.ours.values())


@pytest.mark.parametrize("name", PAPERS)
def test_what_papers_differ_in_is_never_left_to_our_defaults(name: str) -> None:
    said = set(flattened(BUNDLED[name].options))
    # Who starts from a model takes its backbone.
    assert "backbone" in said or "init" in said
    needed = {"dataset", "epochs", "batch_size", "windows_per_track", "optimiser", "lr", "schedule"}
    assert {*needed, "clip_norm", "patience", "metric"} <= said


@pytest.mark.parametrize("name", BUNDLED)
def test_backbone_and_front_end_fit_together(name: str) -> None:
    options = options_of(BUNDLED[name], {})
    if options.init:
        assert not options.backbone and not options.config and not options.front_end
        options = options_of(BUNDLED[options.init], {})
    front_end = options.built_front_end
    backbone = build(options.backbone, 50, options.config).eval()
    frame = torch.randn(1, front_end.n_mels, front_end.columns)
    with torch.inference_mode():
        output = backbone(frame)
    assert output.logits.shape == (1, 50)
    assert output.embedding.isfinite().all()


@pytest.mark.parametrize("name", BUNDLED)
def test_dataset_is_read_and_its_leaks_are_allowed(name: str, tmp_path: Path) -> None:
    options = options_of(BUNDLED[name], {})
    dataset = read_dataset(options.dataset, TREES[options.dataset](tmp_path), **options.dataset_options)
    assert dataset.task == ("tags" if options.dataset in {"mtat", "music"} else "genre")
    assert all(dataset.split(split) for split in SPLITS)
    check_leaks(dataset, allow=options.allow_leak)


def test_figures_of_a_paper_are_named_as_ours_are() -> None:
    tags = {"auc", "average_precision", "jaccard", "ndcg@50", "loss", *(f"recall@{k}" for k in (1, 3, 5, 10))}
    genres = {"accuracy", "auc", "recall", "precision", "f1"}
    for recipe in BUNDLED.values():
        known = tags if recipe.options["dataset"] == "mtat" else genres
        assert set(recipe.paper) <= known, recipe.name


def test_the_figures_to_beat() -> None:
    figures = {name: BUNDLED[name].paper for name in PAPERS}
    assert figures["wang2019-crnn-tf"]["auc"] == 0.9078
    assert figures["panwar2017-crnn"]["auc"] == 0.893
    assert figures["wang2019-crnn-tf-fma"]["accuracy"] == 0.647
    assert figures["wang2019-crnn-tf-gtzan-transfer"]["accuracy"] == 0.724
    assert figures["roy2020-multiframe"]["accuracy"] == 0.82


def test_the_default_recipe_is_the_defaults() -> None:
    assert options_of(None, {}) == TrainOptions()
    assert options_of(BUNDLED["musictagger-default"], {}) == TrainOptions(backbone=DEFAULT_BACKBONE)


def test_what_is_said_on_the_command_line_wins_and_mappings_add_up() -> None:
    recipe = BUNDLED["wang2019-crnn-tf"]
    options = options_of(recipe, {"lr": 5e-4, "config": {"units": 16}, "l2": {"cnn": 0.0}})
    assert (options.lr, options.batch_size) == (5e-4, 32)
    assert options.config == {"dropout": 0.5, "units": 16}
    assert options.l2 == {"cnn": 0.0, "rnn": 1e-6, "dense": 1e-6}


def test_what_belongs_to_another_backbone_or_dataset_is_left_out() -> None:
    recipe = BUNDLED["flores2017-fcn3"]
    other = options_of(recipe, {"backbone": "crnn", "dataset": "folders"})
    assert (other.config, other.front_end, other.dataset_options, other.allow_leak) == ({}, {}, {}, False)
    same = options_of(recipe, {"backbone": "fcn", "dataset": "mtat"})
    assert same == options_of(recipe, {})


def test_each_way_of_transfer_is_one_flag() -> None:
    recipe = BUNDLED["wang2019-crnn-tf-gtzan-transfer"]
    assert options_of(recipe, {}).init == "wang2019-crnn-tf"
    assert [options_of(recipe, {"freeze": way}).freeze for way in ("none", "cnn", "all")] == ["none", "cnn", "all"]
    assert options_of(recipe, {"init": ""}).init == ""


def test_a_recipe_of_ones_own(tmp_path: Path) -> None:
    recipe = find_recipe(recipe_file(tmp_path, '[options]\nbackbone = "crnn"\nfreeze = "cnn"\nlr = 1\n'))
    assert recipe == Recipe("mine", "mine", options={"backbone": "crnn", "freeze": "cnn", "lr": 1})
    # Its `freeze` is no error as long as somebody names the model.
    assert options_of(recipe, {"init": "tiny"}).lr == 1.0
    with pytest.raises(BadRequestError, match="--init"):
        options_of(recipe, {})
    assert {name for name, _, origin in option_lines(BUNDLED["choi2016-fcn4"]) if origin == "default"} >= {"ema"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("backbone = 'fcn'", r"options go below \[options\]"),
        ("titel = 'x'", "did you mean 'title'"),
        ("title = 1", "title must be a text"),
        ("options = 1", "options must be a table"),
        ("notes = 'x'", "notes must be a list"),
        ("[paper]\nauc = 'high'", "is no number"),
        ("[options]\nepoch = 3", "recipe mine: .*did you mean 'epochs'"),
        ("[options]\nlr = 'fast'", "is no float"),
        ("[options]\nepochs = [1]", "recipe mine: training option epochs takes one value"),
        ("[options]\nconfig = 3", "takes names with values"),
        ("[options.front_end]\nn_mel = 3", "did you mean 'n_mels'"),
        ("[options.front_end]\nn_mels = 'many'", "front_end.n_mels: 'many' is no int"),
        ("[options.front_end]\nmel_scale = 'bark'", "front_end.mel_scale: 'bark'"),
        ("[options.l2]\ncnn = 'x'", "l2.cnn: 'x' is no number"),
        ("[options", "cannot be read as TOML"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_said(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BadRequestError, match=message):
        options_of(find_recipe(recipe_file(tmp_path, text)), {})


def test_unknown_recipes(tmp_path: Path) -> None:
    with pytest.raises(BadRequestError, match="did you mean 'wang2019-crnn-tf'"):
        find_recipe("wang2019-crn-tf")
    with pytest.raises(BadRequestError, match="there is no such recipe"):
        find_recipe(str(tmp_path / "none.toml"))


@pytest.mark.parametrize(
    ("line", "message"), [("teachers = 5", "teachers takes names"), ("epochs = 2020-01-01", "epochs")]
)
def test_values_that_no_option_can_hold_are_told(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f"[options]\n{line}\n")
    with pytest.raises(BadRequestError, match=message):
        options_of(find_recipe(str(path)), {})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": -1.0}, "lr is -1; it must lie between"),
        ({"schedule": "sudden"}, "there are: "),
        ({"head": "svm", "teachers": ("one",)}, "leave --teacher out"),
        ({"balanced": True}, "name some with --teacher"),
        ({"balanced": True, "teachers": ("one",), "class_weights": True}, "leave class_weights out"),
        ({"calibration": "lift", "min_precision": 0.9}, "leave min_precision out"),
        ({"schedule": "onecycle", "warmup_epochs": 2}, "leave warmup_epochs out"),
        ({"freeze": "cnn"}, "name the model with --init"),
    ],
)
def test_options_that_contradict_each_other_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRequestError, match=message):
        TrainOptions(**changes)
