"""Scores of tracks as a scan computes them, so that evaluation measures what users get."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from musictagger.config import Settings, frame_rule
from musictagger.models.inference import Predictor
from musictagger.pipeline.analyse import analyse
from musictagger.pipeline.pool import Decoding
from musictagger.pipeline.stream import find_sources, stream
from musictagger.pipeline.worker import Failed, Inspected
from musictagger.progress import SILENT, Progress
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
    predictor: Predictor, paths: Sequence[Path], settings: Settings | None = None, progress: Progress = SILENT
) -> TrackScores:
    """Score tracks exactly as a scan with these settings does; errors of single files are among the failures.

    `progress` is advanced by tracks, within a stage that the caller has started. Once it is stopping, no more tracks
    are started.
    """
    started_s = time.monotonic()
    settings, wanted = settings or Settings(), dict.fromkeys(paths)
    sources, failures = find_sources(wanted)
    digests: dict[Path, str] = {}
    # By digest: copies share the analysis of their audio.
    analysed: dict[str, Analysed] = {}
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
            if isinstance(outcome, Failed):
                failures[outcome.file.path] = outcome.reason
            else:
                digests[outcome.file.path] = outcome.digest
            if isinstance(outcome, Analysed):
                analysed[outcome.digest] = outcome
            progress.advance(done)
    failures |= {path: analysed[own].status for path, own in digests.items() if analysed[own].status != "ok"}
    scored = tuple(path for path in wanted if path in digests and path not in failures)
    tracks = [analysed[digests[path]] for path in scored]
    return TrackScores(
        paths=scored,
        frame_scores=tuple(track.scores.astype(np.float16).astype(np.float32) for track in tracks),
        embeddings=np.stack([track.embedding for track in tracks]) if tracks else np.zeros((0, 0), np.float32),
        failures={path: failures[path] for path in wanted if path in failures},
        audio_s=float(sum(track.duration_s for track in tracks)),
        seconds=time.monotonic() - started_s,
        interrupted=progress.stopping,
        digests=tuple(digests[path] for path in scored),
    )
