"""Scores of tracks as a scan computes them, so that evaluation measures what users get."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from musictagger.config import Settings, frame_rule
from musictagger.models.inference import Predictor
from musictagger.pipeline.analyse import analyse
from musictagger.pipeline.pool import Decoding
from musictagger.pipeline.stream import Known, find_sources, stream
from musictagger.pipeline.worker import Failed, Inspected
from musictagger.progress import Progress, Silent
from musictagger.records import Analysed, FloatArray


@dataclass(frozen=True, eq=False)
class TrackScores:
    """A model's scores of tracks. `paths` are the tracks with scores, in the order requested."""

    paths: tuple[Path, ...]
    frame_scores: tuple[FloatArray, ...]
    """For each of `paths` float32 [frames, outputs], frames at least 1, rounded to float16 as the library does."""
    embeddings: FloatArray
    """float32 [tracks, dim], each the mean over the track's frames."""
    failures: Mapping[Path, str]
    """Tracks without scores, with the reason: unreadable, too short, silent."""
    audio_s: float
    """Length of the tracks with scores, in seconds."""
    seconds: float
    interrupted: bool
    digests: tuple[str, ...] = ()
    """For each of `paths`."""


def score_tracks(
    predictor: Predictor,
    paths: Sequence[Path],
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> TrackScores:
    """Score tracks exactly as a scan with these settings does; errors of single files are among the failures.

    `progress` is advanced by tracks, within a stage that the caller has started. Once it is stopping, no more tracks
    are begun.
    """
    started_s = time.monotonic()
    settings, progress = settings or Settings(), progress or Silent()
    sources, failures = find_sources(dict.fromkeys(paths))
    scored = _Scored(failures)
    front_end = predictor.card.front_end
    with stream(
        sources,
        rate_hz=front_end.sample_rate_hz,
        rule=frame_rule(front_end, settings),
        decoding=Decoding.of(settings, cpu_inference=predictor.device.type == "cpu"),
        progress=progress,
    ) as events:
        outcomes = (outcome for outcome in analyse(events, predictor) if not isinstance(outcome, Inspected))
        for done, outcome in enumerate(outcomes, len(failures) + 1):
            scored.take(outcome)
            progress.advance(done)
    return scored.track_scores(tuple(dict.fromkeys(paths)), time.monotonic() - started_s, interrupted=progress.stopping)


@dataclass(eq=False)
class _Scored:
    """The tracks scored so far; copies share the analysis of their audio."""

    failures: dict[Path, str]
    analysed: dict[str, Analysed] = field(default_factory=dict)
    """By digest."""
    digests: dict[Path, str] = field(default_factory=dict)

    def take(self, outcome: Analysed | Known | Failed) -> None:
        path = outcome.file.path
        if isinstance(outcome, Failed):
            self.failures[path] = outcome.reason
        else:
            if isinstance(outcome, Analysed):
                self.analysed[outcome.digest] = outcome
            self.digests[path] = outcome.digest
            status = self.analysed[outcome.digest].status
            if status != "ok":
                self.failures[path] = status

    def track_scores(self, wanted: Sequence[Path], seconds: float, *, interrupted: bool) -> TrackScores:
        paths = tuple(path for path in wanted if path in self.digests and path not in self.failures)
        tracks = [self.analysed[self.digests[path]] for path in paths]
        return TrackScores(
            paths,
            tuple(track.scores.astype(np.float16).astype(np.float32) for track in tracks),
            np.stack([track.embedding for track in tracks]) if tracks else np.zeros((0, 0), np.float32),
            {path: self.failures[path] for path in wanted if path in self.failures},
            float(sum(track.duration_s for track in tracks)),
            seconds,
            interrupted=interrupted,
            digests=tuple(self.digests[path] for path in paths),
        )
