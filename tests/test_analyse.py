"""Frames to scores: batches of many tracks, restarts, copies and scores that are not finite."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from conftest import make_card

from musictagger.audio.decode import Decoded
from musictagger.audio.frames import Wave
from musictagger.audio.walk import FoundFile
from musictagger.models.inference import Prediction, Predictor
from musictagger.pipeline.analyse import NOT_FINITE, analyse
from musictagger.pipeline.stream import Event, Known
from musictagger.pipeline.worker import Failed, Finished, Frame, Inspected
from musictagger.records import Analysed
from musictagger.tags.fields import FileTags


class FakePredictor:
    """Scores a frame by its first sample, and its embedding is twice that. It records the sizes of its batches."""

    card = make_card()

    def __init__(self, batch_frames: int) -> None:
        self.batch_frames = batch_frames
        self.batches: list[int] = []

    def __call__(self, waves: Sequence[Wave]) -> Prediction:
        outputs = len(self.card.outputs)
        if not waves:
            return Prediction(np.zeros((0, outputs), np.float32), np.zeros((0, 0), np.float32))
        self.batches.append(len(waves))
        first = np.array([wave[0] for wave in waves], np.float32)[:, None]
        return Prediction(np.repeat(first, outputs, axis=1), np.repeat(2 * first, 3, axis=1))


def file(name: str) -> FoundFile:
    return FoundFile(Path(name), 1, 1)


def frame(name: str, index: int, value: float) -> Frame:
    return Frame(file(name), index, np.full(4, value, np.float32))


def finished(name: str, frames: int, status: Any = "ok") -> Finished:
    return Finished(file(name), f"digest of {name}", Decoded(60.0, frames, False, status))


def copy_of(name: str, original: str) -> Known:
    return Known(file(name), f"digest of {original}", before=False)


def run(events: Sequence[Event], batch_frames: int = 4) -> tuple[list[Any], list[int]]:
    predictor = FakePredictor(batch_frames)
    outcomes = list(analyse(events, cast(Predictor, predictor)))
    return outcomes, predictor.batches


def values(outcome: Any) -> list[float]:
    """The score of each frame."""
    assert isinstance(outcome, Analysed)
    return [float(value) for value in outcome.scores[:, 0]]


def test_frames_of_many_tracks_share_batches() -> None:
    events: list[Event] = [
        *(frame("a", 0, 0.1), frame("b", 0, 0.5), frame("a", 1, 0.2), frame("b", 1, 0.6), frame("a", 2, 0.3)),
        *(finished("b", 2), finished("a", 3)),
    ]
    (one, other), batches = run(events)
    assert batches == [4, 1]
    assert (one.file, other.file) == (file("b"), file("a"))
    assert values(one) == pytest.approx([0.5, 0.6]) and values(other) == pytest.approx([0.1, 0.2, 0.3])
    np.testing.assert_allclose(other.embedding, [0.4, 0.4, 0.4])
    assert (one.digest, one.status, one.duration_s) == ("digest of b", "ok", 60.0)


@pytest.mark.parametrize("batch_frames", [1, 2, 8])
def test_index_0_restarts_the_track(batch_frames: int) -> None:
    events: list[Event] = [
        *(frame("a", 0, 0.9), frame("a", 1, 0.9), frame("b", 0, 0.4), frame("a", 0, 0.1), frame("a", 1, 0.2)),
        *(finished("a", 2), finished("b", 1)),
    ]
    outcomes, _ = run(events, batch_frames)
    scores = {outcome.file.path.name: values(outcome) for outcome in outcomes}
    assert scores == {"a": pytest.approx([0.1, 0.2]), "b": pytest.approx([0.4])}


def test_a_silent_track_has_no_scores() -> None:
    (silent,), batches = run([frame("a", 0, 0.0), finished("a", 0, "silent")])
    assert (silent.status, silent.scores.shape, silent.embedding.shape) == ("silent", (0, 9), (0,))
    assert batches == []


def test_copies_follow_their_track() -> None:
    events: list[Event] = [
        *(frame("a", 0, 0.1), finished("a", 1), copy_of("copy", "a"), frame("b", 0, 0.2), copy_of("late", "a")),
        *(Known(file("known"), "another digest", before=True), finished("b", 1), copy_of("last", "b")),
    ]
    outcomes, _ = run(events)
    assert [outcome.file.path.name for outcome in outcomes] == ["known", "a", "copy", "late", "b", "last"]


def test_scores_that_are_not_finite_fail_the_track_and_its_copies() -> None:
    events: list[Event] = [
        frame("a", 0, np.nan),
        finished("a", 1),
        copy_of("copy", "a"),
        frame("b", 0, 0.2),
        finished("b", 1),
    ]
    outcomes, _ = run([*events, copy_of("late", "a")], batch_frames=2)
    assert [outcome for outcome in outcomes if isinstance(outcome, Failed)] == [
        Failed(file(name), NOT_FINITE) for name in ("a", "copy", "late")
    ]
    assert values(outcomes[-2]) == pytest.approx([0.2])


def test_inspections_and_failures_are_handed_on() -> None:
    inspected, failed = Inspected(file("a"), "digest", FileTags("flac")), Failed(file("a"), "broken")
    outcomes, batches = run([inspected, frame("a", 0, 0.1), failed])
    assert outcomes == [inspected, failed]
    assert batches == []
