"""The pipeline: files -> those to analyse -> frames -> batches of many tracks -> scores -> database -> tags in files.

This process reads and writes the database and runs the backbone; the worker pool inspects and decodes.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from musictagger.audio.frames import Status
from musictagger.audio.walk import FoundFile, LeftOver, absolute, walk
from musictagger.config import Settings, frame_rule
from musictagger.errors import printable
from musictagger.library.store import Todo
from musictagger.library.view import track_views, view_of
from musictagger.models.inference import Predictor
from musictagger.pipeline.analyse import FileOutcome, analyse
from musictagger.pipeline.pool import Decoding
from musictagger.pipeline.stream import Known, SourceFile, stream
from musictagger.pipeline.worker import Failed, Inspected
from musictagger.pipeline.writing import TagWriter, plan_tracks
from musictagger.progress import Progress
from musictagger.records import Analysed
from musictagger.tags.containers.table import writable
from musictagger.tags.plan import FileChange
from musictagger.tags.safewrite import Edit, sweep

WRITE_CHUNK = 200
"""Tracks whose genres are looked up and written together."""


@dataclass
class ScanReport:
    """The result of a scan. Every file found is counted once: tagged, unchanged, skipped or failed."""

    tagged: int = 0
    """Tracks that got scores in this scan."""
    unchanged: int = 0
    """Tracks whose scores were known before, even under another path or with other tags."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Files without scores, by reason: too short, silent, failed before."""
    failures: list[tuple[Path, str]] = field(default_factory=list)
    """Files and folders that could not be read or decoded."""
    unwritten: list[tuple[Path, str]] = field(default_factory=list)
    """Files that could not be written; they are unchanged."""
    written: list[Edit] = field(default_factory=list)
    """Files whose fields were written."""
    planned: list[FileChange] = field(default_factory=list)
    """In a dry run, files whose fields would be written."""
    untaggable: Counter[str] = field(default_factory=Counter)
    """Files with a predicted genre whose container cannot hold tags, by container."""
    missing: int = 0
    """Files in the library that no longer exist."""
    audio_s: float = 0.0
    """Length of the audio analysed, in seconds."""
    seconds: float = 0.0
    interrupted: bool = False

    @property
    def realtime_factor(self) -> float:
        """Seconds of audio analysed per second."""
        return self.audio_s / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class ScanOptions:
    """Options of a single scan, beyond the settings."""

    all_files: bool = False
    force: bool = False
    retry_failed: bool = False
    dry_run: bool = False


@dataclass
class Scan:
    """Brings a library up to date with the files in some folders, and writes genres as the settings ask."""

    writer: TagWriter
    predictor: Predictor
    settings: Settings
    options: ScanOptions
    progress: Progress

    def __post_init__(self) -> None:
        self._report = ScanReport()
        self._store = self.writer.store
        # Stored with each analysis, which another slicing makes stale.
        self._rule_text = f"edges {self.settings.trim_edges:g} s, {self.settings.frames or 'all'} frames"
        self._model_id = self._store.model_id(self.predictor.card)
        self._view = view_of(self.predictor.card, self.settings)
        self._to_write: list[FoundFile] = []
        self._written: set[Path] = set()
        self._run: int | None = None

    def run(self, roots: Sequence[Path]) -> ScanReport:
        """Scan files and folders.

        Once `progress.stopping`, tracks already started are finished and stored, and no more are started.
        Raises BadRequestError for a root that does not exist, StoreError when the database fails; errors of single
        files are in the report.
        """
        started_s = time.monotonic()
        roots = [absolute(root) for root in roots]
        self._note = " ".join(printable(root) for root in roots)
        todo = self._todo(roots)
        if todo and not self.progress.stopping:
            self._analyse(todo)
        self._report.failures.sort()
        self._report.unwritten.sort()
        self._report.interrupted = self.progress.stopping
        self._report.seconds = time.monotonic() - started_s
        return self._report

    def _todo(self, roots: Sequence[Path]) -> list[Todo]:
        unread: list[Path] = []
        seen: set[int | None] = set()
        work: list[Todo] = []
        options, found = self.options, self._found(roots, unread)
        for todo in self._store.todo(
            found, self._model_id, self._rule_text, force=options.force, retry_failed=options.retry_failed
        ):
            seen.add(todo.file_id)
            if todo.need != "nothing":
                work.append(todo)
            elif todo.why == "unchanged":
                self._report.unchanged += 1
                self._write_later(todo.file, todo.has_genre)
            else:
                self._report.skipped[todo.why] += 1
        self._write()
        if not self.progress.stopping:
            self._report.missing = self._store.mark_missing(roots, seen, unread)
        self._store.commit()
        return work

    def _found(self, roots: Sequence[Path], unread: list[Path]) -> Iterator[FoundFile]:
        self.progress.start("looking for music", None, "files")
        files = 0
        for found in walk(roots, all_files=self.options.all_files):
            if self.progress.stopping:
                return
            if isinstance(found, FoundFile):
                files += 1
                self.progress.advance(files)
                yield found
            elif isinstance(found, LeftOver):
                sweep(found.path.parent)
            else:
                unread.append(found.path)
                self._fail(found.path, found.reason)

    def _analyse(self, todo: Sequence[Todo]) -> None:
        self.progress.say(f"{len(todo):,} {'file' if len(todo) == 1 else 'files'} to analyse")
        self.progress.start("analysing", len(todo), "files")
        front_end = self.predictor.card.front_end
        with stream(
            [SourceFile(item.file, item.digest if item.need == "analysis" else None) for item in todo],
            rate_hz=front_end.sample_rate_hz,
            rule=frame_rule(front_end, self.settings),
            decoding=Decoding.of(self.settings, cpu_inference=self.predictor.device.type == "cpu"),
            progress=self.progress,
            known=lambda digest: not self.options.force and self._status(digest) is not None,
        ) as events:
            done = 0
            for outcome in analyse(events, self.predictor):
                self._record(outcome)
                if not isinstance(outcome, Inspected):
                    done += 1
                    self.progress.advance(done, audio_s=self._report.audio_s)
        self._write()

    def _status(self, digest: str) -> Status | None:
        return self._store.known_status(digest, self._model_id, self._rule_text)

    def _record(self, outcome: FileOutcome) -> None:
        """Store an outcome, and commit: a killed scan loses only what is in memory."""
        match outcome:
            case Inspected():
                self._store.record_file(outcome.file, outcome.digest, outcome.tags)
            case Analysed():
                self._store.record_analysis(self._model_id, self._rule_text, outcome)
                self._report.audio_s += outcome.duration_s
                self._count(outcome, outcome.status)
            case Known():
                self._count(outcome, self._status(outcome.digest))
            case Failed():
                self._store.record_failure(outcome.file, outcome.reason, transient=outcome.transient)
                self._fail(outcome.file.path, outcome.reason)
        self._store.commit()

    def _count(self, outcome: Analysed | Known, status: Status | None) -> None:
        if status != "ok":
            self._report.skipped[str(status)] += 1
            return
        if isinstance(outcome, Known) and outcome.before:
            self._report.unchanged += 1
        else:
            self._report.tagged += 1
        self._write_later(outcome.file)

    def _fail(self, path: Path, reason: str) -> None:
        self._report.failures.append((path, reason))
        self.progress.failed(path, reason)

    def _write_later(self, file: FoundFile, has_genre: bool = False) -> None:
        """Note a track for `_write`, unless none of its fields needs writing."""
        settings = self.settings
        more = settings.moods or settings.provenance
        if settings.write == "none" or (settings.write == "fill" and has_genre and not more):
            return
        self._to_write.append(file)
        if len(self._to_write) >= WRITE_CHUNK:
            self._write()

    def _write(self) -> None:
        """Plan and write the fields of the tracks noted."""
        paths, self._to_write = [file.path for file in self._to_write], []
        tracks = [
            track for rows in self._store.tracks(self._model_id, paths) for track in track_views(rows, self._view)
        ]
        changes = plan_tracks(tracks, self.settings)
        self._report.untaggable.update(
            track.row.container for track in tracks if track.genres and not writable(track.row.container)
        )
        if self.options.dry_run or not changes:
            self._report.planned.extend(changes)
            return
        if self._run is None:
            self._run = self.writer.journal.start_run("scan", self._note)
        outcome = self.writer.apply(changes, self._run, self.progress, done=self._written)
        self._report.written.extend(outcome.written)
        self._report.unwritten.extend(outcome.refused)
