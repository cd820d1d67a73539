"""The one way anything is written into music files: plan from the library, apply through the journal, undo from it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path

from musictagger.audio.walk import FoundFile
from musictagger.config import Settings
from musictagger.errors import AudioError, TagWriteError
from musictagger.library.store import Store
from musictagger.library.view import TrackView
from musictagger.records import MergeMode
from musictagger.tags.containers import read_fields, read_tags, writable
from musictagger.tags.journal import Journal, JournalEntry, journalled_write
from musictagger.tags.journalfile import State
from musictagger.tags.plan import FileChange, Values, Wish, changed
from musictagger.tags.safewrite import sweep
from musictagger.version import __version__

UNDONE: tuple[State, ...] = ("undone",)
SCORE_DIGITS = 3
"""Of scores in provenance; they are stored with 11 bits."""


@dataclass(frozen=True)
class Written:
    """The fields of one file before and after a write."""

    path: Path
    before: Values
    after: Values


@dataclass
class Outcome:
    """What became of changes: those written, and those refused with the reason."""

    written: list[Written] = field(default_factory=list)
    refused: list[tuple[Path, str]] = field(default_factory=list)
    stopped: bool = False


def plan_track(track: TrackView, settings: Settings) -> FileChange | None:
    """What the settings and the user's choices would change in one track's file; None for nothing."""
    row = track.row
    if row.locked or row.failure is not None or not writable(row.container):
        return None
    before, after, why = changed(row.fields, _wishes(track, settings), system=row.tag_system, join=settings.id3v23_join)
    if not after:
        return None
    return FileChange(row.path, row.size, row.mtime_ns, row.digest, before, after, why)


def _wishes(track: TrackView, settings: Settings) -> list[Wish]:
    mode: MergeMode = settings.write
    if mode == "none":
        return []
    if track.row.chosen_genres is None:
        wishes = [Wish("genre", track.genres, mode, _heard(track, track.genres))]
    else:
        wishes = [Wish("genre", track.genres, "replace", "your own choice")]
    if settings.moods:
        wishes.append(Wish("mood", track.moods, mode, _heard(track, track.moods)))
    if settings.provenance and track.scores is not None:
        wishes.append(Wish("provenance", (_provenance(track),), "replace", "asked for"))
    return wishes


def _heard(track: TrackView, names: Sequence[str]) -> str:
    scores: dict[str, float] = {}
    for tag, score in track.tags:
        scores.setdefault(track.written_as(tag), score)
    return ", ".join(f"{name} {scores[name]:.2f}" if name in scores else name for name in names)


def _provenance(track: TrackView) -> str:
    """Model, version, time of the analysis and the scores of the tags that the track has, as one line of JSON."""
    row = track.row
    # SQLite forgets the time zone; all times in the database are UTC.
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


def apply_changes(
    changes: Iterable[FileChange],
    run: int,
    journal: Journal,
    store: Store,
    settings: Settings,
    *,
    refused: Callable[[Path, str], None] = lambda path, reason: None,
    stop: Callable[[], bool] = lambda: False,
    done: set[Path] | None = None,
) -> Outcome:
    """Write changes, each through the journal; a file that is not as planned is refused, the others go on.

    Two paths that lead to one file (a link and its target) are one write. `done` holds the files written, when the
    changes come in several calls. Once `stop` says True, no more are begun.
    """
    outcome = Outcome()
    done = set() if done is None else done
    for change in changes:
        if stop():
            outcome.stopped = True
            break
        target = change.path.resolve()
        if target in done:
            _refresh(change.path, store)
            continue
        try:
            _require_as_planned(change, store)
            write_values(change.path, change.before, change.after, change.digest, run, journal, store, settings)
        except TagWriteError as error:
            outcome.refused.append((change.path, error.reason))
            refused(change.path, error.reason)
        else:
            done.add(target)
            outcome.written.append(Written(change.path, change.before, change.after))
    return outcome


def _require_as_planned(change: FileChange, store: Store) -> None:
    if change.digest is not None and store.is_locked(change.digest):
        raise TagWriteError(change.path, "you locked it; `musictagger fix --unlock` allows writing again")
    try:
        status = change.path.stat()
    except OSError as error:
        raise TagWriteError(change.path, f"not written: {error.strerror}") from error
    if (status.st_size, status.st_mtime_ns) != (change.size, change.mtime_ns):
        raise TagWriteError(change.path, "it has changed since this was planned; scan it and plan again")


def write_values(
    path: Path,
    before: Values,
    after: Values,
    digest: str | None,
    run: int,
    journal: Journal,
    store: Store,
    settings: Settings,
) -> None:
    """Write one file's fields through the journal, and let the library know. Raises TagWriteError, StoreError."""
    journalled_write(
        journal,
        run,
        path,
        before,
        after,
        digest=digest,
        preserve_mtime=settings.preserve_mtime,
        break_hardlinks=settings.break_hardlinks,
        id3v23_join=settings.id3v23_join,
    )
    _refresh(path, store)


def _refresh(path: Path, store: Store) -> None:
    """Let the library know what a file of our own writing now holds."""
    try:
        status, tags = path.stat(), read_tags(path)
    except (OSError, AudioError):
        # The write stands, whatever happened to the file since; the next scan will look at it.
        return
    store.record_written(FoundFile(path, status.st_size, status.st_mtime_ns), tags)
    store.commit()


def undo_entries(
    entries: Sequence[JournalEntry],
    run: int,
    journal: Journal,
    store: Store,
    settings: Settings,
    *,
    stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Put back what fields were before, newest entry first; a file whose fields were changed since is refused."""
    outcome = Outcome()
    for entry in entries:
        if stop():
            outcome.stopped = True
            break
        path = _where_now(entry, store)
        try:
            # After an undo that was killed half-way the file is as it was already; journal and library are behind.
            if _holds(path, entry.before):
                _refresh(path, store)
            else:
                write_values(path, entry.after, entry.before, entry.digest, run, journal, store, settings)
        except TagWriteError as error:
            outcome.refused.append((path, error.reason))
            continue
        journal.settle(entry.id, "undone")
        _restore_undone(entry, journal)
        outcome.written.append(Written(path, entry.after, entry.before))
    return outcome


def _restore_undone(entry: JournalEntry, journal: Journal) -> None:
    """Where an undo was undone, the write that it took back stands again, and can be undone again."""
    for earlier in journal.entries(paths=[entry.path], states=UNDONE):
        if earlier.id < entry.id and (earlier.before, earlier.after) == (entry.after, entry.before):
            journal.settle(earlier.id, "written")
            return


def _holds(path: Path, values: Values) -> bool:
    try:
        return read_fields(path, tuple(values)) == values
    except (OSError, AudioError):
        # Whatever is wrong with the file, the write will say it better.
        return False


def _where_now(entry: JournalEntry, store: Store) -> Path:
    """The file of an entry: its path or, where it was moved since, the one file that now holds that sound."""
    if entry.path.exists() or entry.digest is None:
        return entry.path
    moved = [path for path in store.paths_of(entry.digest) if path.exists()]
    return moved[0] if len(moved) == 1 else entry.path


def recover(journal: Journal, store: Store) -> list[JournalEntry]:
    """Settle what a killed run left open: entries in the journal, what the library says of them, temporary files."""
    settled = journal.recover()
    for path in {entry.path for entry in settled}:
        _refresh(path, store)
    # A write through a link leaves its copy beside the link's target.
    for folder in {folder for entry in settled for folder in (entry.path.parent, entry.path.resolve().parent)}:
        sweep(folder)
    return settled
