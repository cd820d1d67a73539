"""`musictagger models`: the models on this machine, and those that can be fetched."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from musictagger.cli.options import debug_option, json_output
from musictagger.errors import printable

if TYPE_CHECKING:
    from musictagger.models.card import Card
    from musictagger.models.find import FoundModel
    from musictagger.models.published.catalogue import CatalogueEntry


@click.command("models")
@json_output
@debug_option
def command(as_json: bool) -> int:
    """List the installed models and the published ones.

    `musictagger weights pull NAME` fetches a published model.
    """
    from musictagger.cli import documents
    from musictagger.config import load_settings
    from musictagger.models.find import DEFAULT, find_models, unreadable, verified
    from musictagger.models.published import catalogue

    settings = load_settings()
    models = [verified(model) for model in find_models(settings.model_folders)]
    for reason in unreadable(settings.model_folders):
        click.echo(f"musictagger: {reason}", err=True)
    here = {model.name for model in models}
    absent = [catalogue.entry(name) for name in catalogue.names() if name not in here]
    default = settings.model or DEFAULT
    if as_json:
        listed: list[dict[str, Any]] = [
            {
                "name": model.name,
                "weights": str(model.weights),
                "error": model.error or None,
                "hides": [str(hidden) for hidden in model.hides],
            }
            | ({} if model.card is None else {"card": model.card.to_json()})
            for model in models
        ]
        names = [entry.name for entry in absent]
        documents.print_json({"schema": documents.MODELS, "default": default, "models": listed, "published": names})
        return 0
    _print(models, absent, default, settings.model_folders[0])
    return 0


def _print(models: Sequence[FoundModel], absent: Sequence[CatalogueEntry], default: str, folder: Path) -> None:
    from rich.text import Text

    from musictagger.cli import render

    console = render.console()

    def paragraph(text: str, style: str = "", indent: str = "") -> None:
        # Paths and other words longer than a line are left to the terminal to wrap, so that they can be copied whole.
        wrapped = textwrap.wrap(
            text, min(console.width, 110), break_long_words=False, break_on_hyphens=False, subsequent_indent=indent
        )
        for line in wrapped:
            console.print(Text(line, style), soft_wrap=True)

    def table(columns: dict[str, list[str]], style: str = "") -> None:
        titles, *lines = render.listing(columns, console.width, right=("Size", "Download", "Tags"))
        console.print(Text(titles, "bold"), soft_wrap=True)
        for line in lines:
            console.print(Text(line, style), soft_wrap=True)

    usable = [(model, model.card) for model in models if model.card is not None]
    columns = _columns([_facts(_marked_name(model, default), model.size_bytes, card) for model, card in usable])
    columns["Where"] = [_where(model.weights, folder) for model, _ in usable]
    table(columns)
    console.print()
    for model in models:
        if model.card is None:
            paragraph(f"{_marked_name(model, default)} is broken: {model.error}", "red", "  ")
        for hidden in model.hides:
            hides = f"{printable(model.name)} hides another model of that name; give its path: {printable(hidden)}"
            paragraph(hides, indent="  ")
    paragraph(f"Models that do not come with the program are in {render.home_short(folder)}")
    if reason := _why_none_is_default(models, absent, default):
        paragraph(reason, "red")
    if absent:
        console.print()
        paragraph("Published, not installed; `musictagger weights pull NAME` fetches one:")
        published = _columns([_facts(entry.name, entry.source.size_bytes, entry) for entry in absent])
        # A download may contain more than the weights that are kept.
        table({"Download" if title == "Size" else title: cells for title, cells in published.items()}, "dim")
    if columns["Metric"]:
        console.print()
        paragraph(_EXPLANATION)


_EXPLANATION = (
    "Metric: from the card, on the data in brackets (for a model with teachers: agreement with them); "
    "metrics on different data cannot be compared. Speed: times real time, without decoding, on the device in "
    "brackets; the models that come with the program were measured together. `musictagger compare` measures both on "
    "your machine."
)


def _marked_name(model: FoundModel, default: str) -> str:
    return printable(model.name) + (" (default)" if _is_default(model, default) else "")


def _where(weights: Path, folder: Path) -> str:
    return str(weights.relative_to(folder)) if weights.is_relative_to(folder) else "with the program"


def _is_default(model: FoundModel, default: str) -> bool:
    is_path = "/" in default
    return default == model.name or (is_path and Path(default).expanduser().absolute() == model.weights.absolute())


def _why_none_is_default(models: Sequence[FoundModel], absent: Sequence[CatalogueEntry], default: str) -> str:
    """The message when no row is marked as the default; empty when one is."""
    if any(_is_default(model, default) for model in models):
        return ""
    named = f"The default, {printable(default)} (MUSICTAGGER_MODEL or config.toml names it),"
    if default in {entry.name for entry in absent}:
        return f"{named} is not installed yet; the next scan fetches it."
    exists = Path(default).expanduser().is_file() and (default.endswith(".safetensors") or "/" in default)
    return f"{named} is a file in another folder." if exists else f"{named} does not exist."


def _facts(name: str, size_bytes: int, of: Card | CatalogueEntry) -> dict[str, str]:
    """The cells of an installed or published model by title, the most important first."""
    from musictagger.cli import render

    return {
        "Model": name,
        "Metric": _metric(of.metrics),
        "Speed": _speed(of.training),
        "Size": render.size(size_bytes),
        "Tags": str(len(of.tags)),
        "Backbone": of.backbone,
        "Licence": of.licence.partition(",")[0],
    }


_TITLES = ("Model", "Metric", "Speed", "Size", "Tags", "Backbone", "Licence")


def _columns(rows: Sequence[Mapping[str, str]]) -> dict[str, list[str]]:
    return {title: [row[title] for row in rows] for title in _TITLES}


def _metric(metrics: Mapping[str, Any]) -> str:
    """The first metric of a card: the share of correct genres, or the AUC over all tags."""
    for data, measured in metrics.items():
        for name, text in (("accuracy", "{:.0%} right"), ("auc", "AUC {:.3f}")):
            metric = measured.get(name) if isinstance(measured, Mapping) else None
            value = metric.get("value") if isinstance(metric, Mapping) else None
            if isinstance(value, float) and 0 <= value <= 1:
                return f"{text.format(value)} ({data})"
    published = metrics.get("roc_auc")
    return f"AUC {published:.3f} (by its authors)" if isinstance(published, float) and 0 <= published <= 1 else ""


def _speed(training: Mapping[str, Any]) -> str:
    speed = training.get("speed")
    if not isinstance(speed, Mapping):
        return ""
    times = speed.get("x_real_time")
    if not isinstance(times, int | float) or not 0 < times < 1e9:
        return ""
    return f"{times:,.0f} x ({str(speed.get('device', '?')).partition(',')[0]})"
