"""The tables agree with their migrations, and any file name can be stored."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import inspect

from musictagger.library import database
from musictagger.library.database import open_database
from musictagger.library.reader import REVISION
from musictagger.library.schema import Base
from musictagger.sqlite.connection import path_from_text, path_to_text
from musictagger.sqlite.engine import PathText

MIGRATIONS = Path(database.__file__).parent / "migrations"

names = st.binary(min_size=1, max_size=40).filter(lambda name: b"\0" not in name)
tricky = st.lists(
    st.sampled_from([b"\xef\xbf\xbd", b"\xe9", b"e9", b"\xef", b"\xbf", b"\xbd", b"a", "é".encode(), b"ef", b"\\"]),
    min_size=1,
).map(b"".join)


@pytest.mark.skipif(os.name != "posix", reason="file names are text there")
@given(names | tricky)
def test_any_file_name_is_stored_as_text_and_comes_back(name: bytes) -> None:
    path = Path(os.fsdecode(b"/music/" + name))
    text = path_to_text(path)
    assert text.encode("utf-8")
    assert path_from_text(text) == path
    assert os.fsencode(path_from_text(text)) == os.fsencode(path)


@given(st.lists(names | tricky, min_size=2, max_size=2, unique=True))
def test_different_names_give_different_texts(both: list[bytes]) -> None:
    one, other = (Path(os.fsdecode(b"/" + name)) for name in both)
    assert (path_to_text(one) == path_to_text(other)) == (one == other)


def test_a_plain_name_is_stored_unchanged() -> None:
    assert path_to_text(Path("/music/Émilie/a.mp3")) == "/music/Émilie/a.mp3"
    assert path_to_text(Path(os.fsdecode(b"/caf\xe9"))) == "/caf\ufffde9"


def test_the_revision_is_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_heads() == [REVISION]


def test_the_migrations_create_the_tables_of_the_classes(tmp_path: Path) -> None:
    engine = open_database(str(tmp_path / "a.db"), create=True)
    with engine.connect() as connection:
        options = {"compare_type": compare_type, "compare_server_default": True}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, Base.metadata) == []
        assert set(inspect(connection).get_table_names()) == {*Base.metadata.tables, "alembic_version"}


def compare_type(
    _context: object, _inspected: object, column: object, _type: object, metadata_type: object
) -> bool | None:
    # Alembic sees a decorated text column as another type than the text it is stored as.
    return False if isinstance(metadata_type, PathText) else None
