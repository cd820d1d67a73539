"""Frames to scores: the frames of many tracks in common batches, their predictions per track.

Memory holds one batch and the predictions of unfinished tracks, regardless of the length of a track.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from musictagger.audio.frames import Wave
from musictagger.models.inference import Prediction, Predictor
from musictagger.pipeline.stream import Event, Known
from musictagger.pipeline.worker import Failed, Finished, Frame, Inspected
from musictagger.records import Analysed, FloatArray

NOT_FINITE = "the model's scores are not finite; are the file's samples absurdly large?"
"""Why a decoded track has no scores."""


@dataclass(eq=False)
class _Predictions:
    frames: int | None = None
    """The number of frames, once it is known."""
    scores: list[FloatArray] = field(default_factory=list)
    embeddings: list[FloatArray] = field(default_factory=list)


Completed = list[tuple[Path, Prediction]]
"""Tracks, each with the predictions of all its frames."""


class BatchPredictor:
    """Predict the frames of many tracks in common batches. Every method returns the tracks that it completes."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._tracks: dict[Path, _Predictions] = {}
        self._batch: list[tuple[Path, Wave]] = []

    def add(self, path: Path, index: int, wave: Wave) -> Completed:
        """Take the next frame of a track; index 0 restarts the track."""
        if index == 0:
            self.discard(path)
        self._tracks.setdefault(path, _Predictions())
        self._batch.append((path, wave))
        return self.flush() if len(self._batch) >= self._predictor.batch_frames else []

    def finish(self, path: Path, frames: int) -> Completed:
        """Take the number of frames of a track, after its last frame; with 0, the frames added are dropped."""
        if not frames:
            self.discard(path)
        self._tracks.setdefault(path, _Predictions()).frames = frames
        return self._completed([path])

    def flush(self) -> Completed:
        """Predict the frames that wait for a full batch."""
        batch, self._batch = self._batch, []
        if not batch:
            return []
        prediction = self._predictor([wave for _, wave in batch])
        for (path, _), scores, embedding in zip(batch, prediction.scores, prediction.embedding, strict=True):
            self._tracks[path].scores.append(scores)
            self._tracks[path].embeddings.append(embedding)
        return self._completed(dict.fromkeys(path for path, _ in batch))

    def discard(self, path: Path) -> None:
        """Forget a track's frames."""
        if self._tracks.pop(path, None) is not None:
            self._batch = [waiting for waiting in self._batch if waiting[0] != path]

    def _completed(self, paths: Iterable[Path]) -> Completed:
        complete = [path for path in paths if len(self._tracks[path].scores) == self._tracks[path].frames]
        return [(path, self._joined(self._tracks.pop(path))) for path in complete]

    def _joined(self, track: _Predictions) -> Prediction:
        if not track.scores:
            return self._predictor([])
        return Prediction(np.stack(track.scores), np.stack(track.embeddings))


FileOutcome = Inspected | Analysed | Known | Failed


def analyse(events: Iterable[Event], predictor: Predictor) -> Iterator[FileOutcome]:
    """Turn the frames among `events` into one `Analysed` per decoded track.

    `Inspected`, `Failed` and `Known` are handed on, `Known` for a copy after the `Analysed` of its audio. A track whose
    scores are not finite becomes `Failed`, as do its copies.
    """
    return _Analyser(predictor).outcomes(events)


class _Analyser:
    def __init__(self, predictor: Predictor) -> None:
        self._frames = BatchPredictor(predictor)
        self._finished: dict[Path, Finished] = {}
        """Decoded tracks, some of whose frames still wait for a full batch."""
        self._copies: dict[str, list[Known]] = {}
        """Copies of those tracks, by digest."""
        self._not_finite: set[str] = set()

    def outcomes(self, events: Iterable[Event]) -> Iterator[FileOutcome]:
        for event in events:
            match event:
                case Frame():
                    yield from self._completed(self._frames.add(event.file.path, event.index, event.wave))
                case Finished():
                    self._finished[event.file.path] = event
                    self._copies[event.digest] = []
                    yield from self._completed(self._frames.finish(event.file.path, event.decoded.frames))
                case Known() if event.digest in self._copies:
                    self._copies[event.digest].append(event)
                case Known() if event.digest in self._not_finite:
                    yield Failed(event.file, NOT_FINITE)
                case _:
                    if isinstance(event, Failed):
                        self._frames.discard(event.file.path)
                    yield event
        yield from self._completed(self._frames.flush())

    def _completed(self, completed: Completed) -> Iterator[FileOutcome]:
        for path, prediction in completed:
            finished = self._finished.pop(path)
            copies = self._copies.pop(finished.digest)
            if np.isfinite(prediction.scores).all():
                yield _analysed(finished, prediction)
                yield from copies
            else:
                self._not_finite.add(finished.digest)
                for file in (finished.file, *(copy.file for copy in copies)):
                    yield Failed(file, NOT_FINITE)


def _analysed(finished: Finished, prediction: Prediction) -> Analysed:
    decoded = finished.decoded
    embedding = prediction.embedding.mean(axis=0) if decoded.frames else np.zeros(0, np.float32)
    return Analysed(
        finished.file, finished.digest, decoded.status, decoded.duration_s, decoded.padded, prediction.scores, embedding
    )
