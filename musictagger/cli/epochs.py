"""The finished epochs of a training: a line each in a log, a table on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from musictagger.cli.render import is_number, metric_text, table

EPOCHS_SHOWN = 12
"""Rows of the live table: the last ones, so that it fits on a terminal."""
_SPEED = ("seconds", "windows_per_s")
_NO_METRIC = frozenset({"epoch", "best", "lr", "loader_share", *_SPEED})


def epoch_text(record: Mapping[str, Any]) -> str:
    """Return the line of an epoch in a log: its metrics, how long it took, and whether it is the best so far."""
    metrics = [name for name, value in record.items() if name not in _NO_METRIC and is_number(value)]
    texts = [metric_text(name, record[name]) for name in (*metrics, *(name for name in _SPEED if name in record))]
    best = ", the best so far" if record.get("best") else ""
    return f"epoch {record.get('epoch', '?')}: {', '.join(texts)}{best}"


def shown_epochs(records: Sequence[Mapping[str, Any]], rows: int = EPOCHS_SHOWN) -> Sequence[Mapping[str, Any]]:
    """Return the last epochs, and the best one even if it was earlier."""
    tail = records[-rows:]
    best = next((record for record in reversed(records) if record.get("best")), None)
    return tail if best is None or best in tail else [best, *tail[1:]]


def epoch_table(records: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table with a row for each epoch; the best one is highlighted."""
    names = dict.fromkeys(name for record in records for name in record if name not in _NO_METRIC)
    columns = [*(name for name in names if any(is_number(record.get(name)) for record in records)), "lr", "seconds"]
    titles = ("epoch", *(name.replace("_", " ") for name in columns))
    rows = table(*titles, right=titles)
    best = max((record["epoch"] for record in records if record.get("best")), default=None)
    for record in records:
        cells = [_cell(name, record.get(name)) for name in columns]
        rows.add_row(str(record.get("epoch", "")), *cells, style="bold green" if record.get("epoch") == best else "")
    return rows


def _cell(name: str, value: Any) -> str:
    if not is_number(value):
        return ""
    # All values of a column have the same number of decimals.
    return f"{value:.2e}" if name == "lr" else f"{value:.1f}" if name == "seconds" else f"{value:.4f}"
