"""The file behind the journal: its tables, its application id and version, and the values of its rows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, cast, get_args

from sqlalchemy import JSON, DateTime, Engine, ForeignKey, String, Text, inspect
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from musictagger.errors import StoreError, printable
from musictagger.paths import sync_folder
from musictagger.sqlite.connection import Advice, now, readable_errors
from musictagger.sqlite.engine import PathText, sqlite_engine, write_ahead
from musictagger.tags.containers.systems import Field, Values

EntryState = Literal["intended", "written", "failed", "undone"]
STATES: tuple[EntryState, ...] = get_args(EntryState)

APPLICATION_ID = 0x4D54474A
"""Marks a SQLite file as a journal: MTGJ in ASCII."""
VERSION = 1
"""Version of the tables below, written into the file."""

_PRAGMAS = ("synchronous=FULL", "fullfsync=ON", "foreign_keys=ON")
ADVICE = Advice(
    elsewhere="nothing is written into music without it; choose another data folder with MUSICTAGGER_DATA_DIR",
    missing="there is no journal yet, because nothing has been written",
    damaged="restore a copy, or move it away; the writes that it records can then not be undone",
)


@dataclass(frozen=True)
class Run:
    """One command that wrote. `kind`: scan, apply or undo; `counts`: its entries in each state; times are UTC."""

    id: int
    kind: str
    started_at: datetime
    note: str
    counts: Mapping[EntryState, int]


@dataclass(frozen=True)
class JournalEntry:
    """One write of one file: the values of its fields `before` and `after`, as stored.

    `state`: intended (in progress, or interrupted), written (the file holds `after`), failed (it does not, for
    `reason`), undone (it was written, and the old values restored). `at`: the time of the last change of state, UTC.
    """

    id: int
    run_id: int
    path: Path
    digest: str | None
    before: Values
    after: Values
    state: EntryState
    reason: str
    at: datetime


class _Base(DeclarativeBase):
    """Root of the tables."""


class RunRow(_Base):
    """A run."""

    __tablename__ = "run"

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    started_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=now)
    note: Mapped[str] = mapped_column(Text)


class JournalEntryRow(_Base):
    """An entry."""

    __tablename__ = "entry"

    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("run.id"), index=True)
    path: Mapped[Path] = mapped_column(PathText, index=True)
    digest: Mapped[str | None] = mapped_column(String(64))
    before: Mapped[dict[Field, Sequence[str]]] = mapped_column(JSON)
    after: Mapped[dict[Field, Sequence[str]]] = mapped_column(JSON)
    state: Mapped[str] = mapped_column(String(16), index=True)
    reason: Mapped[str] = mapped_column(Text, default="")
    at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=now)
    owner: Mapped[str] = mapped_column(String(16))
    """Names the lock that the writing process holds as long as it runs."""


def open_journal_file(path: Path, *, create: bool) -> Engine:
    """An engine on the journal at `path`.

    Raises StoreError where it does not exist (unless `create`), is another kind of file, or has a newer version.
    """
    engine = sqlite_engine(path, ADVICE, create=create, pragmas=_PRAGMAS)
    try:
        with readable_errors(printable(path), ADVICE):
            if not _is_journal(engine, printable(path)):
                if not create:
                    raise StoreError(f"{printable(path)}: {ADVICE.missing}")
                _initialise(engine, path)
    except BaseException:
        engine.dispose()
        raise
    return engine


def _is_journal(engine: Engine, where: str) -> bool:
    """True for a journal, False for an empty file. Raises StoreError for anything else."""
    with engine.connect() as connection:
        mark = connection.exec_driver_sql("PRAGMA application_id").scalar()
        version = connection.exec_driver_sql("PRAGMA user_version").scalar() or 0
        tables = inspect(connection).get_table_names()
    if mark == APPLICATION_ID and version > VERSION:
        raise StoreError(f"{where}: was made by a newer musictagger (version {version}); update musictagger")
    if mark != APPLICATION_ID and (mark or tables):
        raise StoreError(f"{where}: is a database, but not a journal of musictagger; {ADVICE.elsewhere}")
    return bool(mark == APPLICATION_ID)


def _initialise(engine: Engine, path: Path) -> None:
    """Create the tables; another process may do so at the same time."""
    write_ahead(engine)
    with writing(engine) as session:
        connection = session.connection()
        _Base.metadata.create_all(connection)
        connection.exec_driver_sql(f"PRAGMA application_id={APPLICATION_ID}")
        connection.exec_driver_sql(f"PRAGMA user_version={VERSION}")
    # SQLite makes contents durable, but not the name of a new file, nor the names of new folders above it.
    for folder in path.absolute().parents:
        with contextlib.suppress(OSError):
            sync_folder(folder)


@contextmanager
def writing(engine: Engine) -> Iterator[Session]:
    """A transaction that may write from its start: one that begins later fails if another has written meanwhile."""
    with Session(engine.execution_options(begin="BEGIN IMMEDIATE")) as session, session.begin():
        yield session


def entry_of(row: JournalEntryRow) -> JournalEntry:
    """The value of a row."""
    before, after = _values(row.before), _values(row.after)
    state = cast(EntryState, row.state)
    return JournalEntry(row.id, row.run_id, row.path, row.digest, before, after, state, row.reason, utc(row.at))


def _values(column: Mapping[Field, Sequence[str]]) -> Values:
    return {field: tuple(texts) for field, texts in column.items()}


def utc(time_: datetime) -> datetime:
    """`time_` with the time zone UTC, which all times in the journal have and SQLite does not keep."""
    return time_.replace(tzinfo=UTC)
