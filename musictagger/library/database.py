"""Opening a database for writing: engine, migrations, and the lock of the one writer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Engine, create_engine, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from musictagger.errors import BadRequestError, StoreError, printable, reason_of
from musictagger.library.reader import LIBRARY_ADVICE, PRAGMAS, REVISION
from musictagger.paths import hold_lock
from musictagger.sqlite.connection import readable_errors
from musictagger.sqlite.engine import sqlite_engine, write_ahead


def open_database(location: str, *, create: bool) -> Engine:
    """An engine on `location` (a path, or any SQLAlchemy URL), with its tables migrated.

    Raises StoreError when the database does not exist (unless `create`), cannot be written, belongs to another program
    or was created by a newer version, and BadRequestError for an invalid URL.
    """
    path = _sqlite_path(location)
    engine = _server(location) if path is None else sqlite_engine(path, LIBRARY_ADVICE, create=create, pragmas=PRAGMAS)
    with readable_errors(location, LIBRARY_ADVICE):
        _migrate(engine, location, create)
    return engine


@contextmanager
def exclusive(location: str, *, create: bool = True) -> Iterator[None]:
    """Hold the right to write into a SQLite database. Database servers need no such lock.

    Raises StoreError when another process holds it, or the database does not exist (unless `create`).
    """
    path = _sqlite_path(location)
    if path is None:
        yield
        return
    if not create and not path.exists():
        raise StoreError(f"{printable(path)}: {LIBRARY_ADVICE.missing}")
    busy = "another musictagger is writing to this database; wait for it to end, or give this one its own --db"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = hold_lock(Path(f"{path}.lock"), refuse=StoreError(f"{location}: {busy}"))
    except OSError as error:
        raise StoreError(f"{location}: cannot be written: {reason_of(error)}; {LIBRARY_ADVICE.elsewhere}") from error
    with lock:
        yield


def _sqlite_path(location: str) -> Path | None:
    """The file of a SQLite database given as a path or URL; None for a database server."""
    if "://" not in location:
        return Path(location).expanduser()
    try:
        url = make_url(location)
    except ArgumentError as error:
        raise BadRequestError(f"--db {location}: {error}; it takes a path or an SQLAlchemy URL") from error
    if url.get_backend_name() != "sqlite":
        return None
    if not url.database or url.database == ":memory:":
        raise BadRequestError(f"--db {location}: does not name a file")
    return Path(url.database).expanduser()


def _server(url: str) -> Engine:
    try:
        return create_engine(make_url(url))
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        raise BadRequestError(f"--db {url}: {error}; it takes a path or an SQLAlchemy URL") from error


def _migrate(engine: Engine, location: str, create: bool) -> None:
    """Migrate the tables, completely or not at all."""
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
    # Imported here, because it takes 0.2 s and an up-to-date database does not need it.
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if current is not None and current not in known:
        raise StoreError(f"{location}: was created by a newer musictagger (revision {current}); update musictagger")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    if engine.dialect.name == "sqlite":
        write_ahead(engine)
