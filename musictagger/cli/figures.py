"""How figures of a model are shown: with intervals, the best and the worst tags, which genre is taken for which."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

EACH_END = 5
"""Tags shown from the best and from the worst on."""
MOST_GENRES = 20
"""A table of more genres than these is wider than any terminal."""
_TITLES = {"auc": "AUC", "f1": "F1", "ndcg@50": "NDCG@50"}


def title(name: str) -> str:
    """`average_precision` -> `Average precision`."""
    return _TITLES.get(name) or name.replace("_", " ").capitalize()


def is_figure(value: Any) -> bool:
    """Whether it is {"value", "low", "high"}."""
    return isinstance(value, Mapping) and {"value", "low", "high"} <= set(value)


def figure_text(figure: Mapping[str, float | None]) -> str:
    """{"value": 0.8, "low": 0.75, "high": 0.85} -> `0.800 (0.750 to 0.850)`."""
    if figure["value"] is None:
        return "-"
    interval = "" if figure["low"] is None else f" ({figure['low']:.3f} to {figure['high']:.3f})"
    return f"{figure['value']:.3f}{interval}"


def too_good(model: str, heard: int) -> str:
    """A warning for figures on tracks that a model knows."""
    return (
        f"{model} was trained on {heard:,} of these tracks, so that its figures are too good; "
        "split as its training did (--dataset-option, see its card), or take other tracks"
    )


def measured(metrics: Mapping[str, Any], paper: Mapping[str, float]) -> Iterator[RenderableType]:
    """What a card's `metrics` says, a table for each data it was measured on, with what a paper measured beside it."""
    for where, values in sorted(metrics.items()):
        figures = {name: value for name, value in values.items() if is_figure(value)}
        if figures:
            tracks = f", {values['tracks']:,} tracks" if isinstance(values.get("tracks"), int) else ""
            yield Text(f"\nMeasured on {where}{tracks}", "bold")
            yield headline_table(figures, paper)
            yield ""


def headline_table(
    figures: Mapping[str, Mapping[str, float | None]], paper: Mapping[str, float] | None = None
) -> Table:
    """One row a figure; with `paper`, what a paper measured beside it."""
    table = Table("Figure", box=None, pad_edge=False, header_style="bold")
    table.add_column("Value", justify="right")
    table.add_column("95 % interval")
    if paper:
        table.add_column("Paper", justify="right")
    for name, figure in figures.items():
        value = "-" if figure["value"] is None else f"{figure['value']:.3f}"
        interval = "" if figure["low"] is None else f"{figure['low']:.3f} to {figure['high']:.3f}"
        theirs = [f"{paper[name]:.3f}" if name in paper else ""] if paper else []
        table.add_row(title(name), value, interval, *theirs)
    return table


def tag_table(figures: Mapping[str, Any]) -> Table:
    """The tags that are told best and worst, by AUC; `figures` are those of report_data.tag_figures."""
    each = figures["auc"]["per_tag"]
    known = sorted((name for name in each if each[name]["value"] is not None), key=lambda name: -each[name]["value"])
    table = Table("Tag", box=None, pad_edge=False, header_style="bold")
    for heading in ("Tracks", "AUC", "Average precision", "Found", "Wrong"):
        table.add_column(heading, justify="right")
    best, worst = ends(known)
    for name in (*best, *([None] if worst and len(known) > 2 * EACH_END else []), *worst):
        table.add_row(*(["..."] if name is None else _tag_row(name, figures)))
    return table


def ends(names: Sequence[str], each: int = EACH_END) -> tuple[Sequence[str], Sequence[str]]:
    """The first and the last ones, each name once."""
    return names[:each], names[max(each, len(names) - each) :]


def _tag_row(name: str, figures: Mapping[str, Any]) -> list[str]:
    right, wrong, missed, _ = figures["confusion"][name]
    shown = [figures[metric]["per_tag"][name]["value"] for metric in ("auc", "average_precision")]
    return [
        escape(name),
        f"{right + missed:,}",
        *("-" if x is None else f"{x:.3f}" for x in shown),
        f"{right:,}",
        f"{wrong:,}",
    ]


def confusion_table(names: Sequence[str], matrix: Sequence[Sequence[int]]) -> Table:
    """A row for each true genre: how many of its tracks were taken for which. Columns have the rows' numbers."""
    table = Table("", "Genre", box=None, pad_edge=False, header_style="bold")
    for number in range(1, len(names) + 1):
        table.add_column(str(number), justify="right", no_wrap=True)
    for number, (name, row) in enumerate(zip(names, matrix, strict=True), 1):
        cells = [_cell(count, number == column) for column, count in enumerate(row, 1)]
        table.add_row(str(number), escape(name), *cells)
    return table


def _cell(count: int, right: bool) -> Text:
    return Text(str(count) if count else ".", "bold green" if right else "" if count else "dim")
