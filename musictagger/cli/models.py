"""`musictagger models`: the models on this machine, and those that can be fetched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from musictagger.cli.options import debug_option, json_output


@click.command("models")
@json_output
@debug_option
def command(as_json: bool) -> int:
    """List the models found, where they lie, and the published ones that `weights pull` fetches."""
    from musictagger.cli import documents
    from musictagger.config import load_settings
    from musictagger.models import catalogue
    from musictagger.models.find import DEFAULT, find_models

    settings = load_settings()
    models = find_models(settings.model_folders)
    here = {model.name for model in models}
    absent = [catalogue.entry(name) for name in catalogue.names() if name not in here]
    default = settings.model or DEFAULT
    if as_json:
        listed: list[dict[str, Any]] = [
            {"name": model.name, "weights": str(model.weights), "error": model.error or None}
            | ({} if model.card is None else {"card": model.card.to_json()})
            for model in models
        ]
        names = [entry.name for entry in absent]
        documents.print_json({"schema": documents.MODELS, "default": default, "models": listed, "published": names})
        return 0
    _print(models, absent, default)
    return 0


def _print(models: list[Any], absent: list[Any], default: str) -> None:
    from rich.table import Table

    from musictagger.cli import render

    table = Table("Model", "Backbone", box=None, pad_edge=False, header_style="bold")
    table.add_column("Tags", justify="right")
    table.add_column("Accuracy", no_wrap=True)
    table.add_column("Speed", no_wrap=True)
    table.add_column("Size", justify="right")
    table.add_column("Licence", overflow="ellipsis", no_wrap=True)
    table.add_column("Where", overflow="fold")
    figures = False
    for model in models:
        name = f"{model.name} (default)" if model.name == default else model.name
        if model.card is None:
            table.add_row(name, "broken", "", "", "", "", "", model.error, style="red")
            continue
        size = f"{model.size_bytes / 1e6:.1f} MB"
        licence = model.card.licence.partition(",")[0]
        where = render.home_short(model.weights)
        tags, backbone = str(len(model.card.tags)), model.card.backbone
        accuracy, speed = _accuracy(model.card.metrics), _speed(model.card.training)
        figures = figures or bool(accuracy or speed)
        table.add_row(name, backbone, tags, accuracy, speed, size, licence, where)
    for entry in absent:
        name = f"{entry.name} (default)" if entry.name == default else entry.name
        licence = entry.licence.partition(",")[0]
        hint = f"not here: musictagger weights pull {entry.name}"
        table.add_row(
            name, entry.backbone, str(len(entry.tags)), _accuracy(entry.metrics), "", "", licence, hint, style="dim"
        )
    render.console().print(table)
    if figures:
        click.echo(
            "Accuracy: as the card tells, on the data in brackets (of a model with teachers: how well it agrees with\n"
            "them); figures on different data do not compare. Speed: times real time, without decoding, where it was\n"
            "trained. `musictagger compare` measures both here."
        )


def _accuracy(metrics: Mapping[str, Any]) -> str:
    """The first figure of a card: the share of genres that are right, or the AUC over all tags."""
    for data, figures in metrics.items():
        for name, text in (("accuracy", "{:.0%} right"), ("auc", "AUC {:.3f}")):
            found = figures.get(name) if isinstance(figures, Mapping) else None
            value = found.get("value") if isinstance(found, Mapping) else None
            if isinstance(value, float):
                return f"{text.format(value)} ({data})"
    published = metrics.get("roc_auc")
    return f"AUC {published:.3f} (by its authors)" if isinstance(published, float) else ""


def _speed(training: Mapping[str, Any]) -> str:
    speed = training.get("speed")
    if not isinstance(speed, Mapping) or not isinstance(speed.get("x_real_time"), int | float):
        return ""
    return f"{speed['x_real_time']:,.0f} x ({str(speed.get('device', '?')).partition(',')[0]})"
