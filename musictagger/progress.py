"""How a training run is told: what whoever shows it must offer, and one who shows nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Progress(Protocol):
    """Called from the run's own thread, in order. Whoever shows it decides how often."""

    def say(self, text: str) -> None:
        """One line for people: what was found, what was written, what is odd."""

    def start(self, what: str, total: int, unit: str) -> None:
        """A stage begins ("mel cache", "epoch 3 of 40", "test split"); the one before is over."""

    def advance(self, done: int, **figures: float) -> None:
        """So many units of the stage are done, with what is known now (loss, lr, tracks_per_s)."""

    def epoch(self, record: Mapping[str, Any]) -> None:
        """An epoch is over; `record` is its line in log.jsonl."""


class Silent:
    """Shows nothing: for tests, and for every process of a distributed run but the first."""

    def say(self, text: str) -> None:
        """See Progress."""

    def start(self, what: str, total: int, unit: str) -> None:
        """See Progress."""

    def advance(self, done: int, **figures: float) -> None:
        """See Progress."""

    def epoch(self, record: Mapping[str, Any]) -> None:
        """See Progress."""
