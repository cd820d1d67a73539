"""Cached teacher scores: each track is scored once by each teacher, window by window, and kept for later runs.

`<cache>/teachers/<model>-<window>-<hop>/<ab>/<digest>.npy` holds one row per window, with its position in the track.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from musictagger.audio.frames import Wave
from musictagger.config import Settings
from musictagger.models.card import Card
from musictagger.models.find import find_or_pull
from musictagger.models.inference import BATCH_FRAMES, Predictor, has_bfloat16, pick_device
from musictagger.models.weights import Model, load_model
from musictagger.paths import replacing
from musictagger.pipeline.analyse import BatchPredictor, Completed
from musictagger.pipeline.pool import Decoding
from musictagger.pipeline.stream import Event, find_sources, stream
from musictagger.pipeline.worker import Failed, Finished, Frame, Inspected
from musictagger.progress import SILENT, Progress
from musictagger.training.melcache.files import disk_errors, track_file
from musictagger.training.melcache.fill import whole_track

HOPS_PER_WINDOW = 4
"""Windows as long as a frame overlap by three quarters, so that several of them cover any excerpt of a track."""

BATCH_S = 29.12
"""BATCH_FRAMES counts frames of this length; a batch holds more of shorter windows."""

WindowScores = npt.NDArray[Any]
"""One teacher's scores of one track: [windows] of start_s, end_s (float32) and scores (float16 [outputs])."""


@dataclass(frozen=True)
class Teacher:
    """A model and its windows: `window_samples` every `hop_samples`, at the sample rate of its front end."""

    model: Model
    """With a front end whose frame is the window."""
    key: str
    """The key of the original model."""
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
        """Return the folder of its scores in `cache`."""
        return cache / "teachers" / f"{self.key[:16]}-{self.window_samples}-{self.hop_samples}"


def make_teacher(model: Model) -> Teacher:
    """Make a teacher of a model.

    A backbone that averages over patches (musicnn) scores them one by one, so that the scores of any excerpt can be
    computed from theirs; any other backbone scores whole frames, as in training, at every quarter of a frame.
    """
    front_end = model.card.front_end
    patch = model.bare.patch_columns
    card = dataclasses.replace(
        model.card, front_end=dataclasses.replace(front_end, frame_hops=patch or front_end.frame_hops)
    )
    window_samples = card.front_end.frame_samples
    return Teacher(Model(card, model.backbone), model.card.key, window_samples // (1 if patch else HOPS_PER_WINDOW))


def load_teachers(names: Sequence[str], settings: Settings, progress: Progress = SILENT) -> list[Teacher]:
    """Load the models of these names (or paths) as teachers; fetch a published one that is missing.

    Raises BadRequestError for an unknown name, ModelError when a model cannot be fetched or loaded.
    """
    teachers = []
    for name in dict.fromkeys(names):
        weights = find_or_pull(name, settings.model_folders, progress)
        teachers.append(make_teacher(load_model(weights, settings.plugin_folders)))
    return teachers


@dataclass(frozen=True)
class TeacherPasses:
    """The files that a teacher could not score, with the reasons, and whether the work was interrupted."""

    failures: Mapping[Path, str]
    interrupted: bool


def cache_teacher_scores(
    teachers: Sequence[Teacher],
    tracks: Mapping[Path, str],
    cache: Path,
    *,
    decoding: Decoding,
    progress: Progress,
    device: str = "auto",
) -> TeacherPasses:
    """Compute the missing scores of `tracks`, files with the digests of their audio.

    Teachers with the same sample rate share the decoding. Finished scores are kept, also when `progress.stopping` ends
    the work early. Raises MusictaggerError when scores cannot be written.
    """
    failures: dict[Path, str] = {}
    by_rate: dict[int, list[Teacher]] = {}
    for teacher in teachers:
        by_rate.setdefault(teacher.card.front_end.sample_rate_hz, []).append(teacher)
    for rate_hz, group in by_rate.items():
        passes = [_TeacherPass(teacher, cache, device, tracks) for teacher in group]
        for each in passes:
            progress.say(each.describe())
        if unfinished := [each for each in passes if each.missing]:
            scored = _score(unfinished, tracks, rate_hz, decoding, progress)
            failures = {**scored.failures, **failures}
            if scored.interrupted:
                return TeacherPasses(failures, True)
    return TeacherPasses(failures, False)


def score_type(outputs: int) -> np.dtype[Any]:
    """Return the type of a row of `WindowScores` of a teacher with this number of outputs."""
    return np.dtype([("start_s", "<f4"), ("end_s", "<f4"), ("scores", "<f2", (outputs,))])


def read_scores(teacher: Teacher, cache: Path, digest: str) -> WindowScores | None:
    """Read a teacher's scores of a track; None when they are missing or the file is damaged."""
    try:
        rows = np.load(track_file(teacher.folder(cache), digest), allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    expected = score_type(len(teacher.card.outputs))
    intact = rows.dtype == expected and rows.ndim == 1 and len(rows) and np.isfinite(rows["scores"]).all()
    return rows if intact else None


def _score(
    passes: Sequence[_TeacherPass], tracks: Mapping[Path, str], rate_hz: int, decoding: Decoding, progress: Progress
) -> TeacherPasses:
    """Score the tracks that any of these teachers, which have one sample rate, has not scored."""
    missing = {digest for each in passes for digest in each.missing}
    sources, failed = find_sources({path: digest for path, digest in tracks.items() if digest in missing})
    done, scored_s = 0, 0.0
    if sources:
        progress.start(f"teachers {', '.join(each.name for each in passes)}", len(sources), "tracks")
    rule = whole_track(rate_hz)
    with stream(sources, rate_hz=rate_hz, rule=rule, decoding=decoding, progress=progress) as events:
        for event in events:
            if progress.stopping:
                break
            for each in passes:
                if tracks[event.file.path] in each.missing:
                    each.take(event)
            if isinstance(event, Failed):
                failed[event.file.path] = event.reason
            if not isinstance(event, Frame | Inspected):
                done += 1
                scored_s += event.decoded.duration_s if isinstance(event, Finished) else 0.0
                progress.advance(done, audio_s=scored_s)
    for each in passes:
        each.flush()
    failures = {
        path: f"teacher {each.name}: {reason}"
        # In reverse, so that the first teacher concerned gives the reason.
        for each in reversed(passes)
        for path, digest in tracks.items()
        if digest in each.missing and (reason := each.unusable.get(digest) or failed.get(path))
    }
    return TeacherPasses(failures, done < len(sources))


@dataclass(eq=False)
class _Windows:
    """Cuts the blocks of a track into a teacher's windows. It holds one window, one hop and one block."""

    window: int
    hop: int
    spans: list[tuple[int, int]] = field(default_factory=list)
    """Start and end of each window, in samples of the track."""
    _held: Wave = field(default_factory=lambda: np.zeros(0, np.float32))
    _held_from: int = 0
    _next_start: int = 0

    def push(self, block: Wave) -> Iterator[tuple[int, Wave]]:
        """Take the next block, float32 [samples]; yield the windows that it completes, each with its number."""
        self._held = np.concatenate([self._held, block])
        total = self._held_from + len(self._held)
        while self._next_start + self.window <= total:
            yield self._window(self._next_start)
            self._next_start += self.hop
        # The last window of a track may begin before the next one that is due.
        keep_from = max(self._held_from, min(self._next_start, total - self.window))
        self._held, self._held_from = self._held[keep_from - self._held_from :].copy(), keep_from

    def finish(self) -> Iterator[tuple[int, Wave]]:
        """Yield one more window for the end of the track; a track shorter than a window is repeated to fill it."""
        total = self._held_from + len(self._held)
        if not self.spans and total:
            self.spans.append((0, total))
            yield 0, np.resize(self._held, self.window)
        elif self.spans and self.spans[-1][1] < total:
            yield self._window(total - self.window)

    def _window(self, start: int) -> tuple[int, Wave]:
        self.spans.append((start, start + self.window))
        offset = start - self._held_from
        return len(self.spans) - 1, self._held[offset : offset + self.window]


class _TeacherPass:
    """One teacher's pass over many tracks, whose audio arrives in blocks."""

    def __init__(self, teacher: Teacher, cache: Path, device: str, tracks: Mapping[Path, str]) -> None:
        self._teacher, self._folder, self._device, self._tracks = teacher, teacher.folder(cache), device, tracks
        self.name = teacher.card.name
        digests = set(tracks.values())
        self._total = len(digests)
        self.missing = {digest for digest in digests if read_scores(teacher, cache, digest) is None}
        """Digests without scores."""
        self.unusable: dict[str, str] = {}
        """The reasons why tracks cannot be scored, by digest."""
        self._windows: dict[Path, _Windows] = {}

    def describe(self) -> str:
        return f"teacher {self.name}: {self._total - len(self.missing):,} of {self._total:,} tracks already scored"

    def take(self, event: Event) -> None:
        path = event.file.path
        match event:
            case Frame():
                if event.index == 0:
                    self._windows[path] = _Windows(self._teacher.window_samples, self._teacher.hop_samples)
                self._predict(path, self._windows[path].push(event.wave))
            case Finished() if event.decoded.status == "ok":
                windows = self._windows[path]
                self._predict(path, windows.finish())
                self._store(self._predictor.finish(path, len(windows.spans)))
            case Finished():
                self.unusable[event.digest] = event.decoded.status
                self._discard(path)
            case Failed():
                self._discard(path)

    def flush(self) -> None:
        """Score the windows that wait for a full batch."""
        if self._windows:
            self._store(self._predictor.flush())

    @cached_property
    def _predictor(self) -> BatchPredictor:
        device = pick_device(self._device)
        windows = round(BATCH_FRAMES.get(device.type, 8) * BATCH_S / self._teacher.card.front_end.frame_s)
        # bfloat16 where it is faster: its rounding, 0.02 of a logit on average, is far below the differences
        # between teachers, so the cache does not distinguish its scores from those of float32.
        predictor = Predictor(self._teacher.model, str(device), max(1, windows), bfloat16=has_bfloat16(device))
        return BatchPredictor(predictor)

    def _predict(self, path: Path, windows: Iterable[tuple[int, Wave]]) -> None:
        for number, wave in windows:
            self._store(self._predictor.add(path, number, wave))

    def _store(self, completed: Completed) -> None:
        for track, prediction in completed:
            digest, spans = self._tracks[track], self._windows.pop(track).spans
            rows = np.zeros(len(spans), score_type(len(self._teacher.card.outputs)))
            rows["start_s"], rows["end_s"] = np.array(spans).T / self._teacher.card.front_end.sample_rate_hz
            rows["scores"] = prediction.scores
            if np.isfinite(rows["scores"]).all():
                path = track_file(self._folder, digest)
                with disk_errors(self._folder):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with replacing(path) as temporary, temporary.open("wb") as file:
                        np.save(file, rows, allow_pickle=False)
                self.missing.discard(digest)
            else:
                self.unusable[digest] = "its scores are not finite; are the file's samples absurdly large?"

    def _discard(self, path: Path) -> None:
        if self._windows.pop(path, None) is not None:
            self._predictor.discard(path)
