"""The journal of all tag writes: the values before and after, so that each can be undone.

An entry is durable before its file is changed. The journal is a SQLite file of its own: a library can be rebuilt by a
scan, but former tags cannot.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import stat
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from filelock import BaseFileLock, FileLock, Timeout
from sqlalchemy import Select, func, select, update
from sqlalchemy.orm import Session

from musictagger.audio.walk import absolute
from musictagger.errors import AudioError, StoreError, TagWriteError, printable
from musictagger.sqlite.connection import now, readable_errors
from musictagger.tags import safewrite
from musictagger.tags.containers.systems import Field, Values
from musictagger.tags.fields import read_fields, stored_form
from musictagger.tags.journalfile import (
    ADVICE,
    STATES,
    EntryState,
    JournalEntry,
    JournalEntryRow,
    Run,
    RunRow,
    entry_of,
    open_journal_file,
    utc,
    writing,
)
from musictagger.tags.safewrite import ABANDONED_S, DEFAULT_OPTIONS, Edit, Step, WriteOptions

_CHUNK = 500
"""Paths in one statement: SQLite limits its parameters."""
_WRITTEN: tuple[EntryState, ...] = ("written",)


class Journal:
    """An open journal. Each call is a transaction of its own, on disk when it returns; several may be open at once.

    All methods raise StoreError, with advice, when the file cannot be read or written.
    """

    def __init__(self, path: Path, *, create: bool = True) -> None:
        """Open the journal at `path`. Raises StoreError as `open_journal_file` does."""
        self._path = path.expanduser()
        self._where = printable(self._path)
        self._owner = secrets.token_hex(8)
        self._lock: BaseFileLock | None = None
        self._engine = open_journal_file(self._path, create=create)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Entries that are still intended count as abandoned from now on."""
        self._engine.dispose()
        if self._lock is not None:
            self._lock.release()
            with contextlib.suppress(OSError):
                self._lock_file(self._owner).unlink()
            self._lock = None

    @contextmanager
    def _reading(self) -> Iterator[Session]:
        with readable_errors(self._where, ADVICE), Session(self._engine) as session:
            yield session

    @contextmanager
    def _writing(self) -> Iterator[Session]:
        with readable_errors(self._where, ADVICE), writing(self._engine) as session:
            yield session

    def start_run(self, kind: str, note: str) -> int:
        """Record a new run, which also proves that the journal can be written. It is listed once it has entries."""
        with self._writing() as session:
            row = RunRow(kind=kind, note=note)
            session.add(row)
            session.flush()
            return row.id

    def intend(self, run_id: int, edit: Edit) -> int:
        """Record a write that is about to begin; durable when this returns. Returns the id of the entry."""
        self._hold_lock()
        with self._writing() as session:
            row = JournalEntryRow(
                run_id=run_id,
                path=absolute(edit.path),
                digest=edit.digest,
                before=dict(edit.before),
                after=dict(edit.after),
                state="intended",
                owner=self._owner,
            )
            session.add(row)
            session.flush()
            return row.id

    def settle(self, entry_id: int, state: EntryState, reason: str = "", after: Values | None = None) -> None:
        """Record the outcome of an entry. `after`: the values as stored, where they are not those intended."""
        changes = {"state": state, "reason": reason, "at": now()} | ({} if after is None else {"after": dict(after)})
        with self._writing() as session:
            found = session.scalar(
                update(JournalEntryRow)
                .where(JournalEntryRow.id == entry_id)
                .values(changes)
                .returning(JournalEntryRow.id)
            )
        if found is None:
            raise StoreError(f"{self._where}: has no entry {entry_id}")

    def runs(self) -> list[Run]:
        """The runs that have entries, newest first."""
        statement = (
            select(RunRow, JournalEntryRow.state, func.count())
            .join(JournalEntryRow)
            .group_by(RunRow.id, JournalEntryRow.state)
            .order_by(RunRow.id.desc())
        )
        runs: dict[int, RunRow] = {}
        counts: dict[int, dict[EntryState, int]] = {}
        with self._reading() as session:
            for row, state, count in session.execute(statement):
                runs[row.id] = row
                counts.setdefault(row.id, dict.fromkeys(STATES, 0))[cast(EntryState, state)] = count
            return [Run(row.id, row.kind, utc(row.started_at), row.note, counts[row.id]) for row in runs.values()]

    def entries(
        self,
        *,
        run_id: int | None = None,
        paths: Collection[Path] | None = None,
        states: Collection[EntryState] = _WRITTEN,
    ) -> list[JournalEntry]:
        """Entries by run, file and state; newest first, the order in which to undo them."""
        statement = select(JournalEntryRow).where(JournalEntryRow.state.in_(states)).order_by(JournalEntryRow.id.desc())
        if run_id is not None:
            statement = statement.where(JournalEntryRow.run_id == run_id)
        if paths is None:
            return self._select(statement)
        wanted = sorted({absolute(path) for path in paths})
        chunks = [wanted[start : start + _CHUNK] for start in range(0, len(wanted), _CHUNK)]
        found = [entry for chunk in chunks for entry in self._select(statement.where(JournalEntryRow.path.in_(chunk)))]
        return sorted(found, key=lambda entry: -entry.id)

    def _select(self, statement: Select[Any]) -> list[JournalEntry]:
        with self._reading() as session:
            return [entry_of(row) for row in session.scalars(statement)]

    def recover(self) -> list[JournalEntry]:
        """Settle the entries of interrupted writes by what the files hold now; returns those settled, newest first.

        Writes in progress in other processes are left to them. An entry whose drive is not mounted, or whose file
        cannot be read at present, is left for the next recovery.
        """
        intended = select(JournalEntryRow).where(JournalEntryRow.state == "intended")
        with self._reading() as session:
            owners = sorted({row.owner for row in session.scalars(intended)})
        settled: list[int] = []
        for owner in owners:
            with self._taken_over(owner) as mine:
                if mine:
                    entries = self._select(intended.where(JournalEntryRow.owner == owner))
                    settled += [entry.id for entry in entries if self._settle_by_file(entry)]
        self._remove_old_locks()
        return [self._entry(entry_id) for entry_id in sorted(settled, reverse=True)]

    def _entry(self, entry_id: int) -> JournalEntry:
        (entry,) = self._select(select(JournalEntryRow).where(JournalEntryRow.id == entry_id))
        return entry

    def _settle_by_file(self, entry: JournalEntry, reason: str = "") -> bool:
        """Settle an entry by what its file holds, if that can be read. `reason`: why it failed, where known."""
        outcome = _outcome(entry, self._later(entry))
        if outcome is None:
            return False
        state, cause, after = outcome
        self.settle(entry.id, state, "" if state == "written" else reason or cause, after)
        return True

    def _later(self, entry: JournalEntry) -> dict[Field, tuple[str, ...]]:
        """The values that the next writes of the same file, if any, found in its fields."""
        statement = select(JournalEntryRow).where(JournalEntryRow.path == entry.path, JournalEntryRow.id > entry.id)
        found: dict[Field, tuple[str, ...]] = {}
        for later in self._select(statement.order_by(JournalEntryRow.id.desc())):
            found.update(later.before)
        return found

    # A process that writes holds a lock file of its own until it ends, however it ends: whoever can acquire the lock
    # knows that the process is gone. Process ids are not suitable, because they are reused after a reboot.

    def _lock_file(self, owner: str) -> Path:
        return self._path.with_name(f"{self._path.name}-{owner}.lock")

    def _acquired(self, owner: str) -> BaseFileLock | None:
        """The lock of a process, or None while that process holds it. Raises StoreError where it cannot be created."""
        lock = FileLock(self._lock_file(owner), thread_local=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return None
        except OSError as error:
            raise StoreError(f"{self._where}: cannot be locked: {error}; {ADVICE.elsewhere}") from error
        return lock

    def _hold_lock(self) -> None:
        self._lock = self._lock or self._acquired(self._owner)
        if self._lock is None:
            raise StoreError(f"{self._where}: another process holds the lock of this one; {ADVICE.elsewhere}")

    @contextmanager
    def _taken_over(self, owner: str) -> Iterator[bool]:
        """Return whether this process owns the entries of `owner`, or has taken them over from one that is gone."""
        mine = owner == self._owner
        lock = None if mine else self._acquired(owner)
        try:
            yield mine or lock is not None
        finally:
            if lock is not None:
                with contextlib.suppress(OSError):
                    self._lock_file(owner).unlink()
                lock.release()

    def _remove_old_locks(self) -> None:
        """Remove the locks of processes that were killed between two writes."""
        prefix = f"{self._path.name}-"
        with contextlib.suppress(OSError):
            for file in sorted(self._path.parent.iterdir()):
                owner = file.name.removeprefix(prefix).removesuffix(".lock")
                if file != self._lock_file(owner) or time.time() - file.stat().st_mtime < ABANDONED_S:
                    continue
                with self._taken_over(owner):
                    pass


def journalled_write(
    journal: Journal,
    run_id: int,
    edit: Edit,
    options: WriteOptions = DEFAULT_OPTIONS,
    step: Step = safewrite.no_step,
) -> os.stat_result:
    """`safewrite.write_fields` with an entry in the journal, made before the file is touched and settled after.

    No entry is made where the file holds the values already. Raises TagWriteError, and then the file has not changed;
    StoreError where the journal cannot be written. If that happens after the write, or the process ends at any point,
    the entry stays intended, and `Journal.recover` settles it.
    """
    with safewrite.as_tag_write_error(edit.path):
        present, wanted = _present_and_wanted(edit, options.id3v23_join)
        if present == wanted:
            return edit.path.stat()
    step("intend")
    entry_id = journal.intend(run_id, Edit(edit.path, present, wanted, edit.digest))
    try:
        before = {**edit.before, **present}
        status = safewrite.write_fields(dataclasses.replace(edit, before=before), options, step)
        step("settle")
    except BaseException as error:
        _settle_failed(journal, entry_id, error)
        raise
    journal.settle(entry_id, "written")
    return status


def _settle_failed(journal: Journal, entry_id: int, error: BaseException) -> None:
    """Settle by the content of the file: a write that was interrupted after the replacement has not failed."""
    reason = error.reason if isinstance(error, TagWriteError) else f"interrupted ({type(error).__name__})"
    if not journal._settle_by_file(journal._entry(entry_id), reason) and isinstance(error, TagWriteError):
        journal.settle(entry_id, "failed", reason)


def _present_and_wanted(edit: Edit, join: str) -> tuple[Values, Values]:
    """The values that the fields have and will have. Raises TagWriteError unless the write can be undone."""
    safewrite.require_taggable(edit.path)
    found = safewrite.read_planned(edit.path, edit)
    present = {field: found[field] for field in edit.after}
    wanted = stored_form(edit.path, edit.after, id3v23_join=join)
    restored = stored_form(edit.path, present, id3v23_join=join)
    for field, values in present.items():
        if values not in (wanted[field], restored[field]):
            reason = f"its {field} is stored in a form that an undo could not restore; it was not changed"
            raise TagWriteError(edit.path, reason)
    return present, wanted


def _outcome(entry: JournalEntry, later: Values) -> tuple[EntryState, str, Values | None] | None:
    """The outcome of an interrupted write: state, reason, and the values stored if they are not those intended.

    `later`: the values that later writes found; the other fields are read from the file. None if it cannot be read.
    """
    found = {field: values for field, values in later.items() if field in entry.after}
    unknown = [field for field in entry.after if field not in found]
    try:
        if unknown:
            found.update(_read_regular(entry.path, unknown))
        if found == entry.after:
            return "written", "", None
        if found == entry.before:
            return "failed", "interrupted before the file was changed", None
        if unknown and found == stored_form(entry.path, entry.after):
            return "written", "", found
    except AudioError as error:
        return "failed", f"interrupted, and now {error.reason}", None
    except OSError as error:
        # If the folder is missing too, it may be on a drive that is not mounted at present.
        gone = isinstance(error, FileNotFoundError) and entry.path.parent.is_dir()
        return ("failed", "interrupted, and the file no longer exists", None) if gone else None
    changed = [field for field in found if found[field] not in (entry.before.get(field), entry.after[field])]
    fields = ", ".join(changed or found)
    return "failed", f"interrupted, and its {fields} was then changed by another program", None


def _read_regular(path: Path, fields: Collection[Field]) -> Values:
    if not stat.S_ISREG(path.stat().st_mode):
        raise AudioError(path, "it is not a regular file")
    return read_fields(path, fields)
