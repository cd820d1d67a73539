"""Recipes: complete, with sources, and ready to run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from dataset_trees import TREES

from musictagger.datasets import read_dataset
from musictagger.datasets.base import SPLITS, check_leaks
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


def test_recipes_of_all_papers_exist() -> None:
    assert set(PAPERS) == {
        *("panwar2017-crnn", "choi2016-fcn4", "choi2017-crnn", "roy2020-multiframe", "flores2017-fcn3"),
        *("wang2019-crnn-tf", "wang2019-crnn-tf-fma", "wang2019-crnn-tf-gtzan-transfer"),
    }
    assert list(BUNDLED) == sorted(BUNDLED)


@pytest.mark.parametrize("name", BUNDLED)
def test_every_value_has_a_source(name: str) -> None:
    recipe = BUNDLED[name]
    assert recipe.title and recipe.source and recipe.data and recipe.paper_where
    assert not set(recipe.given) & set(recipe.ours)
    assert set(recipe.given) | set(recipe.ours) == set(flattened(recipe.options))
    assert all(recipe.given.values()) and all(recipe.ours.values())


@pytest.mark.parametrize("name", PAPERS)
def test_recipes_of_papers_set_what_papers_differ_in(name: str) -> None:
    given = set(flattened(BUNDLED[name].options))
    # A run that starts from a model has its backbone.
    assert "backbone" in given or "init" in given
    needed = {"dataset", "epochs", "batch_size", "windows_per_track", "optimiser", "lr", "schedule"}
    assert {*needed, "clip_norm", "patience", "metric"} <= given


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


def test_metrics_of_papers_have_our_names() -> None:
    tags = {"auc", "average_precision", "jaccard", "ndcg@50", "loss", *(f"recall@{k}" for k in (1, 3, 5, 10))}
    genres = {"accuracy", "auc", "recall", "precision", "f1"}
    for recipe in BUNDLED.values():
        known = tags if recipe.options["dataset"] == "mtat" else genres
        assert set(recipe.paper) <= known, recipe.name


def test_metrics_of_the_papers() -> None:
    metrics = {name: BUNDLED[name].paper for name in PAPERS}
    assert metrics["wang2019-crnn-tf"]["auc"] == 0.9078
    assert metrics["panwar2017-crnn"]["auc"] == 0.893
    assert metrics["wang2019-crnn-tf-fma"]["accuracy"] == 0.647
    assert metrics["wang2019-crnn-tf-gtzan-transfer"]["accuracy"] == 0.724
    assert metrics["roy2020-multiframe"]["accuracy"] == 0.82


def test_the_default_recipe_equals_the_defaults() -> None:
    assert options_of(None, {}) == TrainOptions()
    assert options_of(BUNDLED["musictagger-default"], {}) == TrainOptions(backbone=DEFAULT_BACKBONE)


def test_the_command_line_overrides_values_and_extends_mappings() -> None:
    recipe = BUNDLED["wang2019-crnn-tf"]
    options = options_of(recipe, {"lr": 5e-4, "config": {"units": 16}, "l2": {"cnn": 0.0}})
    assert (options.lr, options.batch_size) == (5e-4, 32)
    assert options.config == {"dropout": 0.5, "units": 16}
    assert options.l2 == {"cnn": 0.0, "rnn": 1e-6, "dense": 1e-6}


def test_options_of_another_backbone_or_dataset_are_ignored() -> None:
    recipe = BUNDLED["flores2017-fcn3"]
    other = options_of(recipe, {"backbone": "crnn", "dataset": "folders"})
    assert (other.config, other.front_end, other.dataset_options, other.allow_leak) == ({}, {}, {}, False)
    same = options_of(recipe, {"backbone": "fcn", "dataset": "mtat"})
    assert same == options_of(recipe, {})


def test_each_kind_of_transfer_is_one_flag() -> None:
    recipe = BUNDLED["wang2019-crnn-tf-gtzan-transfer"]
    assert options_of(recipe, {}).init == "wang2019-crnn-tf"
    assert [options_of(recipe, {"freeze": way}).freeze for way in ("none", "cnn", "all")] == ["none", "cnn", "all"]
    assert options_of(recipe, {"init": ""}).init == ""


def test_a_recipe_in_a_file_of_the_user(tmp_path: Path) -> None:
    recipe = find_recipe(recipe_file(tmp_path, '[options]\nbackbone = "crnn"\nfreeze = "cnn"\nlr = 1\n'))
    assert recipe == Recipe("mine", "mine", options={"backbone": "crnn", "freeze": "cnn", "lr": 1})
    # `freeze` is valid as long as the command line names a model.
    assert options_of(recipe, {"init": "tiny"}).lr == 1.0
    with pytest.raises(BadRequestError, match="--init"):
        options_of(recipe, {})
    assert {name for name, _, origin in option_lines(BUNDLED["choi2016-fcn4"]) if origin == "default"} >= {"ema"}


def test_a_recipe_extends_another(tmp_path: Path) -> None:
    base = BUNDLED["wang2019-crnn-tf"]
    own = (
        'extends = "wang2019-crnn-tf"\n[options]\nlr = 2e-3\npatience = 10\n[options.l2]\ncnn = 0\n[ours]\nlr = "mine"'
    )
    recipe = find_recipe(recipe_file(tmp_path, own))
    assert recipe.options == {**base.options, "lr": 2e-3, "l2": {**base.options["l2"], "cnn": 0}}
    assert (recipe.title, recipe.source, recipe.data, recipe.notes) == ("mine", base.source, base.data, base.notes)
    assert (recipe.paper, recipe.paper_where) == ({}, "")
    # A value of its own does not come from the paper, even if it is the same.
    assert recipe.given == {name: text for name, text in base.given.items() if name not in {"lr", "l2.cnn"}}
    assert recipe.ours == {name: text for name, text in base.ours.items() if name != "patience"} | {"lr": "mine"}


def test_a_recipe_takes_no_options_of_a_network_or_dataset_that_it_replaces(tmp_path: Path) -> None:
    own = 'extends = "flores2017-fcn3"\n[options]\nbackbone = "crnn"\ndataset = "folders"\n'
    recipe = find_recipe(recipe_file(tmp_path, own))
    assert {"config", "front_end", "dataset_options", "allow_leak"}.isdisjoint(recipe.options)
    assert {*recipe.given, *recipe.ours} <= set(flattened(recipe.options))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends = 'wang2019-crn-tf'", "unknown recipe .*did you mean 'wang2019-crnn-tf'"),
        ("extends = 1", "extends must be a string, not 1"),
        ("backbone = 'fcn'", r"options go below \[options\]"),
        ("titel = 'x'", "did you mean 'title'"),
        ("title = 1", "title must be a string, not 1"),
        ("options = 1", "options must be a mapping of names to values, not 1"),
        ("notes = 'x'", "notes must be a list of strings, not 'x'"),
        ("[paper]\nauc = 'high'", "paper.auc must be a number, not 'high'"),
        ("[options]\nepoch = 3", "recipe mine: .*did you mean 'epochs'"),
        ("[options]\nlr = 'fast'", "training option lr must be a number from 1e-12 to 1000, not 'fast'"),
        ("[options]\nepochs = [1]", r"recipe mine: training option epochs must be a whole number .*, not \[1\]"),
        ("[options]\nconfig = 3", "training option config must be a mapping of names to values, not 3"),
        ("[options.front_end]\nn_mel = 3", "did you mean 'n_mels'"),
        ("[options.front_end]\nn_mels = 'many'", "front_end.n_mels must be a whole number of at least 1, not 'many'"),
        ("[options.front_end]\nmel_scale = 'bark'", "front_end.mel_scale must be one of slaney, htk, not 'bark'"),
        ("[options.l2]\ncnn = 'x'", "l2.cnn must be a number from 0 to .*, not 'x'"),
        ("[options", "cannot be read as TOML"),
    ],
)
def test_invalid_recipes_are_refused_with_a_reason(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BadRequestError, match=message):
        options_of(find_recipe(recipe_file(tmp_path, text)), {})


def test_unknown_recipes(tmp_path: Path) -> None:
    with pytest.raises(BadRequestError, match="did you mean 'wang2019-crnn-tf'"):
        find_recipe("wang2019-crn-tf")
    with pytest.raises(BadRequestError, match="there is no such recipe"):
        find_recipe(str(tmp_path / "none.toml"))


@pytest.mark.parametrize(
    ("line", "message"),
    [("teachers = 5", "training option teachers must be a list of strings, not 5"), ("epochs = 2020-01-01", "epochs")],
)
def test_values_of_another_type_are_refused(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f"[options]\n{line}\n")
    with pytest.raises(BadRequestError, match=message):
        options_of(find_recipe(str(path)), {})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": -1.0}, "lr must be a number from 1e-12 to 1000, not -1"),
        ({"schedule": "sudden"}, "schedule must be one of constant, exponential, inverse, cosine, onecycle, not"),
        ({"head": "svm", "teachers": ("one",)}, "leave --teacher out"),
        ({"balanced": True}, "name some with --teacher"),
        ({"balanced": True, "teachers": ("one",), "class_weights": True}, "leave class_weights out"),
        ({"calibration": "lift", "min_precision": 0.9}, "leave min_precision out"),
        ({"schedule": "onecycle", "warmup_epochs": 2}, "leave warmup_epochs out"),
        ({"freeze": "cnn"}, "name the model with --init"),
    ],
)
def test_invalid_or_contradictory_options_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRequestError, match=message):
        TrainOptions(**changes)
