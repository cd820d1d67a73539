"""`musictagger compare`: several models on the same music."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from musictagger.cli import documents
from musictagger.cli.labelled import measuring, measuring_options, read_labelled, require_writable
from musictagger.cli.options import ANY_PATH, json_output, pass_settings, plugin_options
from musictagger.errors import BadRequestError, printable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from musictagger.config import Settings
    from musictagger.evaluation.bootstrap import Interval
    from musictagger.evaluation.compare import Comparison, Contender
    from musictagger.evaluation.speed import Speed
    from musictagger.progress import Progress

SPEED_ROUNDS = 5
"""Rounds in which all models are timed in turns."""


@click.command("compare")
@click.argument("models", nargs=-1, required=True, metavar="MODEL MODEL...")
@measuring_options
@click.option("--no-speed", is_flag=True, help="Do not measure how fast the models are.")
@click.option("--html", type=ANY_PATH, metavar="FILE", help="Write the table as HTML.")
@click.option("--quiet", is_flag=True, help="Do not show progress.")
@json_output
@plugin_options
@pass_settings
def command(
    models: tuple[str, ...],
    split: Any,
    no_speed: bool,
    html: Path | None,
    quiet: bool,
    as_json: bool,
    settings: Settings,
    **flags: Any,
) -> int:
    """Compare models on the same labelled music.

    MODEL is a name or a file. All models are measured on the same tracks and the tags that all of them have.
    Differences are to the first model, with 95 % intervals: where one does not include 0, the models differ on
    other tracks of this kind too. Speed is that of the network alone, without decoding, measured in turns.
    """
    from musictagger.cli import render
    from musictagger.evaluation.compare import compare

    require_writable(html)
    with measuring(quiet) as reporter:
        dataset = read_labelled(flags, settings)
        contenders = _contenders(models, settings, reporter)
        rounds = 0 if no_speed else SPEED_ROUNDS
        found = compare(contenders, dataset, split, settings, speed_rounds=rounds, progress=reporter)
    if html is not None:
        _write_html(found, html)
    if as_json:
        documents.print_json({"schema": documents.COMPARISON, **found.to_json()})
    else:
        render.console().print(_rendered(found))
    return 0


def _contenders(names: Sequence[str], settings: Settings, progress: Progress) -> list[Contender]:
    from musictagger.evaluation.compare import Contender
    from musictagger.models.find import find_model, find_or_pull
    from musictagger.models.weights import load_model

    if len(names) < 2:
        raise BadRequestError("name at least two models; `musictagger evaluate` measures one")
    # Check all names first, so that a typing error in the last one is found before the others are loaded.
    if len({find_model(name, settings.model_folders) or name for name in names}) < len(names):
        raise BadRequestError("the same model is named twice; name each once")
    found = [find_or_pull(name, settings.model_folders, progress) for name in names]
    return [Contender(load_model(weights, settings.plugin_folders), weights) for weights in found]


def _rendered(found: Comparison) -> RenderableType:
    """The lines and the table, for the terminal and for HTML."""
    from rich.console import Group
    from rich.text import Text

    from musictagger.cli.metrics import overlap_warning

    lines = [f"{found.dataset}, {found.split}: {found.tracks:,} tracks, {len(found.tags)} tags"]
    reasons = Counter(found.left_out.values())
    lines += [f"{count:,} left out: {reason}" for reason, count in reasons.most_common(5)]
    if found.only_some:
        lines.append(f"not known to every model: {', '.join(found.only_some)}")
    lines += [overlap_warning(model.name, model.overlap) for model in found.models if model.overlap]
    return Group(Text("\n".join([*map(printable, lines), ""])), _table(found))


def _table(found: Comparison) -> RenderableType:
    from rich.markup import escape

    from musictagger.cli import render
    from musictagger.cli.metrics import interval_text, title

    table = render.table("")
    for model in found.models:
        table.add_column(escape(model.name), justify="right", overflow="fold")
    for name in found.metrics:
        metrics = [model.metrics[name] for model in found.models]
        best = max((metric.value for metric in metrics if metric.value is not None), default=None)
        texts = [(f"[bold]{interval_text(each)}" if each.value == best else interval_text(each)) for each in metrics]
        table.add_row(title(name), *texts)
        differences = [model.difference[name] if model.difference else None for model in found.models]
        table.add_row("  minus the first", *map(_difference, differences), style="dim")
    table.add_row("Backbone", *(model.backbone for model in found.models))
    table.add_row("Parameters", *(f"{model.parameters:,}" for model in found.models))
    table.add_row("File", *(render.size(model.file_bytes) for model in found.models))
    if any(model.speed for model in found.models):
        table.add_row(f"Speed on {found.device}", *(_speed(model.speed) for model in found.models))
    return table


def _difference(metric: Interval | None) -> str:
    from musictagger.cli.metrics import interval_text

    return "" if metric is None or metric.value is None else interval_text(metric, "+")


def _speed(speed: Speed | None) -> str:
    return "" if speed is None else f"{speed.realtime:,.0f} x real time ({speed.ratio:.2f} of the first)"


def _write_html(found: Comparison, path: Path) -> None:
    import io

    from rich.console import Console

    console = Console(record=True, file=io.StringIO(), width=60 + 34 * len(found.models), highlight=False)
    console.print(_rendered(found))
    try:
        path.write_text(console.export_html(), encoding="utf-8")
    except OSError as error:
        raise BadRequestError(f"{printable(path)}: cannot be written: {error.strerror}") from error
