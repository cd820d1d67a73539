"""Opening a database: its engine and pragmas, its migrations, and errors a user can act on."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import QueuePool

from musictagger.errors import BadRequestError, StoreError
from musictagger.library.schema import REVISION

BUSY_TIMEOUT_S = 30
"""How long to wait for another program's write before giving up; ours take milliseconds."""


@dataclass(frozen=True)
class Advice:
    """What a user can do about a database file that does not serve: choose another, make one, mend it."""

    elsewhere: str
    missing: str
    damaged: str


LIBRARY_ADVICE = Advice(
    elsewhere="choose another place with --db",
    missing="there is no database yet; run `musictagger scan FOLDER` first, or name one with --db",
    damaged="restore a copy, or move it away and scan again",
)
_PRAGMAS = ("synchronous=NORMAL", "foreign_keys=ON")


def open_database(location: str, *, create: bool) -> Engine:
    """An engine on `location` (a path, or any SQLAlchemy URL), its tables up to date.

    Raises StoreError when it does not exist (unless `create`), cannot be written, is no database of ours, or was
    made by a newer version; BadRequestError for a URL that makes no sense.
    """
    path = _sqlite_path(location)
    engine = _server(location) if path is None else sqlite_engine(path, LIBRARY_ADVICE, create=create, pragmas=_PRAGMAS)
    with readable_errors(location):
        _migrate(engine, location, create)
    return engine


@contextmanager
def exclusive(location: str) -> Iterator[None]:
    """Hold the right to scan into a SQLite database; the system gives it back however the process ends.

    Raises StoreError when another process holds it. Database servers look after themselves.
    """
    path = _sqlite_path(location)
    if path is None:
        yield
        return
    lock = FileLock(f"{path}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise StoreError(
            f"{location}: another scan is writing to this database; wait for it to end, or give this one its own --db"
        ) from None
    except OSError as error:
        raise StoreError(f"{location}: cannot be written: {error.strerror}; choose another place with --db") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def readable_errors(location: str, advice: Advice = LIBRARY_ADVICE) -> Iterator[None]:
    """Turn the database's exceptions into a StoreError that says what to do."""
    try:
        yield
    except SQLAlchemyError as error:
        cause = getattr(error, "orig", None) or error
        raise StoreError(f"{location}: {_explained(str(cause), advice)}") from error
    except sqlite3.Error as error:
        raise StoreError(f"{location}: {_explained(str(error), advice)}") from error


def _explained(reason: str, advice: Advice) -> str:
    known = {
        "disk is full": "the disk is full; what was committed is safe, make room and run the same command again",
        "database is locked": "another program is writing to this database; try again when it is done",
        "disk I/O error": "the disk reports an error or has no room; see to it and run the same command again",
        "readonly database": f"is read-only; {advice.elsewhere}",
        "unable to open": f"cannot be opened or created there; {advice.elsewhere}",
        "not a database": f"is not a database; {advice.elsewhere}",
        "malformed": f"the database is damaged; {advice.damaged}",
    }
    return next((text for sign, text in known.items() if sign in reason), reason)


def sqlite_engine(path: Path, advice: Advice, *, create: bool, pragmas: Collection[str]) -> Engine:
    """An engine on one SQLite file, not opened yet; `pragmas` are set on each connection that may write.

    Transactions begin with BEGIN, or with what the execution option `begin` says. Raises StoreError when the file does
    not exist (unless `create`), or its folder cannot be made.
    """
    if not create and not path.exists():
        raise StoreError(f"{path}: {advice.missing}")
    if create:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{path}: cannot be created: {error.strerror}; {advice.elsewhere}") from error
    writable = os.access(path if path.exists() else path.parent, os.W_OK) and os.access(path.parent, os.W_OK)
    # A database on read-only media can still be queried; without `immutable` SQLite wants to create a -shm file.
    # With a journal beside it somebody else is writing it, and only a reader that looks there sees the truth.
    still = not path.with_name(path.name + "-wal").exists()
    mode = "rwc" if create else "rw" if writable else "ro&immutable=1" if still else "ro"
    uri = f"file:{_quoted(path.absolute())}?mode={mode}"

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, check_same_thread=False)

    def set_pragmas(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        for pragma in pragmas if writable else ():
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    engine = create_engine("sqlite://", creator=connect, poolclass=QueuePool)
    event.listen(engine, "connect", _take_over_transactions)
    event.listen(engine, "connect", set_pragmas)
    event.listen(engine, "begin", _begin)
    return engine


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN"))


def _quoted(path: Path) -> str:
    """A path as SQLite's URI takes it, byte for byte."""
    plain = frozenset(b"/-_.~") | frozenset(range(ord("0"), ord("9") + 1))
    plain |= frozenset(range(ord("A"), ord("Z") + 1)) | frozenset(range(ord("a"), ord("z") + 1))
    return "".join(chr(byte) if byte in plain else f"%{byte:02x}" for byte in os.fsencode(path))


def _take_over_transactions(connection: Any, _record: Any) -> None:
    """Python's sqlite3 commits behind one's back before DDL; a migration killed half-way must leave nothing."""
    connection.isolation_level = None


def _sqlite_path(location: str) -> Path | None:
    """The file of a SQLite database, also one given as a URL; None for a database server."""
    if "://" not in location:
        return Path(location).expanduser()
    try:
        url = make_url(location)
    except ArgumentError as error:
        raise BadRequestError(f"--db {location}: {error}; it takes a path or an SQLAlchemy URL") from error
    if url.get_backend_name() != "sqlite":
        return None
    if not url.database or url.database == ":memory:":
        raise BadRequestError(f"--db {location}: names no file")
    return Path(url.database).expanduser()


def _server(url: str) -> Engine:
    try:
        return create_engine(make_url(url))
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        raise BadRequestError(f"--db {url}: {error}; it takes a path or an SQLAlchemy URL") from error


def _migrate(engine: Engine, location: str, create: bool) -> None:
    """Bring the tables up to date, all or nothing."""
    with engine.connect() as connection:
        tables = inspect(connection).get_table_names()
        current = None
        if "alembic_version" in tables:
            current = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
        elif tables:
            raise StoreError(f"{location}: is a database of another program; choose another one with --db")
    if current == REVISION:
        return
    if current is None and not create:
        raise StoreError(f"{location}: holds no library yet; run `musictagger scan FOLDER` first")
    _upgrade(engine, location, current)


def _upgrade(engine: Engine, location: str, current: str | None) -> None:
    # Imported here: it costs 0.2 s, and an up-to-date database never needs it.
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if current is not None and current not in known:
        raise StoreError(f"{location}: was made by a newer musictagger (revision {current}); update musictagger")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    if engine.dialect.name == "sqlite":
        _write_ahead(engine)


def _write_ahead(engine: Engine) -> None:
    """Readers go on while we write, and a killed process leaves a valid database.

    The file remembers it. It is said only to a file of ours: a foreign one must not be changed before it is refused.
    """
    connection = engine.raw_connection()
    try:
        connection.cursor().execute("PRAGMA journal_mode=WAL")
    finally:
        connection.close()
