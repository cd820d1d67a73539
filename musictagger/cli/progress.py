"""Reporters of progress on standard error: a live display, plain lines for a log, or failures only."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from rich import progress as bars
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from musictagger.cli.render import amount, duration, is_number, metric_text, table
from musictagger.errors import printable
from musictagger.progress import Progress

LINE_EVERY_S = 10.0
"""Time between two progress lines in a log."""
EPOCHS_SHOWN = 12
"""Rows of the live table: the last ones, so that it fits on a terminal."""
_SPEED = ("seconds", "windows_per_s")
_NO_METRIC = frozenset({"epoch", "best", "lr", "loader_share", *_SPEED})
_EPOCH = re.compile(r"epoch (\d+) of (\d+)")


def first_process() -> bool:
    """Return whether this process reports: of those that torchrun starts, only the first does."""
    return os.environ.get("RANK", "0") == "0"


class Quiet(Progress):
    """Print failures only; the base of the other reporters."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._stage, self._total, self._unit = "", 0, ""
        self._started_s = clock()
        self._first: tuple[float, int] | None = None
        self._epoch_s: list[float] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the display; call it before anything else is printed. The next stage shows it again."""

    def start(self, stage: str, total: int | None, unit: str) -> None:
        self._stage, self._total, self._unit = stage, total or 0, unit
        self._started_s = self._clock()
        self._first = None

    def epoch(self, record: Mapping[str, Any]) -> None:
        self._epoch_s.append(float(record.get("seconds", 0.0)))

    def failed(self, path: Path, reason: str) -> None:
        self._console.print(escape(f"{printable(path)}: {printable(reason)}"), style="red", soft_wrap=True)

    def _metrics(self, metrics: Mapping[str, float]) -> list[str]:
        """The metrics as texts. `audio_s`, the seconds of audio processed in the stage, also gives its speed."""
        texts = [metric_text(name, value) for name, value in metrics.items()]
        if "audio_s" in metrics:
            elapsed_s = max(self._clock() - self._started_s, 1e-9)
            texts.append(f"{metrics['audio_s'] / elapsed_s:,.0f} x real time")
        return texts

    def _left(self, done: int) -> list[str]:
        """The time left in the stage, at the speed since its first report: a resumed stage does not start at 0."""
        now_s = self._clock()
        self._first = first_s, before = self._first or (now_s, done)
        if done <= before or not self._total:
            return []
        return [f"{duration((now_s - first_s) / (done - before) * (self._total - done))} left"]

    def _later_epochs(self) -> list[str]:
        """The longest time that the epochs after this one can take, from the mean of the finished ones."""
        stage = _EPOCH.match(self._stage)
        if not stage or not self._epoch_s:
            return []
        mean_s = sum(self._epoch_s) / len(self._epoch_s)
        return [f"then {duration((int(stage[2]) - int(stage[1])) * mean_s)} at most"]


class Lines(Quiet):
    """For logs and pipes: at most one line every ten seconds, and one for each epoch."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(console, clock)
        self._line_s = clock()

    def say(self, text: str) -> None:
        self._console.print(escape(text), soft_wrap=True)

    def advance(self, done: int, **metrics: float) -> None:
        left = self._left(done)
        if self._clock() - self._line_s < LINE_EVERY_S:
            return
        self._line_s = self._clock()
        stage = f"{self._stage}: {amount(done, self._total, self._unit)}"
        self.say(", ".join([stage, *self._metrics(metrics), *left]))

    def epoch(self, record: Mapping[str, Any]) -> None:
        super().epoch(record)
        self._line_s = self._clock()
        self.say(epoch_text(record))


class _Amount(bars.ProgressColumn):
    """`40 of 100 windows`, `3.1 MB of 45.2 MB`."""

    def render(self, task: bars.Task) -> Text:
        return Text(amount(int(task.completed), int(task.total or 0), task.fields["unit"]), no_wrap=True)


class Display(Quiet):
    """For a terminal: the finished epochs above a bar with the stage, its metrics and the time left."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(console, clock)
        self._records: list[Mapping[str, Any]] = []
        self._line = ""
        self._bar = bars.Progress(
            bars.SpinnerColumn(),
            bars.TextColumn("{task.description}"),
            bars.BarColumn(bar_width=None),
            _Amount(),
            bars.TimeRemainingColumn(),
            console=console,
        )
        self._task = self._bar.add_task("", unit="")
        self._live = Live(console=console, transient=True, refresh_per_second=8, get_renderable=self._drawn)

    def close(self) -> None:
        """Remove the display; the table of epochs stays on the screen."""
        self._live.stop()
        if self._records:
            self._console.print(epoch_table(shown_epochs(self._records)))
            self._records.clear()

    def say(self, text: str) -> None:
        self._console.print(escape(text), style="dim", soft_wrap=True)

    def start(self, stage: str, total: int | None, unit: str) -> None:
        super().start(stage, total, unit)
        self._line = ""
        for task in self._bar.task_ids:
            self._bar.remove_task(task)
        self._task = self._bar.add_task(escape(stage), total=total or None, unit=unit)
        self._live.start()

    def advance(self, done: int, **metrics: float) -> None:
        self._bar.update(self._task, completed=done)
        self._line = ", ".join([*self._metrics(metrics), *self._later_epochs()])

    def epoch(self, record: Mapping[str, Any]) -> None:
        super().epoch(record)
        self._records.append(record)

    def _drawn(self) -> Group:
        epochs = [epoch_table(shown_epochs(self._records))] if self._records else []
        return Group(*epochs, self._bar, *([f"  {escape(self._line)}"] if self._line else []))


def reporter(quiet: bool) -> Quiet:
    """Return the reporter for this process: quiet if requested, else what standard error can display."""
    console = Console(stderr=True, quiet=not first_process(), highlight=False, emoji=False)
    if quiet or not first_process():
        return Quiet(console)
    return Display(console) if console.is_terminal else Lines(console)


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
