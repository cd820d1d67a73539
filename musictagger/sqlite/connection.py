"""Connections to SQLite files, readable errors, and paths and times as columns.

Importing this module does not import SQLAlchemy, which takes longer to import than a query takes to run.
"""

from __future__ import annotations

import os
import re
import sqlite3
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from musictagger.errors import StoreError, reason_of

BUSY_TIMEOUT_S = 30
"""Time to wait for another program's write before giving up; ours take milliseconds."""


@dataclass(frozen=True)
class Advice:
    """Remedies for a database file that cannot be used: choose another place, create one, repair it."""

    elsewhere: str
    missing: str
    damaged: str


@contextmanager
def readable_errors(location: str, advice: Advice) -> Iterator[None]:
    """Turn the database's exceptions into a StoreError that names the location, the cause and the remedy."""
    try:
        yield
    except _database_errors() as error:
        cause = getattr(error, "orig", None) or error
        raise StoreError(f"{location}: {_explained(str(cause), advice)}") from error


def _database_errors() -> tuple[type[Exception], ...]:
    # SQLAlchemy raises nothing before it is imported.
    sqlalchemy = sys.modules.get("sqlalchemy.exc")
    return (sqlite3.Error,) if sqlalchemy is None else (sqlite3.Error, sqlalchemy.SQLAlchemyError)


def _explained(reason: str, advice: Advice) -> str:
    known = {
        "disk is full": "the disk is full; what was committed is safe, free some space and run the same command again",
        "database is locked": "another program is writing to this database; try again when it is done",
        "disk I/O error": "the disk reports an error or is full; repair it and run the same command again",
        "readonly database": f"is read-only; {advice.elsewhere}",
        "unable to open": f"cannot be opened or created there; {advice.elsewhere}",
        "not a database": f"is not a database; {advice.elsewhere}",
        "malformed": f"the database is damaged; {advice.damaged}",
    }
    return next((text for sign, text in known.items() if sign in reason), reason)


def connector(
    path: Path, advice: Advice, *, create: bool, pragmas: Collection[str]
) -> Callable[[], sqlite3.Connection]:
    """A function that opens a connection to a SQLite file; `pragmas` are set on each connection that may write.

    Transactions begin with an explicit BEGIN: Python's sqlite3 would commit before DDL, and a migration killed half-way
    must leave nothing. Raises StoreError when the file does not exist (unless `create`), or its folder cannot be made.
    """
    if path.is_dir():
        raise StoreError(f"{path}: is a folder; {advice.elsewhere}")
    if not create and not path.exists():
        raise StoreError(f"{path}: {advice.missing}")
    if create:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{path}: cannot be created: {reason_of(error)}; {advice.elsewhere}") from error
    writable = os.access(path if path.exists() else path.parent, os.W_OK) and os.access(path.parent, os.W_OK)
    # A database on read-only media can still be queried; without `immutable` SQLite tries to create a -shm file. A
    # write-ahead log beside it means that another process is writing, and only a reader of the log is up to date.
    immutable = not path.with_name(path.name + "-wal").exists()
    mode = "rwc" if create else "rw" if writable else "ro&immutable=1" if immutable else "ro"
    uri = f"{path.absolute().as_uri()}?mode={mode}"

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(
            uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
        for pragma in pragmas if writable else ():
            connection.execute(f"PRAGMA {pragma}")
        return connection

    return connect


_ESCAPE = "\ufffd"
_ESCAPED_RUN = re.compile(f"(?:{_ESCAPE}[0-9a-f]{{2}})+")
_TO_ESCAPE = re.compile(f"[{_ESCAPE}\udc80-\udcff]")


def path_to_text(path: Path) -> str:
    """A path as valid Unicode, reversibly: each byte that is not UTF-8 becomes U+FFFD and two hexadecimal digits.

    A U+FFFD in the name itself is escaped in the same way, byte by byte, so that nothing is ambiguous.
    """
    return _TO_ESCAPE.sub(lambda char: "".join(f"{_ESCAPE}{byte:02x}" for byte in os.fsencode(char[0])), str(path))


def path_from_text(text: str) -> Path:
    """The inverse of `path_to_text`."""
    return Path(_ESCAPED_RUN.sub(lambda run: os.fsdecode(bytes.fromhex(run[0].replace(_ESCAPE, ""))), text))


def now() -> datetime:
    """The current time in UTC, as all times in the database are."""
    return datetime.now(UTC)
