"""Reports of progress in a log and on a terminal."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from musictagger.cli.progress import EPOCHS_SHOWN, Display, Lines, Quiet, epoch_table, first_process, reporter
from musictagger.cli.render import amount, duration, metric_text, size


class Clock:
    """A clock that a test advances."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def record(epoch: int, **values: Any) -> dict[str, Any]:
    """The record of an epoch in log.jsonl."""
    usual = {"epoch": epoch, "lr": 1e-3, "train_loss": 0.5, "valid_loss": 0.25, "auc": 0.8, "seconds": 30.0}
    return {**usual, "windows_per_s": 12.34, "loader_share": 0.1, "best": epoch == 1, **values}


def printed(kind: type[Quiet], terminal: bool = False) -> tuple[Quiet, io.StringIO, Clock]:
    out, clock = io.StringIO(), Clock()
    return kind(Console(file=out, width=100, force_terminal=terminal, highlight=False), clock), out, clock


def test_a_log_has_a_line_every_ten_seconds_and_one_for_each_epoch() -> None:
    progress, out, clock = printed(Lines)
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


def test_a_scan_in_a_log_shows_audio_speed_and_time_left() -> None:
    progress, out, clock = printed(Lines)
    progress.start("looking for music", None, "files")
    progress.advance(1200)
    progress.start("analysing", 1200, "files")
    for done in range(1, 42):
        clock.now_s += 0.5
        progress.advance(done, audio_s=180.0 * done)
    assert out.getvalue().splitlines() == [
        "analysing: 20 of 1,200 files, 1.0 h of audio, 360 x real time, 10 min left",
        "analysing: 40 of 1,200 files, 2.0 h of audio, 360 x real time, 10 min left",
    ]


def test_a_search_of_unknown_length_shows_what_was_found() -> None:
    progress, out, clock = printed(Lines)
    progress.start("looking for music", None, "files")
    for done in (1, 1200):
        clock.now_s += 6
        progress.advance(done)
    assert out.getvalue() == "looking for music: 1,200 files\n"


def test_a_download_is_shown_in_bytes() -> None:
    progress, out, _ = printed(Display, terminal=True)
    with progress:
        progress.start("fetching musicnn-msd", 45_200_000, "bytes")
        progress.advance(3_100_000)
    assert "fetching musicnn-msd" in out.getvalue()
    assert "3.1 MB of 45.2 MB" in out.getvalue()


def test_a_quiet_reporter_prints_failures_only() -> None:
    progress, out, _ = printed(Quiet)
    with progress:
        progress.say("x")
        progress.start("epoch 1 of 3", 100, "windows")
        progress.advance(3, loss=1.0)
        progress.epoch(record(1))
        progress.failed(Path("a.mp3"), "is [damaged]")
    assert out.getvalue() == "a.mp3: is [damaged]\n"


def test_a_terminal_shows_the_stage_its_metrics_and_finished_epochs() -> None:
    progress, out, clock = printed(Display, terminal=True)
    with progress:
        progress.start("mel cache", 0, "tracks")
        progress.start("epoch 1 of 3", 100, "windows")
        progress.epoch(record(1))
        progress.start("epoch 2 of 3", 100, "windows")
        clock.now_s = 5
        progress.advance(50, loss=0.125)
        progress.say("[odd] text")
    text = out.getvalue()
    assert "[odd] text" in text
    assert "valid loss" in text and "0.25" in text
    # The last state of the display.
    assert "epoch 2 of 3" in text and "loss 0.125, then 30 s at most" in text
    progress.close()


def test_the_table_of_epochs_has_a_maximum_length() -> None:
    progress, out, _ = printed(Display)
    with progress:
        for epoch in range(1, 40):
            progress.epoch(record(epoch))
    assert len(out.getvalue().splitlines()) == EPOCHS_SHOWN + 1
    shown = [line.split()[0] for line in out.getvalue().splitlines()[1:]]
    # The best epoch, which was the first, and the last ones.
    assert shown == ["1", *(str(epoch) for epoch in range(29, 40))]


def test_the_time_left_of_a_resumed_epoch_is_measured_from_the_resumption() -> None:
    progress, out, clock = printed(Lines)
    progress.start("epoch 1 of 3", 100, "windows")
    for done in range(61, 101):
        clock.now_s += 0.5
        progress.advance(done, windows_per_s=2.0)
    assert out.getvalue().splitlines()[0] == "epoch 1 of 3: 80 of 100 windows, 2 windows/s, 10 s left"


def test_a_metric_missing_in_some_epochs_leaves_cells_empty() -> None:
    table = epoch_table([record(1, auc=None), record(2, accuracy=0.5, note="text")])
    assert [str(column.header) for column in table.columns] == [
        *("epoch", "train loss", "valid loss", "auc", "accuracy", "lr", "seconds")
    ]


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (89, "89 s"), (400, "7 min"), (9000, "2 h 30 min")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_metrics_have_units_and_four_significant_digits() -> None:
    assert metric_text("windows_per_s", 35.21) == "35.21 windows/s"
    assert metric_text("seconds", 120.0) == "2 min"
    assert metric_text("audio_s", 5400.0) == "1.5 h of audio"
    assert metric_text("train_loss", 0.213456) == "train loss 0.2135"


def test_amounts_of_files_and_of_bytes() -> None:
    assert amount(1200, 4000, "files") == "1,200 of 4,000 files"
    assert amount(1200, 0, "files") == "1,200 files"
    assert amount(900_000, 45_200_000, "bytes") == "900.0 kB of 45.2 MB"
    assert size(45_200_000) == "45.2 MB"


def test_only_the_first_of_several_processes_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(reporter(quiet=False)) is not Quiet
    assert type(reporter(quiet=True)) is Quiet
    monkeypatch.setenv("RANK", "1")
    assert type(reporter(quiet=False)) is Quiet
    assert not first_process()
    monkeypatch.setenv("RANK", "0")
    assert type(reporter(quiet=False)) is not Quiet
