"""`musictagger train`: make a model of your own."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from musictagger.cli.labelled import data_of, dataset_options
from musictagger.cli.options import (
    ExistingPath,
    device_option,
    json_output,
    pass_settings,
    plugin_options,
    quiet_option,
    stoppable,
    workers_option,
)
from musictagger.errors import EXIT_INTERRUPTED, BadRequestError, hint, printable

if TYPE_CHECKING:
    from musictagger.config import Settings
    from musictagger.training.options import TrainOptions
    from musictagger.training.recipes import Recipe
    from musictagger.training.run import Outcome, RunRequest

_ARGUMENTS = "musictagger.train.arguments"

OPTIMISERS = ("adam", "adamw", "sgd")
SCHEDULES = ("constant", "exponential", "inverse", "cosine", "onecycle")
PARTS = ("none", "cnn", "all")
HEADS = ("dense", "svm", "logistic", "knn")
"""As training.options has them, which takes too long to import for a help text."""

LONGEST_NAME = 200
"""File systems allow 255 bytes, some of which suffixes and temporary names take."""


class _Remembering(click.Command):
    """Keeps what was typed, for the model's card and for going on after an interruption."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See click.Command."""
        ctx.meta[_ARGUMENTS] = tuple(args)
        return super().parse_args(ctx, args)


@click.command("train", cls=_Remembering)
@dataset_options
@click.option("--recipe", metavar="NAME|FILE", help="Start from this recipe (see `musictagger recipes`).")
@click.option("--name", metavar="NAME", help="What the model is called; default: the recipe's, or the dataset's, name.")
@click.option("--out", type=ExistingPath, metavar="FOLDER", help="Put the model here; default: where --model finds it.")
@click.option("--backbone", metavar="NAME", help="Which network (see `musictagger plugins`); default: fcn.")
@click.option("--epochs", type=int, metavar="N", help="Go through the tracks N times at most; default: 40.")
@click.option("--batch-size", type=int, metavar="N", help="Frames in one step; default: 32.")
@click.option("--lr", type=float, metavar="RATE", help="Highest learning rate; default: 0.001.")
@click.option("--optimiser", "--optimizer", type=click.Choice(OPTIMISERS), help="Default: adamw.")
@click.option("--schedule", type=click.Choice(SCHEDULES), help="How the learning rate goes; default: onecycle.")
@click.option("--patience", metavar="N|none", help="Stop after N epochs in which nothing got better; default: 10.")
@click.option("--seed", type=int, metavar="N", help="What everything random comes from; default: 0.")
@click.option("--init", metavar="NAME|FILE", help="Start from this model's weights instead of fresh ones.")
@click.option("--freeze", type=click.Choice(PARTS), help="Of the model in --init, train not: nothing, the CNN, or all.")
@click.option("--head", type=click.Choice(HEADS), help="What decides on the embedding; default: dense, trained along.")
@click.option("--teacher", multiple=True, metavar="NAME,...", help="Learn these models' scores too; repeatable.")
@click.option("--set", "settings_", multiple=True, metavar="NAME=VALUE", help="Any training option; repeatable.")
@click.option("--allow-leak", is_flag=True, default=None, help="Train although an artist or a sound is in two splits.")
@click.option("--cache-dir", type=ExistingPath, metavar="FOLDER", help="Keep the mel spectrograms here.")
@device_option
@workers_option
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="CPU threads that compute; default: torch's.")
@click.option("--resume", is_flag=True, help="Go on with the interrupted run in --out.")
@click.option("--dry-run", is_flag=True, help="Say what was found and what it would take; train nothing.")
@click.option("--tensorboard", is_flag=True, help="Write curves for TensorBoard too.")
@click.option("--no-report", is_flag=True, help="Write no HTML report.")
@quiet_option
@json_output
@plugin_options
@pass_settings
@click.pass_context
def command(context: click.Context, /, as_json: bool, quiet: bool, settings: Settings, **flags: Any) -> int:
    """Train a model on labelled music, measure it, and have it ready for `musictagger scan --model NAME`.

    \b
      musictagger train --data ~/sorted                                    folders, one a genre
      musictagger train --recipe wang2019-crnn-tf --data ~/MagnaTagATune   as in a paper
      musictagger train --data ~/sorted --init MODEL --freeze cnn          start from a model

    Options come from the defaults, then the recipe, then what is said here. --set reaches each one that
    `musictagger recipes NAME` lists, with a dot into those that hold several: --set config.units=16. Ctrl-C
    stops after the step at hand; --resume goes on from there as if nothing had happened.
    """
    from musictagger.cli import progress

    arguments = context.meta[_ARGUMENTS]
    with progress.reporter(quiet) as reporter, stoppable(reporter):
        request, paper = _request(flags, settings, shlex.join(["musictagger", "train", *arguments]))
        from musictagger.training.run import run_training

        outcome = run_training(request, reporter)
        reporter.close()
        if progress.first_process():
            _show(request, outcome, paper, arguments, as_json, quiet)
    code = EXIT_INTERRUPTED if outcome.interrupted else 0
    if not progress.first_process() and "TORCHELASTIC_RUN_ID" in os.environ:
        # torch sometimes aborts while an interpreter ends, and torchrun then stops the first process, which measures.
        os._exit(code)
    return code


def _request(flags: dict[str, Any], settings: Settings, command_line: str) -> tuple[RunRequest, Mapping[str, float]]:
    """What is asked for, checked as far as it can be without looking at the data; and what a paper got from it."""
    from musictagger.training.recipes import find_recipe, options_of

    recipe = find_recipe(flags["recipe"]) if flags["recipe"] else None
    options = options_of(recipe, overrides(flags))
    _require_known(options, settings)
    out, name = _place(flags, options, recipe, settings)
    data = data_of(flags["data"], options.dataset, settings)
    from musictagger.training.run import RunRequest

    request = RunRequest(
        options=options,
        data=data,
        out=out,
        name=name,
        settings=settings,
        cache_folder=flags["cache_dir"].expanduser() if flags["cache_dir"] else settings.data_dir / "mels",
        resume=flags["resume"],
        dry_run=flags["dry_run"],
        tensorboard=flags["tensorboard"],
        report=not flags["no_report"],
        command=command_line,
        threads=flags["threads"],
    )
    same_data = recipe is not None and options.dataset == recipe.options.get("dataset", options.dataset)
    return request, recipe.paper if recipe and same_data else {}


_OPTIONS = (
    *("dataset", "backbone", "epochs", "batch_size", "lr", "optimiser", "schedule", "seed", "patience"),
    *("init", "freeze", "head", "allow_leak"),
)


def overrides(flags: dict[str, Any]) -> dict[str, Any]:
    """The training options that a command line gives. Raises BadRequestError where it contradicts itself."""
    from musictagger.cli.assignments import assigned, nested

    values = nested(assigned(flags["settings_"], "--set"), "--set")
    said: dict[str, Any] = {name: flags[name] for name in _OPTIONS if flags[name] is not None}
    if flags["teacher"]:
        said["teachers"] = ",".join(flags["teacher"])
    if flags["dataset_option"]:
        said["dataset_options"] = assigned(flags["dataset_option"], "--dataset-option")
    if twice := sorted(set(values) & set(said)):
        raise BadRequestError(f"{twice[0]} is given by --set and by an option of its own")
    return values | said


def _require_known(options: TrainOptions, settings: Settings) -> None:
    """Before the data are looked at: a typing error should not cost the making of a cache."""
    from musictagger.datasets import DATASETS
    from musictagger.datasets.reading import require_known
    from musictagger.models.find import find_model
    from musictagger.models.registry import find_backbones
    from musictagger.training.recipes import recipes

    require_known("dataset", options.dataset, list(DATASETS))
    if options.backbone:
        require_known("backbone", options.backbone, list(find_backbones(settings.plugin_folders)))
    source = DATASETS[options.dataset]
    for name in options.dataset_options:
        if name not in source.options:
            known = hint(name, source.options) or f"; there are: {', '.join(source.options)}"
            raise BadRequestError(f"dataset {options.dataset} has no option {name!r}{known}")
    for model in filter(None, (options.init, *options.teachers)):
        try:
            find_model(model, settings.model_folders)
        except BadRequestError as error:
            if model not in {recipe.name for recipe in recipes()}:
                raise
            made = f"the recipe of that name makes it: musictagger train --recipe {model} --data FOLDER"
            raise BadRequestError(f"there is no model {model!r} yet; {made}") from error


def _place(flags: dict[str, Any], options: TrainOptions, recipe: Recipe | None, settings: Settings) -> tuple[Path, str]:
    """The folder of the run, and the model's name."""
    from musictagger.audio.walk import absolute
    from musictagger.models.find import find_models
    from musictagger.models.published import catalogue
    from musictagger.training.options import DEFAULT_BACKBONE

    out = None if flags["out"] is None else absolute(flags["out"].expanduser())
    learner = options.backbone or (Path(options.init).stem if options.init else DEFAULT_BACKBONE)
    usual = recipe.name if recipe else f"{options.dataset}-{learner}"
    name = flags["name"] or (out.name if out else usual)
    if not name or name.startswith(".") or "/" in name or "\\" in name or name.endswith(".safetensors"):
        raise BadRequestError(f"--name {name!r}: a model's name is that of its file, without folder and suffix")
    if len(name.encode(errors="surrogateescape")) > LONGEST_NAME or not name.isprintable():
        raise BadRequestError(
            f"--name {name!r}: becomes the name of a file, so it has at most {LONGEST_NAME} bytes and one line"
        )
    if out is None and name in {*catalogue.names(), *(model.name for model in find_models([]))}:
        raise BadRequestError(
            f"--name {name!r}: a model of that name comes with the program or is published, and --model would find "
            "that one; give another --name, or a folder with --out"
        )
    return out or settings.model_folders[0] / name, name


def _show(
    request: RunRequest,
    outcome: Outcome,
    paper: Mapping[str, float],
    arguments: tuple[str, ...],
    as_json: bool,
    quiet: bool,
) -> None:
    from musictagger.cli import documents

    resume = shlex.join(["musictagger", "train", *(arguments if request.resume else (*arguments, "--resume"))])
    if as_json:
        documents.print_json(_document(request, outcome, resume if outcome.interrupted else None))
        return
    if quiet:
        return
    for line in outcome.lines:
        click.echo(printable(line))
    if outcome.interrupted:
        epochs = f"{outcome.epochs} epoch{'' if outcome.epochs == 1 else 's'}"
        click.echo(f"Interrupted after {epochs}; this goes on from there:\n  {resume}")
    elif outcome.weights is not None:
        _show_model(request, outcome, outcome.weights, paper)


def _show_model(request: RunRequest, outcome: Outcome, weights: Path, paper: Mapping[str, float]) -> None:
    """Its figures, where it is, and how to use it."""
    from musictagger.cli import render
    from musictagger.cli.metrics import measured

    console = render.console()
    for part in measured(outcome.card.metrics if outcome.card else {}, paper):
        console.print(part)
    if outcome.report is not None:
        click.echo(f"Report  {printable(outcome.report)}")
    click.echo(f"Model   {printable(weights)}")
    click.echo(f"Use it  {scan_line(request, weights)}")


def scan_line(request: RunRequest, weights: Path) -> str:
    """The command that tags music with the new model: by name where that finds it, else by path."""
    from musictagger.models.find import find_models

    found = {model.name: model.weights for model in find_models(request.settings.model_folders)}
    known = found.get(request.name) == weights
    plugins = [part for folder in request.settings.plugin_dir for part in ("--plugin-dir", str(folder))]
    return (
        shlex.join(["musictagger", "scan", *plugins, "--model", request.name if known else str(weights)]) + " ~/Music"
    )


def _document(request: RunRequest, outcome: Outcome, resume: str | None) -> dict[str, Any]:
    from musictagger.cli import documents

    return {
        "schema": documents.TRAINING,
        "name": request.name,
        "dry_run": request.dry_run,
        "interrupted": outcome.interrupted,
        "resume": resume,
        "weights": None if outcome.weights is None else str(outcome.weights),
        "report": None if outcome.report is None else str(outcome.report),
        "epochs": outcome.epochs,
        "best_epoch": outcome.best_epoch,
        "metrics": {} if outcome.card is None else dict(outcome.card.metrics),
        "options": request.options.to_json(),
        "lines": list(outcome.lines),
    }
