"""The log-mel spectrograms of whole tracks on disk, computed once per track, so that training never decodes.

`MelCache.fill` computes what is missing; `MelCache.mel(digest)` is then a track, memory-mapped, float16 [columns,
n_mels], in the values of `LogMel.spectrogram`: `mel[start : start + columns]` is a training excerpt, and
`LogMel.normalise` of its transpose is the input of the backbone. A track shorter than one frame is not repeated.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import mutagen

from musictagger.audio.frames import evenly
from musictagger.audio.frontend import FrontEnd
from musictagger.audio.logmel import LogMel
from musictagger.audio.walk import FoundFile, stat_file
from musictagger.errors import MusictaggerError, printable
from musictagger.pipeline.pool import Decoding
from musictagger.pipeline.stream import Known, SourceFile, stream
from musictagger.pipeline.worker import Inspected
from musictagger.progress import Progress
from musictagger.training.melcache.files import MelColumns, MelFolder, disk_errors, mel_bytes, sweep_unfinished
from musictagger.training.melcache.fill import fill_mels, whole_track
from musictagger.training.melcache.index import FileIndex

OPEN_FILES = 256
"""Tracks kept open by one process: a quarter of the usual limit of open files."""

HEADERS_READ = 400
"""Files, evenly spaced, whose headers are read for an estimate: within 3 % where lengths deviate by half their mean."""

SPARE_SHARE = 0.05
"""Free space required beyond the estimate."""

SPECTROGRAM_VERSION = 1
"""Must be raised when decoding, resampling or `LogMel.spectrogram` change their results: all tracks are then redone."""

_MIN_BYTES_PER_S = 500
"""4 kbit/s: limits the length of a file by its size, whatever its header states."""
_TYPICAL_S = 240.0
"""The length assumed for a track when no header states one."""


@dataclass(frozen=True)
class Cached:
    """A track in the cache: its digest, the number of its columns, its length to the precision of one hop."""

    digest: str
    columns: int
    duration_s: float


@dataclass(frozen=True)
class Filled:
    """The files that are cached, and those that cannot be used, with the reasons."""

    entries: Mapping[Path, Cached]
    failures: Mapping[Path, str]
    interrupted: bool


@dataclass(frozen=True)
class CacheEstimate:
    """The work of `fill`. Copies count separately, since they are recognised only when they are read."""

    folder: Path
    cached: int
    tracks: int
    hours: float
    needed_bytes: int
    free_bytes: int

    def __str__(self) -> str:
        if not self.tracks:
            return f"mel cache {printable(self.folder)}: {self.cached:,} tracks cached, none missing"
        return (
            f"mel cache {printable(self.folder)}: {self.cached:,} tracks cached, {self.tracks:,} missing, about "
            f"{self.hours:,.1f} h and {_size(self.needed_bytes)} of {_size(self.free_bytes)} free"
        )

    def require_room(self) -> None:
        """Raise MusictaggerError when the disk has too little free space."""
        if self.needed_bytes * (1 + SPARE_SHARE) > self.free_bytes:
            raise MusictaggerError(f"{self}; free some space, or choose another folder for the cache")


@dataclass
class _Survey:
    entries: dict[Path, Cached] = field(default_factory=dict)
    failures: dict[Path, str] = field(default_factory=dict)
    todo: list[SourceFile] = field(default_factory=list)


class MelCache:
    """The spectrograms of one front end in `folder`, which may hold those of other front ends as well."""

    def __init__(self, folder: Path, front_end: FrontEnd) -> None:
        self.folder = folder
        self.front_end = front_end
        self._mels = MelFolder(folder / spectrogram_key(front_end), front_end.n_mels)
        self._opened = functools.lru_cache(OPEN_FILES)(self._mels.open)

    def __reduce__(self) -> tuple[type[MelCache], tuple[Path, FrontEnd]]:
        """Another process opens its own files."""
        return type(self), (self.folder, self.front_end)

    def mel(self, digest: str) -> MelColumns:
        """Return a track, read-only, float16 [columns, n_mels]. Raises MusictaggerError when it is missing."""
        return self._opened(digest)

    def estimate(self, paths: Sequence[Path], durations: Mapping[Path, float] | None = None) -> CacheEstimate:
        """Estimate the work of `fill`. `durations`, in seconds, replace those that headers do not state."""
        index = FileIndex(self.folder)
        return self._estimate(self._survey(paths, index), durations or {})

    def digests(self, paths: Sequence[Path], *, decoding: Decoding, progress: Progress) -> dict[Path, str]:
        """Return the digests of files that need no spectrogram, without those that cannot be read.

        Ends early once `progress.stopping`. Raises MusictaggerError when the index cannot be written.
        """
        index = FileIndex(self.folder)
        files = [file for path in dict.fromkeys(paths) if isinstance(file := stat_file(path), FoundFile)]
        digests = {file.path: digest for file in files if (digest := index.digest(file)) is not None}
        unknown = [SourceFile(file) for file in files if file.path not in digests]
        if not unknown:
            return digests
        progress.start("looking for copies", len(unknown), "tracks")
        rate_hz = self.front_end.sample_rate_hz
        with (
            contextlib.closing(index),
            # Since every digest counts as known, nothing is decoded.
            stream(
                unknown,
                rate_hz=rate_hz,
                rule=whole_track(rate_hz),
                decoding=decoding,
                progress=progress,
                known=lambda digest: True,
            ) as events,
        ):
            # `Known` follows each `Inspected` at once.
            ended = (event for event in events if not isinstance(event, Known))
            for done, event in enumerate(ended, 1):
                if progress.stopping:
                    break
                if isinstance(event, Inspected):
                    index.record(event.file, event.digest)
                    digests[event.file.path] = event.digest
                progress.advance(done)
        return digests

    def fill(
        self,
        paths: Sequence[Path],
        *,
        decoding: Decoding,
        progress: Progress,
        durations: Mapping[Path, float] | None = None,
    ) -> Filled:
        """Compute the missing spectrograms of `paths`; a file that cannot be used is among the failures.

        Reports the estimate first. Finished tracks are kept, also when `progress.stopping` ends the work early, and
        after any error. Raises MusictaggerError when the disk has too little space, at the start or later.
        """
        sweep_unfinished(self._mels.folder)
        index = FileIndex(self.folder)
        survey = self._survey(paths, index)
        estimate = self._estimate(survey, durations or {})
        progress.say(str(estimate))
        estimate.require_room()
        logmel = LogMel(self.front_end)
        with contextlib.closing(index):
            digests, failures = fill_mels(survey.todo, self._mels, logmel, index, decoding=decoding, progress=progress)
        entries = survey.entries | {path: entry for path, digest in digests.items() if (entry := self._entry(digest))}
        return Filled(
            {path: entries[path] for path in dict.fromkeys(paths) if path in entries},
            survey.failures | failures,
            interrupted=len(digests) + len(failures) < len(survey.todo),
        )

    def _survey(self, paths: Iterable[Path], index: FileIndex) -> _Survey:
        """Sort files into those that are cached, those that cannot be read, and those to compute."""
        survey = _Survey()
        for path in dict.fromkeys(paths):
            file = stat_file(path)
            if not isinstance(file, FoundFile):
                survey.failures[path] = file.reason
                continue
            digest = index.digest(file)
            if digest and (entry := self._entry(digest)):
                survey.entries[path] = entry
            else:
                survey.todo.append(SourceFile(file, digest))
        return survey

    def _estimate(self, survey: _Survey, durations: Mapping[Path, float]) -> CacheEstimate:
        seconds = _total_s([source.file for source in survey.todo], durations)
        front_end = self.front_end
        columns = round(seconds * front_end.sample_rate_hz / front_end.hop_samples) + len(survey.todo)
        needed = mel_bytes(columns, front_end.n_mels) if survey.todo else 0
        return CacheEstimate(
            self.folder, len(survey.entries), len(survey.todo), seconds / 3600, needed, _free_bytes(self.folder)
        )

    def _entry(self, digest: str) -> Cached | None:
        columns = self._mels.columns(digest)
        if columns is None:
            return None
        return Cached(digest, columns, (columns - 1) * self.front_end.hop_samples / self.front_end.sample_rate_hz)


def spectrogram_key(front_end: FrontEnd) -> str:
    """Return 16 hex digits, the same for front ends with the same `LogMel.spectrogram`."""
    numbers = front_end.to_json() | {"version": SPECTROGRAM_VERSION}
    for later in ("frame_hops", "top_db", "reference", "standardise"):
        del numbers[later]
    for other in ("gain",) if front_end.compression == "db" else ("mel_exponent", "amin"):
        del numbers[other]
    numbers["f_max_hz"] = front_end.f_max_hz or front_end.sample_rate_hz / 2
    # 1 and 1.0 must give the same key.
    plain = {name: float(value) if isinstance(value, int | float) else value for name, value in numbers.items()}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def _total_s(files: Sequence[FoundFile], durations: Mapping[Path, float]) -> float:
    """Return the length of all files, extrapolated from evenly spaced ones when there are many.

    Headers take precedence over `durations`: FMA's labels state the length of a track of which the file holds 30 s.
    """
    sample = [files[index] for index in evenly(list(range(len(files))), HEADERS_READ)]
    stated = [_stated_s(file) or durations.get(file.path) for file in sample]
    known = [seconds for seconds in stated if seconds is not None]
    return len(files) * (sum(known) / len(known) if known else _TYPICAL_S)


def _stated_s(file: FoundFile) -> float | None:
    """Return the length that a file's header states."""
    try:
        found = mutagen.File(file.path)
        seconds = float(found.info.length)
    except Exception:
        # A damaged header can make mutagen fail in any way; the decoder will report what is wrong with the file.
        return None
    return min(seconds, file.size / _MIN_BYTES_PER_S) if seconds > 0 else None


def _free_bytes(folder: Path) -> int:
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    with disk_errors(folder):
        return shutil.disk_usage(existing).free


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"
