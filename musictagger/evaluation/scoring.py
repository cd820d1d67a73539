"""Scores of tracks by the scan's own path: what training judges with is what users get."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from musictagger.audio.frames import Status
from musictagger.audio.walk import FoundFile
from musictagger.config import Settings, frame_rule
from musictagger.models.inference import Predictor
from musictagger.pipeline.analyse import Analyser, Job
from musictagger.pipeline.pool import WorkerPool
from musictagger.pipeline.scan import worker_count
from musictagger.progress import Progress, Silent
from musictagger.records import Analysed, Broken, FloatArray, Known


@dataclass(frozen=True, eq=False)
class TrackScores:
    """A model's word on tracks. `paths` are those with scores, in the order asked for; all others are in `failures`."""

    paths: tuple[Path, ...]
    frame_scores: tuple[FloatArray, ...]
    """Of each of `paths` float32 [frames, outputs], at least one frame, rounded to float16 as the library stores it."""
    embeddings: FloatArray
    """float32 [tracks, dim], each the mean over the track's frames."""
    failures: Mapping[Path, str]
    """Tracks without scores and why: broken, too short, silent, not there."""
    audio_s: float
    """Length of the tracks that have scores, in seconds."""
    seconds: float
    interrupted: bool
    digests: tuple[str, ...] = ()
    """Of each of `paths`."""


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
    heard = _Heard(progress)
    files = [file for path in wanted if (file := heard.look(path)) is not None]
    if files:
        rule = frame_rule(predictor.card.front_end, settings)
        workers = min(worker_count(settings, predictor.device.type), len(files))
        with WorkerPool(workers, settings.decode_timeout) as pool:
            analyser = Analyser(predictor, rule, pool, workers, heard.known_status)
            for event in analyser.run(map(Job, files), lambda: progress.stopping):
                if isinstance(event, Analysed | Known | Broken):
                    heard.note(event)
    return heard.track_scores(wanted, time.monotonic() - started_s, interrupted=progress.stopping)


@dataclass(eq=False)
class _Heard:
    """What has been learnt of the tracks so far; copies of a sound share what was heard of one of them."""

    progress: Progress
    sounds: dict[str, Analysed] = field(default_factory=dict)
    digests: dict[Path, str] = field(default_factory=dict)
    failures: dict[Path, str] = field(default_factory=dict)
    done: set[Path] = field(default_factory=set)

    def look(self, path: Path) -> FoundFile | None:
        try:
            found = path.stat()
        except OSError as error:
            self.failures[path] = f"cannot be read: {error.strerror}"
            self.done.add(path)
            return None
        return FoundFile(path, found.st_size, found.st_mtime_ns)

    def known_status(self, digest: str) -> Status | None:
        return self.sounds[digest].status if digest in self.sounds else None

    def note(self, event: Analysed | Known | Broken) -> None:
        if isinstance(event, Broken):
            self.failures[event.file.path] = event.reason
        else:
            self.digests[event.file.path] = event.digest
            if isinstance(event, Analysed):
                self.sounds[event.digest] = event
            if event.status != "ok":
                self.failures[event.file.path] = event.status
        self.done.add(event.file.path)
        self.progress.advance(len(self.done))

    def track_scores(self, wanted: Sequence[Path], seconds: float, *, interrupted: bool) -> TrackScores:
        paths = tuple(path for path in wanted if path in self.digests and path not in self.failures)
        sounds = [self.sounds[self.digests[path]] for path in paths]
        return TrackScores(
            paths,
            tuple(sound.scores.astype(np.float16).astype(np.float32) for sound in sounds),
            np.stack([sound.embedding for sound in sounds]) if sounds else np.zeros((0, 0), np.float32),
            {path: self.failures[path] for path in wanted if path in self.failures},
            float(sum(sound.duration_s for sound in sounds)),
            seconds,
            interrupted=interrupted,
            digests=tuple(self.digests[path] for path in paths),
        )
