"""The only way in which music files are written: plan from the library, apply and undo through the journal."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path

from musictagger.audio.walk import FoundFile
from musictagger.config import Settings
from musictagger.errors import AudioError, TagWriteError
from musictagger.library.store import Store
from musictagger.library.view import TrackView
from musictagger.progress import SILENT, Progress
from musictagger.records import MergeMode
from musictagger.tags.containers.systems import Values
from musictagger.tags.containers.table import writable
from musictagger.tags.fields import read_fields, read_tags
from musictagger.tags.journal import Journal, journalled_write
from musictagger.tags.journalfile import EntryState, JournalEntry
from musictagger.tags.plan import FileChange, Proposal, changes
from musictagger.tags.safewrite import DEFAULT_OPTIONS, Edit, WriteOptions, sweep
from musictagger.version import __version__

UNDONE: tuple[EntryState, ...] = ("undone",)
SCORE_DIGITS = 3
"""Decimal places of scores in provenance; they are stored with 11 bits."""


@dataclass
class WriteOutcome:
    """The result of writing changes: the edits made, and the files refused with the reason."""

    written: list[Edit] = field(default_factory=list)
    refused: list[tuple[Path, str]] = field(default_factory=list)
    stopped: bool = False

    @contextmanager
    def attempt(self, edit: Edit, progress: Progress) -> Iterator[None]:
        """Count an edit as written, or as refused where a TagWriteError is raised."""
        try:
            yield
        except TagWriteError as error:
            self.refused.append((edit.path, error.reason))
            progress.failed(edit.path, error.reason)
        else:
            self.written.append(edit)


def plan_tracks(tracks: Iterable[TrackView], settings: Settings) -> list[FileChange]:
    """The changes to the files of `tracks` that follow from the settings and the user's choices."""
    return [change for track in tracks if (change := _plan_track(track, settings)) is not None]


def _plan_track(track: TrackView, settings: Settings) -> FileChange | None:
    row = track.row
    if row.locked or row.failure is not None or not writable(row.container):
        return None
    before, after, why = changes(
        row.fields, _proposals(track, settings), system=row.tag_system, join=settings.id3v23_join
    )
    if not after:
        return None
    return FileChange(row.path, row.size, row.mtime_ns, row.digest, before, after, why)


def _proposals(track: TrackView, settings: Settings) -> list[Proposal]:
    mode: MergeMode = settings.write
    if mode == "none":
        return []
    if track.row.chosen_genres is None:
        proposals = [Proposal("genre", track.genres, mode, _with_scores(track, track.genres))]
    else:
        proposals = [Proposal("genre", track.genres, "replace", "your own choice")]
    if settings.moods:
        proposals.append(Proposal("mood", track.moods, mode, _with_scores(track, track.moods)))
    if settings.provenance and track.scores is not None:
        proposals.append(Proposal("provenance", (_provenance(track),), "replace", "asked for"))
    return proposals


def _with_scores(track: TrackView, names: Sequence[str]) -> str:
    """Each name with the score of the best tag that is written under it: `Rock 0.81, Jazz 0.42`."""
    scores: dict[str, float] = {}
    for tag, score in track.tags:
        scores.setdefault(track.written_as(tag), score)
    return ", ".join(f"{name} {scores[name]:.2f}" if name in scores else name for name in names)


def _provenance(track: TrackView) -> str:
    """Model, version, time of the analysis and the scores of the track's tags, as one line of JSON."""
    row = track.row
    # SQLite does not keep the time zone; all times in the database are UTC.
    time = row.analysed_at.replace(tzinfo=UTC).isoformat(timespec="seconds") if row.analysed_at else None
    return json.dumps(
        {
            "model": track.view.card.name,
            "version": __version__,
            "time": time,
            "scores": {tag.name: round(score, SCORE_DIGITS) for tag, score in track.own_tags},
        },
        ensure_ascii=False,
    )


@dataclass(frozen=True)
class TagWriter:
    """Writes fields into files through the journal, and keeps the library up to date with them."""

    journal: Journal
    store: Store
    options: WriteOptions = DEFAULT_OPTIONS

    def apply(
        self,
        changes: Iterable[FileChange],
        run: int,
        progress: Progress = SILENT,
        *,
        done: set[Path] | None = None,
    ) -> WriteOutcome:
        """Write changes; a file that is not as planned is refused, and the others are written.

        Two paths of one file (a link and its target) are one write. `done` holds the files written, when the changes
        come in several calls. Once `progress.stopping` is True, no more are started.
        """
        outcome = WriteOutcome()
        done = set() if done is None else done
        for change in changes:
            if progress.stopping:
                outcome.stopped = True
                break
            target = change.path.resolve()
            if target in done:
                self._refresh(change.path)
                continue
            edit = Edit(change.path, change.before, change.after, change.digest)
            with outcome.attempt(edit, progress):
                self._require_as_planned(change)
                self._write(edit, run)
                done.add(target)
        return outcome

    def _require_as_planned(self, change: FileChange) -> None:
        if change.digest is not None and self.store.is_locked(change.digest):
            raise TagWriteError(change.path, "you locked it; `musictagger fix --unlock` allows writing again")
        try:
            status = change.path.stat()
        except OSError as error:
            raise TagWriteError(change.path, f"not written: {error.strerror}") from error
        if (status.st_size, status.st_mtime_ns) != (change.size, change.mtime_ns):
            raise TagWriteError(change.path, "it has changed since this was planned; scan it and plan again")

    def _write(self, edit: Edit, run: int) -> None:
        journalled_write(self.journal, run, edit, self.options)
        self._refresh(edit.path)

    def _refresh(self, path: Path) -> None:
        """Record in the library the new content of a file that we wrote."""
        try:
            status, tags = path.stat(), read_tags(path)
        except (OSError, AudioError):
            # The write is valid whatever happened to the file since; the next scan will notice.
            return
        self.store.record_written(FoundFile(path, status.st_size, status.st_mtime_ns), tags)
        self.store.commit()

    def undo(self, entries: Sequence[JournalEntry], run: int, progress: Progress = SILENT) -> WriteOutcome:
        """Restore the former values, newest entry first; a file whose fields were changed since is refused."""
        outcome = WriteOutcome()
        for entry in entries:
            if progress.stopping:
                outcome.stopped = True
                break
            edit = Edit(self._where_now(entry), entry.after, entry.before, entry.digest)
            with outcome.attempt(edit, progress):
                # After an undo that was killed half-way the file has the former values already.
                if _holds(edit.path, edit.after):
                    self._refresh(edit.path)
                else:
                    self._write(edit, run)
                self.journal.settle(entry.id, "undone")
                self._restore_undone(entry)
        return outcome

    def _restore_undone(self, entry: JournalEntry) -> None:
        """After the undo of an undo, mark the write that it took back as written, so that it can be undone again."""
        for earlier in self.journal.entries(paths=[entry.path], states=UNDONE):
            if earlier.id < entry.id and (earlier.before, earlier.after) == (entry.after, entry.before):
                self.journal.settle(earlier.id, "written")
                return

    def _where_now(self, entry: JournalEntry) -> Path:
        """The file of an entry: its path or, if it was moved, the only file with the same audio."""
        if entry.path.exists() or entry.digest is None:
            return entry.path
        moved = [path for path in self.store.paths_of(entry.digest) if path.exists()]
        return moved[0] if len(moved) == 1 else entry.path

    def recover(self) -> None:
        """Complete what a killed run left: entries in the journal, their files in the library, temporary files."""
        settled = self.journal.recover()
        for path in {entry.path for entry in settled}:
            self._refresh(path)
        # A write through a link leaves its copy beside the target of the link.
        for folder in {folder for entry in settled for folder in (entry.path.parent, entry.path.resolve().parent)}:
            sweep(folder)


def _holds(path: Path, values: Values) -> bool:
    try:
        return read_fields(path, tuple(values)) == values
    except (OSError, AudioError):
        # The write will report the reason.
        return False
