"""`musictagger train`: train a model on labelled music."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from musictagger.cli import documents
from musictagger.cli.labelled import assigned, data_of, dataset_options
from musictagger.cli.options import (
    ANY_PATH,
    at_least,
    device_option,
    json_output,
    pass_settings,
    plugin_options,
    quiet_option,
    stoppable,
    workers_option,
)
from musictagger.errors import EXIT_INTERRUPTED, BadRequestError, printable, require_known

if TYPE_CHECKING:
    from musictagger.config import Settings
    from musictagger.training.options import TrainOptions
    from musictagger.training.recipes import Recipe
    from musictagger.training.run import Outcome, RunRequest

OPTIMISERS = ("adam", "adamw", "sgd")
SCHEDULES = ("constant", "exponential", "inverse", "cosine", "onecycle")
FREEZABLE = ("none", "cnn", "all")
HEADS = ("dense", "svm", "logistic", "knn")
"""The same as in training.options, which takes too long to import for a help text."""


@click.command("train")
@dataset_options
@click.option("--recipe", metavar="NAME|FILE", help="Start from a recipe (see `musictagger recipes`).")
@click.option("--name", metavar="NAME", help="Name of the model. Default: the recipe's, or from dataset and backbone.")
@click.option("--out", type=ANY_PATH, metavar="FOLDER", help="Folder of the run. Default: where --model finds it.")
@click.option("--backbone", metavar="NAME", help="Network to train (see `musictagger plugins`). Default: fcn.")
@click.option("--epochs", type=int, metavar="N", help="Maximum number of epochs. Default: 40.")
@click.option("--batch-size", type=int, metavar="N", help="Training windows per step. Default: 32.")
@click.option("--lr", type=float, metavar="RATE", help="Peak learning rate. Default: 0.001.")
@click.option("--optimiser", "--optimizer", type=click.Choice(OPTIMISERS), help="Optimiser. Default: adamw.")
@click.option("--schedule", type=click.Choice(SCHEDULES), help="Learning rate schedule. Default: onecycle.")
@click.option("--patience", metavar="N|none", help="Stop after N epochs without improvement. Default: 10.")
@click.option("--seed", type=int, metavar="N", help="Random seed. Default: 0.")
@click.option("--init", metavar="NAME|FILE", help="Start from the weights of this model.")
@click.option(
    "--freeze", type=click.Choice(FREEZABLE), help="Part of the --init model that stays fixed. Default: none."
)
@click.option("--head", type=click.Choice(HEADS), help="Classifier. Default: dense, part of the network.")
@click.option("--teacher", multiple=True, metavar="NAME,...", help="Also learn from these models. Repeatable.")
@click.option("--set", "settings_", multiple=True, metavar="NAME=VALUE", help="Set any training option. Repeatable.")
@click.option("--allow-leak", is_flag=True, default=None, help="Train even if splits share an artist or a recording.")
@click.option("--cache-dir", type=ANY_PATH, metavar="FOLDER", help="Folder of the cached mel spectrograms.")
@device_option
@workers_option
@click.option("--threads", type=int, callback=at_least(1), metavar="N", help="CPU threads. Default: torch's choice.")
@click.option("--resume", is_flag=True, help="Continue the interrupted run in --out.")
@click.option("--dry-run", is_flag=True, help="Report the data and the work to do; train nothing.")
@click.option("--tensorboard", is_flag=True, help="Also write curves for TensorBoard.")
@click.option("--no-report", is_flag=True, help="Write no HTML report.")
@quiet_option
@json_output
@plugin_options
@pass_settings
@click.pass_obj
def command(arguments: tuple[str, ...], /, as_json: bool, quiet: bool, settings: Settings, **flags: Any) -> int:
    """Train a model on labelled music and measure it.

    \b
      musictagger train --data ~/sorted                             genre folders
      musictagger train --recipe wang2019-crnn-tf --data ~/mtat     as in a paper
      musictagger train --data ~/sorted --init MODEL --freeze cnn   from a model

    `musictagger scan --model NAME` then tags music with it.

    Options on the command line override those of the recipe, which override the defaults. --set changes any option
    that `musictagger recipes NAME` lists; a dot reaches into an option with several values: --set config.units=16.
    Ctrl-C stops after the current step; --resume continues as if the run had not been interrupted.
    """
    from musictagger.cli import progress

    with progress.reporter(quiet) as reporter, stoppable(reporter):
        request, paper = _request(flags, settings, shlex.join(["musictagger", *arguments]))
        from musictagger.training.run import run_training

        outcome = run_training(request, reporter)
        reporter.close()
        if progress.first_process():
            _show(request, outcome, paper, arguments, as_json, quiet)
    code = EXIT_INTERRUPTED if outcome.interrupted else 0
    if not progress.first_process() and "TORCHELASTIC_RUN_ID" in os.environ:
        # torch sometimes aborts at exit; torchrun would then stop the first process, which is still measuring.
        os._exit(code)
    return code


def _request(flags: dict[str, Any], settings: Settings, command_line: str) -> tuple[RunRequest, Mapping[str, float]]:
    """Return the request, checked as far as possible without the data, and the metrics of the recipe's paper."""
    from musictagger.training.recipes import find_recipe, options_of

    recipe = find_recipe(flags["recipe"]) if flags["recipe"] else None
    options = options_of(recipe, overrides(flags))
    _require_known(options, settings)
    out, name = _folder_and_name(flags, options, recipe, settings)
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


def overrides(flags: dict[str, Any]) -> dict[str, Any]:
    """Return the training options given on the command line. Raises BadRequestError if one is given twice."""
    from musictagger.training.options import TrainOptions

    values = nested(assigned(flags["settings_"], "--set"), "--set")
    known = TrainOptions.__dataclass_fields__
    given: dict[str, Any] = {name: value for name, value in flags.items() if name in known and value is not None}
    if flags["teacher"]:
        given["teachers"] = ",".join(flags["teacher"])
    if flags["dataset_option"]:
        given["dataset_options"] = assigned(flags["dataset_option"], "--dataset-option")
    if twice := sorted(set(values) & set(given)):
        raise BadRequestError(f"{twice[0]} is given by --set and by its own option; give it once")
    return values | given


def nested(values: dict[str, str], option: str) -> dict[str, Any]:
    """{"config.x": "1"} -> {"config": {"x": 1}}: values of dotted names and values in braces are parsed as JSON.

    All other values remain texts, to be converted to the type of the option. Raises BadRequestError for a name that is
    given both as a whole and in parts.
    """
    found: dict[str, Any] = {}
    for name, text in values.items():
        outer, dot, inner = name.partition(".")
        if not dot:
            if outer in found:
                raise BadRequestError(f"{option} gives {outer} both as a whole and in parts")
            found[outer] = read_value(text) if text.startswith("{") else text
            continue
        below = found.setdefault(outer, {})
        if not isinstance(below, dict) or outer in values or not inner:
            raise BadRequestError(f"{option} gives {outer} both as a whole and in parts")
        below[inner] = read_value(text)
    return found


def read_value(text: str) -> Any:
    """Return the JSON value of `text`, such as a number, true, null or a list; other texts are unchanged."""
    import msgspec

    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return text


def _require_known(options: TrainOptions, settings: Settings) -> None:
    """Raise BadRequestError for an unknown name, before the data are read or a cache is filled."""
    from musictagger.datasets import DATASETS
    from musictagger.models.find import find_model
    from musictagger.models.registry import find_backbones
    from musictagger.training.recipes import recipes

    require_known("dataset", options.dataset, DATASETS)
    if options.backbone:
        require_known("backbone", options.backbone, find_backbones(settings.plugin_folders))
    source = DATASETS[options.dataset]
    for name in options.dataset_options:
        require_known(f"option of dataset {options.dataset}", name, source.options)
    for model in filter(None, (options.init, *options.teachers)):
        try:
            find_model(model, settings.model_folders)
        except BadRequestError as error:
            if model not in {recipe.name for recipe in recipes()}:
                raise
            command_line = f"musictagger train --recipe {model} --data FOLDER"
            raise BadRequestError(f"there is no model {model!r} yet; train it with: {command_line}") from error


def _folder_and_name(
    flags: dict[str, Any], options: TrainOptions, recipe: Recipe | None, settings: Settings
) -> tuple[Path, str]:
    """Return the folder of the run and the model's name. Raises BadRequestError for a name that cannot be used."""
    from musictagger.audio.walk import absolute
    from musictagger.models.card import require_model_name
    from musictagger.models.find import find_models
    from musictagger.models.published import catalogue
    from musictagger.training.options import DEFAULT_BACKBONE

    out = None if flags["out"] is None else absolute(flags["out"].expanduser())
    backbone = options.backbone or (Path(options.init).stem if options.init else DEFAULT_BACKBONE)
    default = recipe.name if recipe else f"{options.dataset}-{backbone}"
    name = flags["name"] or (out.name if out else default)
    require_model_name(name)
    if out is None and name in {*catalogue.names(), *(model.name for model in find_models([]))}:
        raise BadRequestError(
            f"--name {name!r} is the name of a bundled or published model, which --model would find instead; "
            "give another --name, or a folder with --out"
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
    resume = shlex.join(["musictagger", *arguments, *([] if request.resume else ["--resume"])])
    if as_json:
        documents.print_json(_document(request, outcome, resume if outcome.interrupted else None))
        return
    if quiet:
        return
    for line in outcome.lines:
        click.echo(printable(line))
    if outcome.interrupted:
        epochs = f"{outcome.epochs} epoch{'' if outcome.epochs == 1 else 's'}"
        click.echo(f"Interrupted after {epochs}; resume with:\n  {resume}")
    elif outcome.weights is not None:
        _show_model(request, outcome, outcome.weights, paper)


def _show_model(request: RunRequest, outcome: Outcome, weights: Path, paper: Mapping[str, float]) -> None:
    """Print the model's metrics, where it is, and how to use it."""
    from musictagger.cli import render
    from musictagger.cli.metrics import measured

    console = render.console()
    for table in measured(outcome.card.metrics if outcome.card else {}, paper):
        console.print(table)
    if outcome.report is not None:
        click.echo(f"Report  {printable(outcome.report)}")
    click.echo(f"Model   {printable(weights)}")
    click.echo(f"Use it  {scan_line(request, weights)}")


def scan_line(request: RunRequest, weights: Path) -> str:
    """Return the command that tags music with the new model: by name if that finds it, else by path."""
    from musictagger.models.find import find_models

    found = {model.name: model.weights for model in find_models(request.settings.model_folders)}
    known = found.get(request.name) == weights
    plugins = [text for folder in request.settings.plugin_dir for text in ("--plugin-dir", str(folder))]
    model = request.name if known else str(weights)
    return f"{shlex.join(['musictagger', 'scan', *plugins, '--model', model])} ~/Music"


def _document(request: RunRequest, outcome: Outcome, resume: str | None) -> dict[str, Any]:
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
