"""How a training run is told, in a log and on a terminal."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from musictagger.cli import training_progress
from musictagger.cli.training_progress import (
    EPOCHS_SHOWN,
    LineProgress,
    LiveProgress,
    QuietProgress,
    duration,
    epoch_table,
    reporter,
    said,
)


class Clock:
    """Seconds that a test moves on."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def record(epoch: int, **values: Any) -> dict[str, Any]:
    """An epoch's line in log.jsonl."""
    usual = {"epoch": epoch, "lr": 1e-3, "train_loss": 0.5, "valid_loss": 0.25, "auc": 0.8, "seconds": 30.0}
    return {**usual, "windows_per_s": 12.34, "loader_share": 0.1, "best": epoch == 1, **values}


def printed(kind: type[QuietProgress], terminal: bool = False) -> tuple[QuietProgress, io.StringIO, Clock]:
    out, clock = io.StringIO(), Clock()
    return kind(Console(file=out, width=100, force_terminal=terminal, highlight=False), clock), out, clock


def test_a_log_has_a_line_every_ten_seconds_and_one_for_each_epoch() -> None:
    progress, out, clock = printed(LineProgress)
    progress.say("folders: 30 tracks [of mine]")
    progress.start("epoch 1 of 3", 100, "windows")
    for done in range(1, 101):
        clock.now_s += 0.25
        progress.advance(done, loss=1.0 / done, windows_per_s=4.0)
    progress.epoch(record(1))
    assert out.getvalue().splitlines() == [
        "folders: 30 tracks [of mine]",
        "epoch 1 of 3: 40 of 100 windows, loss 0.025, 4 windows/s, 15 s left",
        "epoch 1 of 3: 80 of 100 windows, loss 0.0125, 4 windows/s, 5 s left",
        "epoch 1: train loss 0.5, valid loss 0.25, auc 0.8, 30 s, 12.34 windows/s, the best so far",
    ]


def test_nothing_is_said_when_quiet() -> None:
    progress, out, _ = printed(QuietProgress)
    with progress:
        progress.say("x")
        progress.start("epoch 1 of 3", 100, "windows")
        progress.advance(3, loss=1.0)
        progress.epoch(record(1))
    assert out.getvalue() == ""


def test_a_terminal_shows_stage_figures_and_the_epochs_so_far() -> None:
    progress, out, clock = printed(LiveProgress, terminal=True)
    with progress:
        progress.start("mel cache", 0, "tracks")
        progress.start("epoch 1 of 3", 100, "windows")
        progress.epoch(record(1))
        progress.start("epoch 2 of 3", 100, "windows")
        clock.now_s = 5
        progress.advance(50, loss=0.125)
        progress.say("[odd] thing")
    text = out.getvalue()
    assert "[odd] thing" in text
    assert "valid loss" in text and "0.25" in text
    # The last frame drawn before the display goes.
    assert "epoch 2 of 3" in text and "loss 0.125, then 30 s at most" in text
    progress.close()


def test_the_table_of_epochs_never_outgrows_a_terminal() -> None:
    progress, out, _ = printed(LiveProgress)
    with progress:
        for epoch in range(1, 40):
            progress.epoch(record(epoch))
    assert len(out.getvalue().splitlines()) == EPOCHS_SHOWN + 1
    shown = [line.split()[0] for line in out.getvalue().splitlines()[1:]]
    # The best one, which was the first, and the last ones.
    assert shown == ["1", *(str(epoch) for epoch in range(29, 40))]


def test_the_time_left_of_a_resumed_epoch_counts_from_the_resumption() -> None:
    progress, out, clock = printed(LineProgress)
    progress.start("epoch 1 of 3", 100, "windows")
    for done in range(61, 101):
        clock.now_s += 0.5
        progress.advance(done, windows_per_s=2.0)
    assert out.getvalue().splitlines()[0] == "epoch 1 of 3: 80 of 100 windows, 2 windows/s, 10 s left"


def test_figures_that_only_some_epochs_have_are_left_empty() -> None:
    table = epoch_table([record(1, auc=None), record(2, accuracy=0.5, note="text")])
    assert [str(column.header) for column in table.columns] == [
        *("epoch", "train loss", "valid loss", "auc", "accuracy", "lr", "seconds")
    ]


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (89, "89 s"), (400, "7 min"), (9000, "2 h 30 min")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_figures_in_words() -> None:
    assert said(("windows_per_s", 35.21)) == "35.21 windows/s"
    assert said(("x_real_time", 61.0)) == "61 x real time"
    assert said(("seconds", 120.0)) == "2 min"
    assert said(("train_loss", 0.213456)) == "train loss 0.2135"


def test_only_the_first_of_several_processes_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(reporter(quiet=False)) is not QuietProgress
    assert type(reporter(quiet=True)) is QuietProgress
    monkeypatch.setenv("RANK", "1")
    assert type(reporter(quiet=False)) is QuietProgress
    assert not training_progress.first_process()
    monkeypatch.setenv("RANK", "0")
    assert type(reporter(quiet=False)) is not QuietProgress
