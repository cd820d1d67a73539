"""Scores of tracks as a scan computes them, so that evaluation measures what users get."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from musictagger.audio.walk import FoundFile, stat_file
from musictagger.config import Settings, frame_rule
from musictagger.models.inference import Predictor
from musictagger.pipeline.analyse import Outcome, analyse
from musictagger.pipeline.pool import Decoding
from musictagger.pipeline.stream import Source, stream
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
    wanted = tuple(dict.fromkeys(paths))
    scored = _Scored(progress)
    front_end = predictor.card.front_end
    with stream(
        [Source(file) for path in wanted if (file := scored.look(path)) is not None],
        rate_hz=front_end.sample_rate_hz,
        rule=frame_rule(front_end, settings),
        decoding=Decoding.beside(predictor.device.type, settings),
        progress=progress,
    ) as events:
        for outcome in analyse(events, predictor):
            scored.take(outcome)
    return scored.track_scores(wanted, time.monotonic() - started_s, interrupted=progress.stopping)


@dataclass(eq=False)
class _Scored:
    """The tracks scored so far; copies share the analysis of their audio."""

    progress: Progress
    analysed: dict[str, Analysed] = field(default_factory=dict)
    """By digest."""
    digests: dict[Path, str] = field(default_factory=dict)
    failures: dict[Path, str] = field(default_factory=dict)

    def look(self, path: Path) -> FoundFile | None:
        found = stat_file(path)
        if isinstance(found, FoundFile):
            return found
        self.failures[path] = found.reason
        return None

    def take(self, outcome: Outcome) -> None:
        if isinstance(outcome, Inspected):
            return
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
        self.progress.advance(len(self.digests.keys() | self.failures.keys()))

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
