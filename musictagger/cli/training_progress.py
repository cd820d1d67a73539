"""How a training run is told: a live bar and the epochs so far on a terminal, plain lines in a log, or nothing."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from musictagger.cli.progress import LINE_EVERY_S

EPOCHS_SHOWN = 12
"""Rows of the live table: the last ones, so that it never outgrows a terminal."""
_STAGE = re.compile(r"epoch (\d+) of (\d+)")
_TIMES = ("seconds", "windows_per_s", "loader_share")
_OWN = frozenset({"epoch", "best", "lr", *_TIMES})


def first_process() -> bool:
    """Whether this is the process that speaks: all but the first of those that torchrun starts are silent."""
    return os.environ.get("RANK", "0") == "0"


class QuietProgress:
    """Tells nothing; the base of the others."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._what, self._unit = "", ""
        self._total = 0
        self._began: tuple[float, int] | None = None
        self._epoch_s: list[float] = []

    stopping = False

    def failed(self, path: Path, reason: str) -> None:
        """See progress.Progress."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take the display away; called before anything else is printed."""

    def say(self, text: str) -> None:
        """See training.progress.Progress."""

    def start(self, stage: str, total: int | None, unit: str) -> None:
        """See training.progress.Progress."""
        self._what, self._total, self._unit = stage, total or 0, unit
        self._began = None

    def advance(self, done: int, **figures: float) -> None:
        """See training.progress.Progress."""

    def epoch(self, record: Mapping[str, Any]) -> None:
        """See training.progress.Progress."""
        self._epoch_s.append(float(record.get("seconds", 0.0)))

    def _left_s(self, done: int) -> float | None:
        """Seconds until the stage is over, by the pace since its first word: a part may have been done long before."""
        now_s = self._clock()
        self._began = began_s, before = self._began or (now_s, done)
        return (now_s - began_s) / (done - before) * (self._total - done) if done > before else None

    def _all_epochs_s(self) -> float | None:
        """Seconds that the epochs after this one take at most, from the mean of those that are over."""
        stage = _STAGE.match(self._what)
        if not stage or not self._epoch_s:
            return None
        return (int(stage[2]) - int(stage[1])) * sum(self._epoch_s) / len(self._epoch_s)


class LineProgress(QuietProgress):
    """For logs and pipes: a line every ten seconds at most, and one for each epoch."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(console, clock)
        self._line_s = clock()

    def say(self, text: str) -> None:
        """See QuietProgress."""
        self._console.print(escape(text), soft_wrap=True)

    def advance(self, done: int, **figures: float) -> None:
        """See QuietProgress."""
        now_s, left_s = self._clock(), self._left_s(done)
        if now_s - self._line_s < LINE_EVERY_S:
            return
        self._line_s = now_s
        left = [] if left_s is None else [f"{duration(left_s)} left"]
        parts = [f"{self._what}: {done} of {self._total} {self._unit}", *map(said, figures.items()), *left]
        self.say(", ".join(parts))

    def epoch(self, record: Mapping[str, Any]) -> None:
        """See QuietProgress."""
        super().epoch(record)
        self._line_s = self._clock()
        figures = [said((name, value)) for name, value in record.items() if name not in _OWN and _is_number(value)]
        times = [said((name, record[name])) for name in _TIMES[:2] if name in record]
        best = ", the best so far" if record.get("best") else ""
        self.say(f"epoch {record.get('epoch', '?')}: {', '.join([*figures, *times])}{best}")


class LiveProgress(QuietProgress):
    """For a terminal: the epochs so far above a bar with the stage, its figures and the time left."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(console, clock)
        self._records: list[Mapping[str, Any]] = []
        self._line = ""
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._progress.add_task("", total=None, unit="", visible=False)
        self._live = Live(console=console, transient=True, refresh_per_second=8, get_renderable=self._drawn)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def close(self) -> None:
        """See QuietProgress. The table of epochs stays."""
        if self._live.is_started:
            self._live.stop()
            if self._records:
                self._console.print(epoch_table(shown_epochs(self._records)))

    def say(self, text: str) -> None:
        """See QuietProgress."""
        self._console.print(escape(text), style="dim", soft_wrap=True)

    def start(self, stage: str, total: int | None, unit: str) -> None:
        """See QuietProgress."""
        super().start(stage, total, unit)
        self._line = ""
        self._progress.reset(self._task, total=total or None, description=escape(stage), unit=unit, visible=True)

    def advance(self, done: int, **figures: float) -> None:
        """See QuietProgress."""
        self._progress.update(self._task, completed=done)
        parts = [said(figure) for figure in figures.items()]
        after_s = self._all_epochs_s()
        self._line = ", ".join([*parts, *([] if after_s is None else [f"then {duration(after_s)} at most"])])

    def epoch(self, record: Mapping[str, Any]) -> None:
        """See QuietProgress."""
        super().epoch(record)
        self._records.append(record)

    def _drawn(self) -> Group:
        table = [epoch_table(shown_epochs(self._records))] if self._records else []
        return Group(*table, self._progress, *([f"  {escape(self._line)}"] if self._line else []))


def shown_epochs(records: list[Mapping[str, Any]], most: int = EPOCHS_SHOWN) -> list[Mapping[str, Any]]:
    """The last epochs, and the best one even if it was long ago."""
    tail = records[-most:]
    best = next((record for record in reversed(records) if record.get("best")), None)
    return tail if best is None or best in tail else [best, *tail[1:]]


def epoch_table(records: list[Mapping[str, Any]]) -> Table:
    """One row an epoch; the best of them is bright."""
    names = list(dict.fromkeys(name for record in records for name in record if name not in _OWN))
    names = [name for name in names if any(_is_number(record.get(name)) for record in records)]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("epoch", *names, "lr", "seconds"):
        table.add_column(name.replace("_", " "), justify="right", no_wrap=True)
    best = max((record["epoch"] for record in records if record.get("best")), default=None)
    for record in records:
        cells = [_cell(name, record.get(name)) for name in (*names, "lr", "seconds")]
        table.add_row(str(record.get("epoch", "")), *cells, style="bold green" if record.get("epoch") == best else "")
    return table


def _cell(name: str, value: Any) -> str:
    """Of one width in a column, so that they can be compared at a glance."""
    if not _is_number(value):
        return ""
    return f"{value:.2e}" if name == "lr" else f"{value:.1f}" if name == "seconds" else f"{value:.4f}"


def said(figure: tuple[str, Any]) -> str:
    """("windows_per_s", 35.2) -> `35.2 windows/s`, ("loss", 0.2134) -> `loss 0.2134`."""
    name, value = figure
    if name == "seconds":
        return duration(float(value))
    if name.endswith("_per_s"):
        return f"{number(value)} {name.removesuffix('_per_s').replace('_', ' ')}/s"
    plain = name.replace("_", " ")
    return f"{number(value)} {plain}" if plain == "x real time" else f"{plain} {number(value)}"


def number(value: Any) -> str:
    """Four digits that count; nothing for what is no number."""
    return f"{value:.4g}" if _is_number(value) else ""


def duration(seconds: float) -> str:
    """42 -> `42 s`, 400 -> `7 min`, 9000 -> `2 h 30 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def reporter(quiet: bool) -> QuietProgress:
    """The one that fits where standard error goes to, and which process this is."""
    console = Console(stderr=True, highlight=False)
    if quiet or not first_process():
        return QuietProgress(console)
    return LiveProgress(console) if console.is_terminal else LineProgress(console)
