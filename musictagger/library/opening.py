"""Opening a library to read it, without SQLAlchemy where the database is an up-to-date SQLite file."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from musictagger.library.reader import LIBRARY_ADVICE, PRAGMAS, REVISION, LibraryReader
from musictagger.sqlite.connection import connector, readable_errors


@contextmanager
def open_library(location: str) -> Iterator[LibraryReader]:
    """The library at `location` (a path, or any SQLAlchemy URL), to read. Raises StoreError as `open_database` does."""
    if "://" in location:
        from musictagger.library.store import Store

        with Store(location) as store:
            yield store
        return
    connect = connector(Path(location).expanduser(), LIBRARY_ADVICE, create=False, pragmas=PRAGMAS)
    if not _is_up_to_date(connect):
        from musictagger.library.database import open_database

        # It migrates a library of an earlier version, and raises the appropriate error for any other file.
        open_database(location, create=False).dispose()
    with readable_errors(location, LIBRARY_ADVICE):
        connection = connect()
    with closing(connection):
        connection.execute("BEGIN")
        yield LibraryReader(location, connection.execute)


def _is_up_to_date(connect: Callable[[], sqlite3.Connection]) -> bool:
    try:
        with closing(connect()) as connection:
            current: tuple[str] | None = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.Error:
        return False
    return current == (REVISION,)
