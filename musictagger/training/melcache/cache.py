"""The mel of whole tracks on disk, made once for every sound, so that training never decodes.

`cache = MelCache(folder, front_end)`; `cache.estimate(paths)` says what is missing and how much room it takes;
`cache.fill(paths, ...)` makes it; `cache.mel(digest)` is then a track as memory, float16 [columns, n_mels], in the
values of `LogMel.level`: a window is `mel[start : start + columns]`, and `LogMel.frame` of it, turned, is what the
model hears. A track shorter than one frame is as long as it is.

Whoever needs the waves themselves, at whatever rate, takes them block by block from `stream_waves`:

    for answer in stream_waves(paths, rate_hz, workers=2, timeout_s=120, block_s=30, stop=stop):
        Frame(path, index, wave)   the next block of a track, float32 [samples] mono; index 0 starts the track over
        Finished(path, decoded)    no more blocks; music only where decoded.status == "ok"
        Failed(path, reason)       forget its blocks

(the three are those of musictagger.pipeline.worker; blocks of up to `workers` tracks are interleaved, each track's in
order, the last one of a track shorter, none repeated or dropped).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import mutagen

from musictagger.audio.frames import evenly
from musictagger.audio.frontend import FrontEnd
from musictagger.audio.logmel import LogMel
from musictagger.audio.walk import FoundFile
from musictagger.errors import MusictaggerError, printable, reason_of
from musictagger.pipeline.pool import DEFAULT_TIMEOUT_S, WorkerPool
from musictagger.progress import Progress
from musictagger.training.melcache.files import Mel, check_mel, disk_errors, mel_bytes, open_mel, sweep_unfinished
from musictagger.training.melcache.fill import Filler, MissingMel, inspected, stream_waves
from musictagger.training.melcache.index import FILE_NAME, FileIndex

__all__ = ["CacheEstimate", "Cached", "Filled", "MelCache", "stream_waves"]

OPEN_FILES = 256
"""Tracks kept open by one process, a quarter of the files that it may usually have open."""

HEADERS_READ = 400
"""Files asked for their length, evenly spaced: with lengths that differ by a half, the sum is good to 3 %."""

SPARE_SHARE = 0.05
"""Room asked for beyond what the plan needs."""

LEVEL_VERSION = 1
"""Goes up when decoding, resampling or `LogMel.level` begin to give other values: then all is made anew."""

_LEAST_BYTES_A_S = 500
"""A file is not longer than its size at 4 kbit/s, whatever its header says."""
_USUAL_S = 240.0
"""The length of a track where no header tells any."""


@dataclass(frozen=True)
class Cached:
    """A track in the cache: the digest of its sound, its mel columns, its length to one hop."""

    digest: str
    columns: int
    duration_s: float


@dataclass(frozen=True)
class Filled:
    """What became of the files: those that are cached, and those that cannot be used, with the reason."""

    entries: Mapping[Path, Cached]
    failures: Mapping[Path, str]
    interrupted: bool


@dataclass(frozen=True)
class CacheEstimate:
    """What `fill` would make. Copies of one sound are counted each: which they are is known only when they are read."""

    folder: Path
    cached: int
    tracks: int
    hours: float
    needed_bytes: int
    free_bytes: int

    def __str__(self) -> str:
        if not self.tracks:
            return f"mel cache {printable(self.folder)}: {self.cached:,} tracks cached, none to make"
        return (
            f"mel cache {printable(self.folder)}: {self.cached:,} tracks cached, {self.tracks:,} to make, about "
            f"{self.hours:,.1f} h and {_size(self.needed_bytes)} of {_size(self.free_bytes)} free"
        )

    def require_room(self) -> None:
        """Raise MusictaggerError where the disk has too little room."""
        # What headers state is not exact, and a disk filled to its last byte serves nobody.
        if self.needed_bytes * (1 + SPARE_SHARE) > self.free_bytes:
            raise MusictaggerError(f"{self}; free some space, or choose another folder for the cache")


@dataclass
class _Survey:
    entries: dict[Path, Cached] = field(default_factory=dict)
    failures: dict[Path, str] = field(default_factory=dict)
    todo: list[MissingMel] = field(default_factory=list)


class MelCache:
    """The mel of tracks under one front end in `folder`, which may hold those of other front ends as well."""

    def __init__(self, folder: Path, front_end: FrontEnd) -> None:
        self.folder = folder
        self.front_end = front_end
        self._own = folder / level_key(front_end)
        self._opened = functools.lru_cache(OPEN_FILES)(self._open)

    def __reduce__(self) -> tuple[type[MelCache], tuple[Path, FrontEnd]]:
        """A process that is started anew opens files of its own."""
        return type(self), (self.folder, self.front_end)

    def mel(self, digest: str) -> Mel:
        """A track, read-only memory-mapped float16 [columns, n_mels]. Raises MusictaggerError where it is gone."""
        return self._opened(digest)

    def estimate(self, paths: Sequence[Path], durations: Mapping[Path, float] | None = None) -> CacheEstimate:
        """What `fill` would make of `paths`; `durations` in seconds stand in where a file's header tells none."""
        index = FileIndex(self.folder / FILE_NAME)
        return self._plan(self._survey(paths, index), durations or {})

    def digests(
        self,
        paths: Sequence[Path],
        *,
        workers: int,
        progress: Progress,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        stop: Callable[[], bool] = lambda: False,
    ) -> dict[Path, str]:
        """Which sounds are in files whose mel nobody needs; a file that cannot be read is left out.

        Ends early once `stop` says True. Raises MusictaggerError where the disk refuses.
        """
        index = FileIndex(self.folder / FILE_NAME)
        files = [file for path in dict.fromkeys(paths) if isinstance(file := _file(path), FoundFile)]
        digests = {file.path: digest for file in files if (digest := index.digest(file)) is not None}
        unknown = [file.path for file in files if file.path not in digests]
        if not unknown:
            return digests
        progress.start("looking for copies", len(unknown), "tracks")
        with disk_errors(self.folder), contextlib.closing(index):
            answers = inspected(unknown, workers=workers, timeout_s=timeout_s, stop=stop)
            for done, answer in enumerate(answers, 1):
                digests[answer.path] = answer.digest
                progress.advance(done)
                index.record(FoundFile(answer.path, answer.size, answer.mtime_ns), answer.digest)
        return digests

    def fill(
        self,
        paths: Sequence[Path],
        *,
        workers: int,
        progress: Progress,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        stop: Callable[[], bool] = lambda: False,
        durations: Mapping[Path, float] | None = None,
    ) -> Filled:
        """Make what is missing of `paths`; a file that cannot be used is among the failures and stops nothing.

        Says its plan first. Once `stop` says True, or after any error, what is done is kept and is not done again.
        Raises MusictaggerError where the disk has too little room, before the start or on the way.
        """
        sweep_unfinished(self._own)
        index = FileIndex(self.folder / FILE_NAME)
        survey = self._survey(paths, index)
        plan = self._plan(survey, durations or {})
        progress.say(str(plan))
        plan.require_room()
        whole = self._fill(survey, index, workers, timeout_s, progress, stop) if survey.todo else True
        ordered = [path for path in dict.fromkeys(paths) if path in survey.entries]
        return Filled({path: survey.entries[path] for path in ordered}, survey.failures, not whole)

    def _fill(
        self,
        survey: _Survey,
        index: FileIndex,
        workers: int,
        timeout_s: float,
        progress: Progress,
        stop: Callable[[], bool],
    ) -> bool:
        progress.start("mel cache", len(survey.todo), "tracks")
        begun_s, done, made_s = time.monotonic(), 0, 0.0

        def tell(path: Path, digest: str | None, columns: int, reason: str) -> None:
            nonlocal done, made_s
            if digest is None or reason:
                survey.failures[path] = reason
            else:
                survey.entries[path] = self._entry(digest, columns)
                made_s += survey.entries[path].duration_s
            done += 1
            progress.advance(done, x_real_time=made_s / max(1e-3, time.monotonic() - begun_s))

        def record(file: FoundFile, digest: str) -> None:
            with disk_errors(self.folder):
                index.record(file, digest)

        workers = max(1, min(workers, len(survey.todo)))
        with WorkerPool(workers, timeout_s) as pool:
            filler = Filler(
                self._own,
                LogMel(self.front_end),
                pool,
                workers,
                path_of=self._path,
                cached_columns=self._columns,
                inspected=record,
                done=tell,
            )
            try:
                return filler.run(survey.todo, stop)
            finally:
                with disk_errors(self.folder):
                    index.close()

    def _survey(self, paths: Iterable[Path], index: FileIndex) -> _Survey:
        """What is cached, what is not there, and what is to do."""
        survey = _Survey()
        for path in dict.fromkeys(paths):
            file = _file(path)
            if isinstance(file, str):
                survey.failures[path] = file
                continue
            digest = index.digest(file)
            columns = digest and self._columns(digest)
            if digest and columns:
                survey.entries[path] = self._entry(digest, columns)
            else:
                survey.todo.append(MissingMel(file, digest))
        return survey

    def _plan(self, survey: _Survey, durations: Mapping[Path, float]) -> CacheEstimate:
        seconds = _total_s([todo.file for todo in survey.todo], durations)
        front_end = self.front_end
        columns = round(seconds * front_end.sample_rate_hz / front_end.hop_samples) + len(survey.todo)
        needed = mel_bytes(columns, front_end.n_mels) if survey.todo else 0
        return CacheEstimate(
            self.folder, len(survey.entries), len(survey.todo), seconds / 3600, needed, _free_bytes(self.folder)
        )

    def _entry(self, digest: str, columns: int) -> Cached:
        duration_s = (columns - 1) * self.front_end.hop_samples / self.front_end.sample_rate_hz
        return Cached(digest, columns, duration_s)

    def _path(self, digest: str) -> Path:
        return self._own / digest[:2] / f"{digest}.npy"

    def _columns(self, digest: str) -> int | None:
        """Of a whole file; a damaged one is removed, so that it is made again."""
        path = self._path(digest)
        with disk_errors(self.folder):
            columns = check_mel(path, self.front_end.n_mels)
            if columns is None:
                path.unlink(missing_ok=True)
        return columns

    def _open(self, digest: str) -> Mel:
        return open_mel(self._path(digest), self.front_end.n_mels)


def level_key(front_end: FrontEnd) -> str:
    """16 hex digits that two front ends share when `LogMel.level` gives the same under both."""
    numbers = front_end.to_json() | {"version": LEVEL_VERSION}
    for later in ("frame_hops", "top_db", "reference", "standardise"):
        del numbers[later]
    for other in ("gain",) if front_end.compression == "db" else ("mel_exponent", "amin"):
        del numbers[other]
    numbers["f_max_hz"] = front_end.f_max_hz or front_end.sample_rate_hz / 2
    # 1 and 1.0 are the same number.
    plain = {name: float(value) if isinstance(value, int | float) else value for name, value in numbers.items()}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def _file(path: Path) -> FoundFile | str:
    """A file, or why it is not there."""
    try:
        status = path.stat()
    except OSError as error:
        return reason_of(error)
    return FoundFile(path, status.st_size, status.st_mtime_ns)


def _total_s(files: Sequence[FoundFile], durations: Mapping[Path, float]) -> float:
    """The length of all files, in proportion to that of some where they are many.

    A header counts before the labels: those of FMA give the length of the track, and the file is 30 s of it.
    """
    asked = [files[index] for index in evenly(list(range(len(files))), HEADERS_READ)]
    told = [_stated_s(file) or durations.get(file.path) for file in asked]
    known = [seconds for seconds in told if seconds is not None]
    return len(files) * (sum(known) / len(known) if known else _USUAL_S)


def _stated_s(file: FoundFile) -> float | None:
    """A file's length as its header has it."""
    try:
        found = mutagen.File(file.path)
        seconds = float(found.info.length)
    except Exception:
        # A damaged header can trip mutagen in any way; the decoder will say what is wrong with the file.
        return None
    return min(seconds, file.size / _LEAST_BYTES_A_S) if seconds > 0 else None


def _free_bytes(folder: Path) -> int:
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    with disk_errors(folder):
        return shutil.disk_usage(there).free


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"
