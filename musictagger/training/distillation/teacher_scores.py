"""What teachers hear: each track once, in windows, and their scores kept on disk for every run to come.

`<cache>/teachers/<model>-<window>-<hop>/<ab>/<digest>.npy`: a row a window, with the part of the track it heard.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from musictagger.audio.decode import Decoded
from musictagger.audio.frames import Wave, fill_frame
from musictagger.config import Settings
from musictagger.errors import MusictaggerError, printable, reason_of
from musictagger.models.card import Card
from musictagger.models.find import find_or_pull
from musictagger.models.inference import BATCH_FRAMES, Predictor, has_bfloat16, pick_device
from musictagger.models.weights import Model, load_model
from musictagger.paths import replacing
from musictagger.pipeline.pool import DEFAULT_TIMEOUT_S
from musictagger.pipeline.worker import Failed, Finished, Frame
from musictagger.progress import SILENT, Progress
from musictagger.records import FloatArray
from musictagger.training.melcache.cache import stream_waves

HOPS_PER_WINDOW = 4
"""Windows of a whole frame overlap by three quarters, so that any part of a track is heard by several of them."""

BATCH_S = 29.12
"""Predictor's batches are made for frames of this length; of shorter windows a batch holds more."""

Rows = npt.NDArray[Any]
"""What one teacher heard in one track: [windows] of start_s, end_s (float32) and scores (float16 [outputs])."""


@dataclass(frozen=True)
class Teacher:
    """A model and how it listens: windows of `window_samples` every `hop_samples`, at its own rate."""

    model: Model
    """With the front end cut to the window."""
    key: str
    """The key of the model as it came."""
    hop_samples: int

    @property
    def card(self) -> Card:
        """The model's card."""
        return self.model.card

    @property
    def window_samples(self) -> int:
        """Length of a window."""
        return self.card.front_end.frame_samples

    def folder(self, cache: Path) -> Path:
        """Where its scores are kept."""
        return cache / "teachers" / f"{self.key[:16]}-{self.window_samples}-{self.hop_samples}"


def make_teacher(model: Model) -> Teacher:
    """A model as a teacher.

    A backbone that averages over patches (musicnn) hears them one by one, so that its scores can be put together again
    for any part of a track; any other hears what it was trained on, one frame, every quarter of a frame.
    """
    front_end = model.card.front_end
    patch: int | None = getattr(model.bare, "patch_columns", None)
    card = dataclasses.replace(
        model.card, front_end=dataclasses.replace(front_end, frame_hops=patch or front_end.frame_hops)
    )
    window_samples = card.front_end.frame_samples
    return Teacher(Model(card, model.backbone), model.card.key, window_samples // (1 if patch else HOPS_PER_WINDOW))


def load_teachers(
    names: Sequence[str],
    settings: Settings,
    progress: Progress = SILENT,
) -> list[Teacher]:
    """The models of these names (or paths) as teachers; a published one is fetched when it is missing.

    Raises BadRequestError for a name nobody knows, ModelError when a model cannot be fetched or loaded.
    """
    teachers = []
    for name in dict.fromkeys(names):
        weights = find_or_pull(name, settings.model_folders, progress)
        teachers.append(make_teacher(load_model(weights, settings.plugin_folders)))
    return teachers


@dataclass(frozen=True)
class Taught:
    """How it went: files that a teacher could not hear, with the reason, and whether it was stopped before the end."""

    failures: Mapping[Path, str]
    interrupted: bool


def teach(
    teachers: Sequence[Teacher],
    tracks: Mapping[Path, str],
    cache: Path,
    *,
    progress: Progress,
    device: str = "auto",
    workers: int = 1,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    stop: Callable[[], bool] = lambda: False,
) -> Taught:
    """Let every teacher hear what it has not heard of `tracks` (files with the digests of their sounds).

    What is done is kept whatever happens and not done again. A sound in several files is heard once; where one of
    them fails the others are tried. Raises MusictaggerError where the disk refuses.
    """
    failures: dict[Path, str] = {}
    by_rate: dict[int, list[Teacher]] = {}
    for teacher in teachers:
        by_rate.setdefault(teacher.card.front_end.sample_rate_hz, []).append(teacher)
    for rate_hz, together in by_rate.items():
        all_lessons = [_Lesson(teacher, cache, device, tracks) for teacher in together]
        for lesson in all_lessons:
            progress.say(lesson.standing())
        lessons = [lesson for lesson in all_lessons if lesson.missing]
        _hear(lessons, rate_hz, progress, workers, timeout_s, stop)
        for lesson in lessons:
            for path, reason in lesson.failures.items():
                failures.setdefault(path, f"teacher {lesson.name}: {reason}")
        if any(lesson.unheard() for lesson in lessons):
            return Taught(failures, True)
    return Taught(failures, False)


def _hear(
    lessons: Sequence[_Lesson],
    rate_hz: int,
    progress: Progress,
    workers: int,
    timeout_s: float,
    stop: Callable[[], bool],
) -> None:
    """Decode what any of these teachers has not heard, once for all of them."""
    unheard = {digest for lesson in lessons for digest in lesson.missing}
    if not unheard:
        return
    progress.start("teachers " + ", ".join(lesson.name for lesson in lessons), len(unheard), "tracks")
    begun_s = told_s = time.monotonic()

    def advance() -> None:
        """A sound is done when no teacher can hear it any more; the speed is that of the music, not of each teacher."""
        nonlocal told_s
        told_s = time.monotonic()
        still = {digest for lesson in lessons for digest in lesson.unheard()}
        heard_s = max(lesson.heard_s for lesson in lessons)
        progress.advance(len(unheard - still), x_real_time=heard_s / max(1e-3, time.monotonic() - begun_s))

    while not stop():
        begun = [lesson.begin() for lesson in lessons]
        if not any(begun):
            break
        paths = list(dict.fromkeys(path for lesson in lessons for path in lesson.waiting))
        for answer in stream_waves(paths, rate_hz, workers=workers, timeout_s=timeout_s, stop=stop):
            for lesson in lessons:
                if answer.path in lesson.waiting:
                    lesson.take(answer)
            # Counting looks at every sound, so not after each.
            if not isinstance(answer, Frame) and time.monotonic() - told_s > 1:
                advance()
        for lesson in lessons:
            lesson.end()
        advance()


def row_type(outputs: int) -> np.dtype[Any]:
    """Of the rows of a teacher with so many outputs."""
    return np.dtype([("start_s", "<f4"), ("end_s", "<f4"), ("scores", "<f2", (outputs,))])


def rows_path(folder: Path, digest: str) -> Path:
    """The file of one sound."""
    return folder / digest[:2] / f"{digest}.npy"


def read_rows(folder: Path, digest: str, outputs: int) -> Rows | None:
    """What a teacher heard of a sound; None where it has not, or where the file is damaged."""
    try:
        rows = np.load(rows_path(folder, digest), allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    good = rows.dtype == row_type(outputs) and rows.ndim == 1 and len(rows) and np.isfinite(rows["scores"]).all()
    return rows if good else None


def _write_rows(folder: Path, digest: str, rows: Rows) -> None:
    path = rows_path(folder, digest)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.save(file, rows, allow_pickle=False)
    except OSError as error:
        raise MusictaggerError(
            f"{printable(folder)}: {reason_of(error)}; the teachers' scores that are "
            "there are whole and are kept. Make room or choose another cache folder, and run the same command again"
        ) from error


@dataclass(eq=False)
class _Listener:
    """One track on its way through one teacher. It holds one window, one hop and one block of sound."""

    path: Path
    window: int
    hop: int
    held: Wave = field(default_factory=lambda: np.zeros(0, np.float32))
    held_from: int = 0
    next_start: int = 0
    spans: list[tuple[int, int]] = field(default_factory=list)
    """Start and end of each window, in samples of the track."""
    scores: dict[int, FloatArray] = field(default_factory=dict)
    decoded: Decoded | None = None

    @property
    def complete(self) -> bool:
        return self.decoded is not None and len(self.scores) == len(self.spans)

    def push(self, block: Wave) -> Iterator[tuple[int, Wave]]:
        """Take the next block, float32 [samples]; the windows that it completes, each with its number."""
        self.held = np.concatenate([self.held, block])
        total = self.held_from + len(self.held)
        while self.next_start + self.window <= total:
            yield self._window(self.next_start)
            self.next_start += self.hop
        # The last window of a track may begin before the next one that is due.
        keep_from = max(self.held_from, min(self.next_start, total - self.window))
        self.held, self.held_from = self.held[keep_from - self.held_from :].copy(), keep_from

    def finish(self) -> Iterator[tuple[int, Wave]]:
        """What no window has reached: the end of the track or, where it is shorter than one, all of it, repeated."""
        total = self.held_from + len(self.held)
        if not self.spans and total:
            self.spans.append((0, total))
            yield 0, fill_frame(self.held, self.window)
        elif self.spans and self.spans[-1][1] < total:
            yield self._window(total - self.window)

    def _window(self, start: int) -> tuple[int, Wave]:
        self.spans.append((start, start + self.window))
        offset = start - self.held_from
        return len(self.spans) - 1, self.held[offset : offset + self.window]

    def rows(self, rate_hz: int, outputs: int) -> Rows:
        """All windows with their scores."""
        rows = np.zeros(len(self.spans), row_type(outputs))
        rows["start_s"], rows["end_s"] = np.array(self.spans).T / rate_hz
        rows["scores"] = np.stack([self.scores[number] for number in range(len(self.spans))])
        return rows


class _Lesson:
    """One teacher's pass over many tracks, whose sound is handed to it piece by piece (`take`)."""

    def __init__(self, teacher: Teacher, cache: Path, device: str, tracks: Mapping[Path, str]) -> None:
        self._teacher, self._folder, self._device = teacher, teacher.folder(cache), device
        self._outputs = len(teacher.card.outputs)
        self._digests = tracks
        files: dict[str, list[Path]] = {}
        for path, digest in tracks.items():
            files.setdefault(digest, []).append(path)
        self.missing = {d: f for d, f in files.items() if read_rows(self._folder, d, self._outputs) is None}
        """Files of each sound that is still to be heard, without those that were tried."""
        self.waiting: dict[Path, str] = {}
        """Files being heard, with the digests of their sounds."""
        self.failures: dict[Path, str] = {}
        self.heard_s = 0.0
        self._sounds = len(files)
        self._tracks: dict[Path, _Listener] = {}
        self._batch: list[tuple[_Listener, int, Wave]] = []

    @property
    def name(self) -> str:
        """The teacher's."""
        return self._teacher.card.name

    def unheard(self) -> set[str]:
        """Sounds that are being heard, or that have a file which was not tried."""
        return {*self.waiting.values(), *(digest for digest, paths in self.missing.items() if paths)}

    def standing(self) -> str:
        """What was heard before, as a sentence."""
        return f"teacher {self.name}: has heard {self._sounds - len(self.missing):,} of {self._sounds:,} tracks"

    def begin(self) -> bool:
        """Take up one file of each sound; of what failed, a copy elsewhere may still be readable. False for nothing."""
        self.missing = {digest: paths for digest, paths in self.missing.items() if paths}
        self.waiting = {paths.pop(0): digest for digest, paths in self.missing.items()}
        return bool(self.waiting)

    def take(self, answer: Frame | Finished | Failed) -> None:
        """A piece of a track, its end, or why there is none."""
        if isinstance(answer, Frame):
            self._frame(answer)
        elif isinstance(answer, Failed):
            self._fail(answer.path, answer.reason)
        elif answer.decoded.status != "ok":
            self._fail(answer.path, answer.decoded.status)
        else:
            track = self._tracks[answer.path]
            self._score_full(track, track.finish())
            track.decoded = answer.decoded
            if track.complete:
                self._complete(track)

    def end(self) -> None:
        """Score what is left. Only a pass that was stopped leaves tracks unfinished."""
        self._score()
        self._tracks.clear()

    @cached_property
    def _predict(self) -> Predictor:
        device = pick_device(self._device)
        windows = round(BATCH_FRAMES.get(device.type, 8) * BATCH_S / self._teacher.card.front_end.frame_s)
        # Where it is the faster one: its rounding, 0.02 of a logit on average, is far below what teachers differ by, so
        # that the cache does not tell its scores from those of float32.
        return Predictor(self._teacher.model, str(device), max(1, windows), bfloat16=has_bfloat16(device))

    def _frame(self, frame: Frame) -> None:
        if frame.index == 0:
            self._forget(frame.path)
            self._tracks[frame.path] = _Listener(frame.path, self._teacher.window_samples, self._teacher.hop_samples)
        track = self._tracks[frame.path]
        self._score_full(track, track.push(frame.wave))

    def _score_full(self, track: _Listener, windows: Iterator[tuple[int, Wave]]) -> None:
        for number, wave in windows:
            self._batch.append((track, number, wave))
            if len(self._batch) >= self._predict.batch_frames:
                self._score()

    def _score(self) -> None:
        if not self._batch:
            return
        batch, self._batch = self._batch, []
        scores = self._predict([wave for _, _, wave in batch]).scores
        for (track, number, _), score in zip(batch, scores, strict=True):
            track.scores[number] = score
        for track in dict.fromkeys(track for track, _, _ in batch):
            if track.complete:
                self._complete(track)

    def _complete(self, track: _Listener) -> None:
        assert track.decoded is not None
        rows = track.rows(self._teacher.card.front_end.sample_rate_hz, self._outputs)
        if not np.isfinite(rows["scores"]).all():
            self._fail(track.path, "its scores for it are no numbers; are the file's samples absurdly large?")
            return
        del self._tracks[track.path]
        digest = self.waiting.pop(track.path)
        del self.missing[digest]
        self.failures = {path: why for path, why in self.failures.items() if self._digests[path] != digest}
        _write_rows(self._folder, digest, rows)
        self.heard_s += track.decoded.duration_s

    def _fail(self, path: Path, reason: str) -> None:
        self._forget(path)
        del self.waiting[path]
        self.failures[path] = reason

    def _forget(self, path: Path) -> None:
        track = self._tracks.pop(path, None)
        self._batch = [waiting for waiting in self._batch if waiting[0] is not track]
