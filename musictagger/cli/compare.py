"""`musictagger compare`: models side by side on the same music."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from musictagger.cli.labelled import measuring_options, read_labelled, require_place
from musictagger.cli.options import ExistingPath, json_output, pass_settings, plugin_options, stoppable
from musictagger.errors import EXIT_INTERRUPTED, BadRequestError, MusictaggerError, printable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from musictagger.config import Settings
    from musictagger.evaluation.compare import Contender

SPEED_ROUNDS = 5
"""Turns in which all models are timed."""


@click.command("compare")
@click.argument("models", nargs=-1, required=True, metavar="MODEL MODEL...")
@measuring_options
@click.option("--no-speed", is_flag=True, help="Do not measure how fast the models are.")
@click.option("--html", type=ExistingPath, metavar="FILE", help="Write the table as HTML.")
@click.option("--quiet", is_flag=True, help="Do not say how far it is.")
@json_output
@plugin_options
@pass_settings
def command(
    models: tuple[str, ...],
    split: str,
    no_speed: bool,
    html: Path | None,
    quiet: bool,
    as_json: bool,
    settings: Settings,
    **flags: Any,
) -> int:
    """Compare models (names or files) on labelled music: the same tracks, the tags that all of them have.

    Differences are to the first model, with 95 % intervals: one that does not reach 0 is no accident of which tracks
    were asked. Speed is of the network alone, without decoding, measured in turns.
    """
    from musictagger.cli import documents, progress
    from musictagger.evaluation.compare import compare

    require_place(html)
    with progress.reporter(quiet) as reporter, stoppable(reporter):
        dataset = read_labelled(flags, settings)
        contenders = _contenders(models, settings, reporter)
        try:
            found = compare(
                contenders,
                dataset,
                split,  # type: ignore[arg-type]
                device=settings.device,
                batch_frames=settings.batch_size,
                trim_edges_s=settings.trim_edges,
                frames=settings.frames,
                aggregator=settings.aggregate,
                workers=settings.workers,
                timeout_s=settings.decode_timeout,
                speed_rounds=0 if no_speed else SPEED_ROUNDS,
                progress=reporter,
                stop=lambda: reporter.stopping,
            )
        except MusictaggerError as error:
            if not reporter.stopping:
                raise
            reporter.say(str(error))
            return EXIT_INTERRUPTED
        reporter.close()
    if html is not None:
        _write_html(found, html)
    if as_json:
        documents.print_json({"schema": documents.COMPARISON, **found})
    else:
        _print(found)
    return 0


def _contenders(names: Sequence[str], settings: Settings, reporter: Any) -> list[Contender]:
    from musictagger.evaluation.compare import Contender
    from musictagger.models.find import find_model, find_or_pull
    from musictagger.models.weights import load_model

    if len(names) < 2:
        raise BadRequestError("name at least two models; `musictagger evaluate` measures one")
    # All names first: a typing error in the last one should not cost the loading of the others.
    if len({find_model(name, settings.model_folders) or name for name in names}) < len(names):
        raise BadRequestError("the same model is named twice; name each once")
    found = [find_or_pull(name, settings.model_folders, reporter) for name in names]
    return [Contender(load_model(weights, settings.plugin_folders), weights) for weights in found]


def _parts(found: Mapping[str, Any]) -> list[RenderableType]:
    """What is printed, and what goes into the HTML file."""
    from rich.text import Text

    from musictagger.cli.figures import too_good

    lines = [f"{found['dataset']}, {found['split']}: {found['tracks']:,} tracks, {len(found['tags'])} tags"]
    reasons = Counter(found["left_out"].values())
    lines += [f"{count:,} left out: {reason}" for reason, count in reasons.most_common(5)]
    if found["only_some"]:
        lines.append(f"not known to every model: {', '.join(found['only_some'])}")
    heard = [(model["name"], model["heard_in_training"]) for model in found["models"]]
    lines += [too_good(name, count) for name, count in heard if count]
    return [Text("\n".join([*map(printable, lines), ""])), _table(found)]


def _table(found: Mapping[str, Any]) -> RenderableType:
    from rich.markup import escape
    from rich.table import Table

    from musictagger.cli.figures import figure_text, title

    table = Table("", box=None, pad_edge=False, header_style="bold")
    for model in found["models"]:
        table.add_column(escape(model["name"]), justify="right", overflow="fold")
    for metric in found["metrics"]:
        figures = [model["figures"][metric] for model in found["models"]]
        best = max((figure["value"] for figure in figures if figure["value"] is not None), default=None)
        cells = [_bold(figure_text(figure), figure["value"] == best) for figure in figures]
        table.add_row(title(metric), *cells)
        table.add_row("  minus the first", *(_difference(model, metric) for model in found["models"]), style="dim")
    table.add_row("Backbone", *(model["backbone"] for model in found["models"]))
    table.add_row("Parameters", *(f"{model['parameters']:,}" for model in found["models"]))
    table.add_row("File", *(_size(model["file_bytes"]) for model in found["models"]))
    if any(model["speed"] for model in found["models"]):
        table.add_row(f"Speed on {found['device']}", *(_speed(model["speed"]) for model in found["models"]))
    return table


def _bold(text: str, best: bool) -> str:
    return f"[bold]{text}[/bold]" if best else text


def _difference(model: Mapping[str, Any], metric: str) -> str:
    figure = (model["difference"] or {}).get(metric)
    if not figure or figure["value"] is None:
        return ""
    interval = "" if figure["low"] is None else f" ({figure['low']:+.3f} to {figure['high']:+.3f})"
    return f"{figure['value']:+.3f}{interval}"


def _speed(speed: Mapping[str, float] | None) -> str:
    if not speed:
        return ""
    return f"{speed['realtime']:,.0f} x real time ({speed['ratio']:.2f} of the first)"


def _size(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"


def _print(found: Mapping[str, Any]) -> None:
    from musictagger.cli import render

    console = render.console()
    for part in _parts(found):
        console.print(part)


def _write_html(found: Mapping[str, Any], path: Path) -> None:
    import io

    from rich.console import Console

    console = Console(record=True, file=io.StringIO(), width=60 + 34 * len(found["models"]), highlight=False)
    for part in _parts(found):
        console.print(part)
    try:
        path.write_text(console.export_html(), encoding="utf-8")
    except OSError as error:
        raise BadRequestError(f"{printable(path)}: cannot be written: {error.strerror}") from error
