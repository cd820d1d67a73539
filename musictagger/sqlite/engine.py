"""SQLAlchemy on SQLite files: the engine, and a column type for paths."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import closing
from pathlib import Path

from sqlalchemy import Connection, Engine, Text, create_engine, event
from sqlalchemy.engine import Dialect
from sqlalchemy.pool import QueuePool
from sqlalchemy.types import TypeDecorator

from musictagger.sqlite.connection import Advice, connector, path_from_text, path_to_text


def sqlite_engine(path: Path, advice: Advice, *, create: bool, pragmas: Collection[str]) -> Engine:
    """An engine on one SQLite file, not opened yet. See `connector` for the arguments and the errors raised.

    Transactions begin with BEGIN, or with the statement in the execution option `begin`.
    """
    connect = connector(path, advice, create=create, pragmas=pragmas)
    engine = create_engine("sqlite://", creator=connect, poolclass=QueuePool)
    event.listen(engine, "begin", _begin)
    return engine


def write_ahead(engine: Engine) -> None:
    """Switch a file to write-ahead logging: readers continue during a write, and a killed process leaves it valid.

    The file remembers the setting, so call this only for a file known to be ours.
    """
    with closing(engine.raw_connection()) as connection:
        connection.cursor().execute("PRAGMA journal_mode=WAL")


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN"))


class PathText(TypeDecorator[Path]):
    """A path stored as text (file names are bytes, and databases refuse text that is not Unicode)."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Path | None, dialect: Dialect) -> str | None:
        """Path to column."""
        return None if value is None else path_to_text(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Path | None:
        """Column to path."""
        return None if value is None else path_from_text(value)
