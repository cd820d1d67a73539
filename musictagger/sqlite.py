"""What library and journal share: opening SQLite files, errors a user can act on, paths and times as columns."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Text, create_engine, event
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import QueuePool
from sqlalchemy.types import TypeDecorator

from musictagger.errors import StoreError

BUSY_TIMEOUT_S = 30
"""How long to wait for another program's write before giving up; ours take milliseconds."""


@dataclass(frozen=True)
class Advice:
    """What a user can do about a database file that does not serve: choose another, make one, mend it."""

    elsewhere: str
    missing: str
    damaged: str


@contextmanager
def readable_errors(location: str, advice: Advice) -> Iterator[None]:
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


_ESCAPE = "\ufffd"
_ESCAPED_RUN = re.compile(f"(?:{_ESCAPE}[0-9a-f]{{2}})+")
_TO_ESCAPE = re.compile(f"[{_ESCAPE}\udc80-\udcff]")


def path_to_text(path: Path) -> str:
    """A path as valid Unicode, one to one: each byte that is no UTF-8 becomes U+FFFD and two hexadecimal digits.

    A U+FFFD that really stands in a name is escaped in the same way, byte by byte, so nothing is ambiguous.
    """
    return _TO_ESCAPE.sub(lambda char: "".join(f"{_ESCAPE}{byte:02x}" for byte in os.fsencode(char[0])), str(path))


def path_from_text(text: str) -> Path:
    """The inverse of `path_to_text`."""
    return Path(_ESCAPED_RUN.sub(lambda run: os.fsdecode(bytes.fromhex(run[0].replace(_ESCAPE, ""))), text))


class PathText(TypeDecorator[Path]):
    """A path stored as text (file names are bytes, and databases refuse text that is no Unicode)."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Path | None, dialect: Dialect) -> str | None:
        """Path to column."""
        return None if value is None else path_to_text(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Path | None:
        """Column to path."""
        return None if value is None else path_from_text(value)


def now() -> datetime:
    """The present in UTC, which is what all times in the database are."""
    return datetime.now(UTC)
