"""How long work reports what it does: one protocol for scans, fetches and trainings, and one that shows nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol


class Progress(Protocol):
    """Called from the thread that does the work, in order. Whoever shows it decides how often.

    Work that can be interrupted looks at `stopping` between two units: once it is True no new unit is begun, those
    begun are finished where that takes seconds, and the call returns what it has.
    """

    @property
    def stopping(self) -> bool:
        """Whether the user has asked to stop."""

    def say(self, text: str) -> None:
        """One line for people: what was found, what was written, what is unusual."""

    def start(self, stage: str, total: int | None, unit: str) -> None:
        """A stage begins ("mel cache", "epoch 3 of 40", "test split"); the one before is over.

        `total` counts its units ("tracks", "windows", "bytes"), None where that is not known yet.
        """

    def advance(self, done: int, **metrics: float) -> None:
        """So many units of the stage are done, with what is known now (loss, lr, audio_s)."""

    def epoch(self, record: Mapping[str, Any]) -> None:
        """An epoch of a training is over; `record` is its line in log.jsonl."""

    def failed(self, path: Path, reason: str) -> None:
        """One file could not be read, decoded or written; the work goes on without it."""


class Silent:
    """Shows nothing and never stops: for tests, and for every process of a distributed run but the first."""

    stopping = False

    def say(self, text: str) -> None:
        """See Progress."""

    def start(self, stage: str, total: int | None, unit: str) -> None:
        """See Progress."""

    def advance(self, done: int, **metrics: float) -> None:
        """See Progress."""

    def epoch(self, record: Mapping[str, Any]) -> None:
        """See Progress."""

    def failed(self, path: Path, reason: str) -> None:
        """See Progress."""


SILENT: Progress = Silent()
"""For use as a default argument."""
