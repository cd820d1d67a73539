"""Tables of metrics: with intervals, the best and the worst tags, and the confusion of genres."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from musictagger.cli.render import table
from musictagger.evaluation.bootstrap import Interval

if TYPE_CHECKING:
    from musictagger.evaluation.results import TagMetrics

EACH_END = 5
"""Tags shown from each end of the ranking."""
MAX_GENRES = 20
"""A confusion table of more genres is wider than any terminal."""
_TITLES = {"auc": "AUC", "f1": "F1", "ndcg@50": "NDCG@50"}


def title(name: str) -> str:
    """`average_precision` -> `Average precision`."""
    return _TITLES.get(name) or name.replace("_", " ").capitalize()


def interval_text(metric: Interval, sign: str = "") -> str:
    """`0.800 (0.750 to 0.850)`; with `sign` "+" the sign is always shown."""
    if metric.value is None:
        return "-"
    interval = "" if metric.low is None else f" ({metric.low:{sign}.3f} to {metric.high:{sign}.3f})"
    return f"{metric.value:{sign}.3f}{interval}"


def overlap_warning(model: str, overlap: int) -> str:
    """A warning about metrics on tracks that the model was trained on."""
    return (
        f"{model} was trained on {overlap:,} of these tracks, so its metrics are too good; "
        "use its training split (--dataset-option, see its card) or other tracks"
    )


def measured(metrics: Mapping[str, Any], paper: Mapping[str, float]) -> Iterator[RenderableType]:
    """A table of a card's `metrics` for each dataset it was measured on, beside those of a paper."""
    for where, values in sorted(metrics.items()):
        found = {name: each for name, value in values.items() if (each := Interval.from_json(value)) is not None}
        if found:
            tracks = f", {values['tracks']:,} tracks" if isinstance(values.get("tracks"), int) else ""
            yield Text(f"\nMeasured on {where}{tracks}", "bold")
            yield headline_table(found, paper)
            yield ""


def headline_table(metrics: Mapping[str, Interval], paper: Mapping[str, float] | None = None) -> Table:
    """One row for each metric; with `paper`, the paper's value beside it."""
    rows = table("Metric", "Value", "95 % interval", *(["Paper"] if paper else []), right=("Value", "Paper"))
    for name, metric in metrics.items():
        interval = "" if metric.low is None else f"{metric.low:.3f} to {metric.high:.3f}"
        theirs = [f"{paper[name]:.3f}" if name in paper else ""] if paper else []
        rows.add_row(title(name), _number(metric.value), interval, *theirs)
    return rows


def tag_table(metrics: TagMetrics) -> Table:
    """The tags with the highest and the lowest AUC."""
    aucs = {name: auc.value for name, auc in metrics.auc.per_tag.items() if auc.value is not None}
    ranked = sorted(aucs, key=lambda name: -aucs[name])
    counted = ("Tracks", "AUC", "Average precision", "Found", "Wrong")
    rows = table("Tag", *counted, right=counted)
    cells = [_tag_row(name, metrics) for name in ranked]
    if len(cells) > 2 * EACH_END:
        cells[EACH_END:-EACH_END] = [["..."]]
    for row in cells:
        rows.add_row(*row)
    return rows


def _tag_row(name: str, metrics: TagMetrics) -> list[str]:
    found, wrong, missed, _ = metrics.confusion[name]
    shown = (metric.per_tag[name].value for metric in (metrics.auc, metrics.average_precision))
    return [escape(name), f"{found + missed:,}", *map(_number, shown), f"{found:,}", f"{wrong:,}"]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def confusion_table(names: Sequence[str], matrix: Sequence[Sequence[int]]) -> Table:
    """A row for each true genre with its tracks by predicted genre. Columns are numbered like the rows."""
    numbers = [str(number) for number in range(1, len(names) + 1)]
    rows = table("", "Genre", *numbers, right=numbers)
    for number, (name, row) in enumerate(zip(names, matrix, strict=True), 1):
        cells = [_cell(count, number == column) for column, count in enumerate(row, 1)]
        rows.add_row(str(number), escape(name), *cells)
    return rows


def _cell(count: int, right: bool) -> Text:
    return Text(str(count) if count else ".", "bold green" if right else "" if count else "dim")
