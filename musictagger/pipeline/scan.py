"""The pipeline: files -> what is to do -> frames -> batches of many tracks -> scores -> database -> tags in files.

This process reads and writes the database and runs the backbone; the worker pool inspects and decodes.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from musictagger.audio.frames import Status
from musictagger.audio.walk import FoundFile, LeftOver, absolute, walk
from musictagger.config import Settings, frame_rule
from musictagger.errors import printable
from musictagger.library.store import Store, Todo
from musictagger.library.view import look, view_of
from musictagger.models.inference import Predictor
from musictagger.pipeline.analyse import Analyser, Event, Job
from musictagger.pipeline.pool import WorkerPool
from musictagger.pipeline.worker import Inspected
from musictagger.pipeline.writing import TagWriter, plan_track
from musictagger.progress import Progress
from musictagger.records import Analysed, Broken, Known
from musictagger.tags.containers.table import writable
from musictagger.tags.journal import Journal
from musictagger.tags.plan import FileChange
from musictagger.tags.safewrite import Edit, WriteOptions, sweep

WRITE_CHUNK = 200
"""Tracks whose genres are looked up and written together."""

MAX_WORKERS = 16


@dataclass
class Report:
    """What a scan did. Every file found is counted once: tagged, unchanged, skipped or failed."""

    tagged: int = 0
    """Tracks that got scores in this scan."""
    unchanged: int = 0
    """Tracks whose scores were known, also under another path or with other tags."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Files without scores, by reason: too short, silent, failed before."""
    failures: list[tuple[Path, str]] = field(default_factory=list)
    """Files and folders that could not be read or decoded."""
    unwritten: list[tuple[Path, str]] = field(default_factory=list)
    """Files that should have been written and could not be; they are as they were."""
    written: list[Edit] = field(default_factory=list)
    """Files whose fields were written."""
    planned: list[FileChange] = field(default_factory=list)
    """In a dry run, files whose fields would be written."""
    untaggable: Counter[str] = field(default_factory=Counter)
    """Files that a genre was heard for and that cannot hold tags, by container."""
    missing: int = 0
    """Files known from earlier that are gone."""
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
    """What concerns one scan only, beyond the settings."""

    all_files: bool = False
    force: bool = False
    retry_failed: bool = False
    dry_run: bool = False


def worker_count(settings: Settings, device: str) -> int:
    """Decode workers: as set; else all cores but one beside a GPU, and a quarter of them beside CPU inference.

    On the CPU inference is the limit and uses every core; one core decodes about 300 times as fast as real time.
    """
    cores = os.cpu_count() or 1
    return settings.workers or min(MAX_WORKERS, max(1, cores // 4 if device == "cpu" else cores - 1))


def scan(
    roots: Sequence[Path],
    store: Store,
    journal: Journal,
    predictor: Predictor,
    settings: Settings,
    options: ScanOptions,
    progress: Progress,
) -> Report:
    """Bring the library up to date with the files under `roots`, and write genres where the settings say so.

    Once `progress.stopping` is True, tracks that were begun are finished and stored, and no more are begun.
    Raises BadRequestError for a root that is not there and StoreError when the database fails; what befalls single
    files is in the report.
    """
    return _Scan(store, journal, predictor, settings, options, progress).run([absolute(root) for root in roots])


class _Scan:
    """One scan's state: its inputs, its report, and the tracks whose genres are still to be written."""

    def __init__(
        self,
        store: Store,
        journal: Journal,
        predictor: Predictor,
        settings: Settings,
        options: ScanOptions,
        progress: Progress,
    ) -> None:
        self._store = store
        self._journal = journal
        self._predictor = predictor
        self._settings = settings
        self._options = options
        self._progress = progress
        self._finished = 0
        self._report = Report()
        # As the database remembers it: another slicing makes an analysis stale.
        self._rule_text = f"edges {settings.trim_edges:g} s, {settings.frames or 'all'} frames"
        self._model_id = store.model_id(predictor.card)
        self._view = view_of(predictor.card, settings)
        self._to_write: list[FoundFile] = []
        # Sounds analysed in this scan: --force does not mean to analyse every copy.
        self._done: set[str] = set()
        self._written: set[Path] = set()
        self._run: int | None = None
        self._note = ""

    def run(self, roots: Sequence[Path]) -> Report:
        started_s = time.monotonic()
        self._note = " ".join(printable(root) for root in roots)
        todo = self._look(roots)
        if todo and not self._progress.stopping:
            self._analyse(todo)
        self._report.failures.sort()
        self._report.unwritten.sort()
        self._report.interrupted = self._progress.stopping
        self._report.seconds = time.monotonic() - started_s
        return self._report

    # Which files need work?

    def _look(self, roots: Sequence[Path]) -> list[Todo]:
        self._progress.start("looking for music", None, "files")
        unread: list[Path] = []
        seen: set[int | None] = set()
        work: list[Todo] = []
        options = self._options
        for todo in self._store.todo(
            self._found(roots, unread),
            self._model_id,
            self._rule_text,
            force=options.force,
            retry_failed=options.retry_failed,
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
        if not self._progress.stopping:
            self._report.missing = self._store.mark_missing(roots, seen, unread)
        self._store.commit()
        return work

    def _found(self, roots: Sequence[Path], unread: list[Path]) -> Iterator[FoundFile]:
        files = 0
        for found in walk(roots, all_files=self._options.all_files):
            if self._progress.stopping:
                return
            if isinstance(found, FoundFile):
                files += 1
                self._progress.advance(files)
                yield found
            elif isinstance(found, LeftOver):
                sweep(found.path.parent)
            else:
                unread.append(found.path)
                self._fail(found.path, found.reason)

    # What do they sound like?

    def _analyse(self, todo: Sequence[Todo]) -> None:
        self._progress.say(f"{len(todo):,} files to analyse")
        self._progress.start("analysing", len(todo), "files")
        workers = min(worker_count(self._settings, self._predictor.device.type), len(todo))
        with WorkerPool(workers, self._settings.decode_timeout) as pool:
            rule = frame_rule(self._predictor.card.front_end, self._settings)
            analyser = Analyser(self._predictor, rule, pool, workers, self._known_status)
            jobs = (Job(item.file, item.digest if item.need == "analysis" else None) for item in todo)
            for event in analyser.run(jobs, lambda: self._progress.stopping):
                self._record(event)
        self._write()

    def _known_status(self, digest: str) -> Status | None:
        if self._options.force and digest not in self._done:
            return None
        return self._store.known_status(digest, self._model_id, self._rule_text)

    def _record(self, event: Event) -> None:
        """Store what the analysis learnt, and commit: a killed scan loses what is in memory, nothing more."""
        match event:
            case Inspected():
                file = FoundFile(event.path, event.size, event.mtime_ns)
                self._store.record_file(file, event.digest, event.tags)
            case Analysed():
                self._store.record_analysis(self._model_id, self._rule_text, event)
                self._report.audio_s += event.duration_s
                self._count(event)
            case Known():
                self._count(event)
            case Broken():
                self._store.record_failure(event.file, event.reason, transient=event.transient)
                self._fail(event.file.path, event.reason)
                self._advance()
        self._store.commit()

    def _count(self, event: Analysed | Known) -> None:
        if isinstance(event, Analysed) and self._options.force:
            self._done.add(event.digest)
        if event.status != "ok":
            self._report.skipped[event.status] += 1
        elif isinstance(event, Known) and event.before:
            self._report.unchanged += 1
        else:
            self._report.tagged += 1
        if event.status == "ok":
            self._write_later(event.file)
        self._advance()

    def _advance(self) -> None:
        self._finished += 1
        self._progress.advance(self._finished, audio_s=self._report.audio_s)

    def _fail(self, path: Path, reason: str) -> None:
        self._report.failures.append((path, reason))
        self._progress.failed(path, reason)

    # Which genres go into the files?

    def _write_later(self, file: FoundFile, has_genre: bool = False) -> None:
        """Note a track whose fields may need writing; what has a genre needs no filling, unless more is asked for."""
        settings = self._settings
        more = settings.moods or settings.provenance
        if settings.write == "none" or (settings.write == "fill" and has_genre and not more):
            return
        self._to_write.append(file)
        if len(self._to_write) >= WRITE_CHUNK:
            self._write()

    def _write(self) -> None:
        """Plan and write the tracks noted, from what the library now knows of them."""
        paths, self._to_write = [file.path for file in self._to_write], []
        tracks = [track for rows in self._store.tracks(self._model_id, paths) for track in look(rows, self._view)]
        changes = [change for track in tracks if (change := plan_track(track, self._settings)) is not None]
        self._report.untaggable.update(
            track.row.container for track in tracks if track.genres and not writable(track.row.container)
        )
        if self._options.dry_run or not changes:
            self._report.planned.extend(changes)
            return
        if self._run is None:
            self._run = self._journal.start_run("scan", self._note)
        writer = TagWriter(self._journal, self._store, WriteOptions.of(self._settings))
        outcome = writer.apply(
            changes,
            self._run,
            refused=self._progress.failed,
            stop=lambda: self._progress.stopping,
            done=self._written,
        )
        self._report.written.extend(outcome.written)
        self._report.unwritten.extend(outcome.refused)
