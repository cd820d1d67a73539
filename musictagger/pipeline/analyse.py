"""Files to scores: jobs to the workers, their frames into batches of many tracks, the model's answers per track.

Knows no database: it asks `known_status` whether a sound needs analysis, and yields what it learns as it learns it.
Memory holds one batch, the pool's queue and the scores of tracks not yet finished, whatever a track's length.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from musictagger.audio.decode import Decoded
from musictagger.audio.frames import FrameRule, Status, Wave
from musictagger.audio.walk import FoundFile
from musictagger.models.inference import Predictor
from musictagger.pipeline.pool import WorkerPool
from musictagger.pipeline.worker import Decode, Failed, Finished, Frame, Inspect, Inspected
from musictagger.records import Analysed, Broken, FloatArray, Known

AHEAD = 2
"""Jobs kept ready per worker, so that none waits for this process."""


NOT_FINITE = "the model's scores for it are no numbers; are the file's samples absurdly large?"
"""Why a track has no scores though it was decoded."""


@dataclass(frozen=True)
class Job:
    """A file to analyse. Without a digest it is inspected first."""

    file: FoundFile
    digest: str | None = None


Event = Inspected | Analysed | Known | Broken


@dataclass(eq=False)
class _Track:
    """A track between its first frame and its last score."""

    file: FoundFile
    digest: str
    scores: dict[int, FloatArray] = field(default_factory=dict)
    embeddings: dict[int, FloatArray] = field(default_factory=dict)
    decoded: Decoded | None = None

    @property
    def complete(self) -> bool:
        return self.decoded is not None and len(self.scores) == self.decoded.frames


class Analyser:
    """One run over many files. Iterate over `run`; record what it yields before asking for more."""

    def __init__(
        self,
        predictor: Predictor,
        rule: FrameRule,
        pool: WorkerPool,
        workers: int,
        known_status: Callable[[str], Status | None],
    ) -> None:
        self._predictor = predictor
        self._rule = rule
        self._pool = pool
        self._ahead = AHEAD * workers
        self._known_status = known_status
        self._files: dict[Path, FoundFile] = {}
        self._tracks: dict[Path, _Track] = {}
        # Copies of a sound wait for the one being decoded.
        self._copies: dict[str, list[FoundFile]] = {}
        self._batch: list[tuple[_Track, int, Wave]] = []

    def run(self, jobs: Iterable[Job], stop: Callable[[], bool] = lambda: False) -> Iterator[Event]:
        """Analyse the jobs' files. Once `stop` says True no new file is begun; those begun are finished."""
        waiting = deque(jobs)
        while True:
            while waiting and not stop() and self._pool.pending < self._ahead:
                yield from self._begin(waiting.popleft())
            answer = self._pool.next_answer()
            if answer is None:
                yield from self._score()
                # Scoring may have brought a copy of a failed sound back to the workers.
                if not self._pool.pending and (stop() or not waiting):
                    return
            elif isinstance(answer, Frame):
                yield from self._frame(answer)
            elif isinstance(answer, Inspected):
                yield answer
                yield from self._inspected(answer)
            elif isinstance(answer, Finished):
                yield from self._finished(answer)
            else:
                yield from self._failed(answer)

    def _begin(self, job: Job) -> Iterator[Event]:
        self._files[job.file.path] = job.file
        if job.digest is None:
            self._pool.submit(Inspect(job.file.path))
        else:
            yield from self._known_or_decode(job.file, job.digest)

    def _inspected(self, answer: Inspected) -> Iterator[Event]:
        file = FoundFile(answer.path, answer.size, answer.mtime_ns)
        yield from self._known_or_decode(file, answer.digest)

    def _known_or_decode(self, file: FoundFile, digest: str) -> Iterator[Event]:
        status = self._known_status(digest)
        if status is not None:
            del self._files[file.path]
            yield Known(file, digest, status, before=True)
        else:
            self._decode(file, digest)

    def _decode(self, file: FoundFile, digest: str) -> None:
        if digest in self._copies:
            self._copies[digest].append(file)
            return
        self._copies[digest] = []
        self._tracks[file.path] = _Track(file, digest)
        rate_hz = self._predictor.card.front_end.sample_rate_hz
        self._pool.submit(Decode(file.path, rate_hz, self._rule, file.size, file.mtime_ns))

    def _frame(self, frame: Frame) -> Iterator[Event]:
        track = self._tracks[frame.path]
        if frame.index == 0:
            self._forget_frames(track)
        self._batch.append((track, frame.index, frame.wave))
        if len(self._batch) >= self._predictor.batch_frames:
            yield from self._score()

    def _finished(self, answer: Finished) -> Iterator[Event]:
        track = self._tracks[answer.path]
        track.decoded = answer.decoded
        if answer.decoded.status != "ok":
            self._forget_frames(track)
        if track.complete:
            yield from self._complete(track)

    def _failed(self, answer: Failed) -> Iterator[Event]:
        file = self._files.pop(answer.path)
        track = self._tracks.pop(answer.path, None)
        yield Broken(file, answer.reason, answer.transient)
        if track is not None:
            self._forget_frames(track)
            # A copy elsewhere may still be readable.
            for copy in self._copies.pop(track.digest):
                self._decode(copy, track.digest)

    def _forget_frames(self, track: _Track) -> None:
        track.scores.clear()
        track.embeddings.clear()
        self._batch = [waiting for waiting in self._batch if waiting[0] is not track]

    def _score(self) -> Iterator[Event]:
        if not self._batch:
            return
        batch, self._batch = self._batch, []
        prediction = self._predictor([wave for _, _, wave in batch])
        touched: dict[int, _Track] = {}
        for (track, index, _), scores, embedding in zip(batch, prediction.scores, prediction.embedding, strict=True):
            track.scores[index] = scores
            track.embeddings[index] = embedding
            touched[id(track)] = track
        for track in touched.values():
            if track.complete:
                yield from self._complete(track)

    def _unheard(self, track: _Track) -> Iterator[Event]:
        for file in [track.file, *self._copies.pop(track.digest)]:
            del self._files[file.path]
            yield Broken(file, NOT_FINITE, transient=False)

    def _complete(self, track: _Track) -> Iterator[Event]:
        assert track.decoded is not None
        del self._tracks[track.file.path]
        order = sorted(track.scores)
        if not all(np.isfinite(scores).all() for scores in track.scores.values()):
            yield from self._unheard(track)
            return
        outputs = len(self._predictor.card.outputs)
        yield Analysed(
            track.file,
            track.digest,
            track.decoded.status,
            track.decoded.duration_s,
            track.decoded.padded,
            np.stack([track.scores[index] for index in order]) if order else np.zeros((0, outputs), np.float32),
            np.mean([track.embeddings[index] for index in order], axis=0) if order else np.zeros(0, np.float32),
        )
        for file in [track.file, *self._copies.pop(track.digest)]:
            del self._files[file.path]
            if file is not track.file:
                yield Known(file, track.digest, track.decoded.status, before=False)
