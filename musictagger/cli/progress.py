"""How a scan is told: a live bar on a terminal, a plain line now and then in a log, or nothing."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from musictagger.errors import printable
from musictagger.pipeline.scan import FileOutcome

LINE_EVERY_S = 10.0
"""Between two progress lines in a log."""


class QuietReporter:
    """Says nothing but what failed; the base of the others."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started_s = time.monotonic()
        self._total = 0
        self._done = 0
        self._audio_s = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def looking(self, files: int) -> None:
        """See scan.Reporter."""

    def analysing(self, tracks: int) -> None:
        """See scan.Reporter."""
        self._total = tracks
        self._started_s = time.monotonic()

    def done(self, path: Path, outcome: FileOutcome, audio_s: float) -> None:
        """See scan.Reporter."""
        self._done += 1
        self._audio_s += audio_s

    def failed(self, path: Path, reason: str) -> None:
        """See scan.Reporter."""
        self._console.print(escape(f"{printable(path)}: {printable(reason)}"), style="red", soft_wrap=True)

    def close(self) -> None:
        """Take the display away; called before anything else is printed."""

    def say(self, text: str) -> None:
        """A line about what is going on."""

    def fetched(self, done: int, total: int) -> None:
        """So many bytes of a model have been fetched."""

    def _speed(self) -> str:
        elapsed_s = max(time.monotonic() - self._started_s, 1e-9)
        return f"{self._audio_s / 3600:.1f} h of audio, {self._audio_s / elapsed_s:.0f} x real time"


class LineReporter(QuietReporter):
    """For logs and pipes: one line every ten seconds."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._line_s = time.monotonic()

    def analysing(self, tracks: int) -> None:
        """See scan.Reporter."""
        super().analysing(tracks)
        self.say(f"{tracks} files to analyse")

    def done(self, path: Path, outcome: FileOutcome, audio_s: float) -> None:
        """See scan.Reporter."""
        super().done(path, outcome, audio_s)
        now_s = time.monotonic()
        if now_s - self._line_s >= LINE_EVERY_S:
            self._line_s = now_s
            left_s = (now_s - self._started_s) / self._done * (self._total - self._done)
            self.say(f"{self._done} of {self._total} files, {self._speed()}, {left_s / 60:.0f} min left")

    def say(self, text: str) -> None:
        """See QuietReporter."""
        self._console.print(escape(text), soft_wrap=True)


class LiveReporter(QuietReporter):
    """For a terminal: a bar with files, audio, speed and time left."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._download = Progress(TextColumn("{task.description}"), BarColumn(), DownloadColumn(), console=console)
        self._looking: TaskID | None = None
        self._scanning: TaskID | None = None
        self._fetching: TaskID | None = None

    def close(self) -> None:
        """See QuietReporter."""
        self._progress.stop()
        self._download.stop()

    def looking(self, files: int) -> None:
        """See scan.Reporter."""
        if self._looking is None:
            self._progress.start()
            self._looking = self._progress.add_task("Looking", total=None, speed="")
        self._progress.update(self._looking, completed=files)

    def analysing(self, tracks: int) -> None:
        """See scan.Reporter."""
        super().analysing(tracks)
        if self._looking is not None:
            self._progress.remove_task(self._looking)
        self._scanning = self._progress.add_task("Listening", total=tracks, speed="")

    def done(self, path: Path, outcome: FileOutcome, audio_s: float) -> None:
        """See scan.Reporter."""
        super().done(path, outcome, audio_s)
        if self._scanning is not None:
            self._progress.update(self._scanning, advance=1, speed=self._speed())

    def say(self, text: str) -> None:
        """See QuietReporter."""
        self._console.print(escape(text), style="dim", soft_wrap=True)

    def fetched(self, done: int, total: int) -> None:
        """See QuietReporter."""
        if self._fetching is None:
            self._download.start()
            self._fetching = self._download.add_task("Fetching", total=total)
        self._download.update(self._fetching, completed=done)
        if done >= total:
            self._download.stop()


def reporter(quiet: bool) -> QuietReporter:
    """The reporter that fits where standard error goes to."""
    console = Console(stderr=True, highlight=False, emoji=False)
    if quiet:
        return QuietReporter(console)
    return LiveReporter(console) if console.is_terminal else LineReporter(console)
