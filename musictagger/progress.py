"""Progress of long work: the methods that scans, downloads and trainings call."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Progress:
    """Shows nothing and never stops; subclasses override what they show.

    The methods are called in order from the thread that does the work. Work that can be interrupted checks `stopping`
    between two units. Once it is True, no more units are started, those already started are finished if that takes only
    seconds, and the call returns the results so far.
    """

    stopping: bool = False
    """Whether the user has asked to stop."""

    def say(self, text: str) -> None:
        """Show a line of text: something found, written or unusual."""

    def start(self, stage: str, total: int | None, unit: str) -> None:
        """Begin a stage ("mel cache", "epoch 3 of 40", "test split"), which ends the previous one.

        `total` is the number of its units ("tracks", "windows", "bytes"), None when it is unknown.
        """

    def advance(self, done: int, **metrics: float) -> None:
        """Report the number of units done in this stage, with current values (loss, lr, audio_s)."""

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Report a finished epoch of a training; `record` is its line in log.jsonl."""

    def failed(self, path: Path, reason: str) -> None:
        """Report a file that could not be read, decoded or written; the work continues without it."""


SILENT = Progress()
"""For use as a default argument."""
