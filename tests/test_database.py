"""Opening a database: refusals, the lock of the writer, and a full disk."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text

from musictagger.errors import BadRequestError, StoreError
from musictagger.library.database import exclusive, open_database
from musictagger.library.opening import open_library
from musictagger.library.reader import LIBRARY_ADVICE, REVISION
from musictagger.sqlite.connection import readable_errors


def location(tmp_path: Path) -> str:
    """A new database."""
    path = str(tmp_path / "library.db")
    open_database(path, create=True).dispose()
    return path


def test_a_new_database_has_its_tables_wal_and_foreign_keys(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "library.db"
    engine = open_database(str(path), create=True)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == REVISION
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(text("PRAGMA foreign_keys")).scalar() == 1
        assert connection.execute(text("PRAGMA busy_timeout")).scalar() == 30_000
    engine.dispose()


def test_every_connection_keeps_foreign_keys(tmp_path: Path) -> None:
    engine = open_database(location(tmp_path), create=False)
    with readable_errors("x", LIBRARY_ADVICE), engine.connect() as one, engine.connect() as other:
        for connection in (one, other):
            assert connection.execute(text("PRAGMA foreign_keys")).scalar() == 1
    with (
        pytest.raises(StoreError, match="FOREIGN KEY"),
        readable_errors("x", LIBRARY_ADVICE),
        engine.begin() as connection,
    ):
        connection.execute(
            text(
                "INSERT INTO analysis (audio_id, model_id, rule, status, padded, frames, scores, embedding,"
                " analysed_at) VALUES (7, 7, '', '', 0, 0, '', '', '')"
            )
        )


def test_opening_again_changes_nothing(tmp_path: Path) -> None:
    path = location(tmp_path)
    before = Path(path).read_bytes()
    for create in (False, True):
        open_database(path, create=create).dispose()
    assert Path(path).read_bytes() == before


@pytest.mark.parametrize("name", ["a b.db", "100%.db", "what?.db", "#1.db", "é.db", "a'b\"c.db", "x&mode=ro.db"])
def test_any_file_name_is_accepted(name: str, tmp_path: Path) -> None:
    open_database(str(tmp_path / name), create=True).dispose()
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.skipif(os.name != "posix", reason="file names are text there")
def test_a_file_name_need_not_be_valid_unicode(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.db")
    open_database(str(path), create=True).dispose()
    open_database(str(path), create=False).dispose()
    assert [os.fsencode(found.name) for found in tmp_path.iterdir()] == [b"caf\xe9.db"]


def test_a_query_does_not_create_a_missing_database(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"gone\.db: there is no database yet; run `musictagger scan"):
        open_database(str(tmp_path / "gone.db"), create=False)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_file_becomes_a_library_only_by_a_scan(tmp_path: Path) -> None:
    path = tmp_path / "empty.db"
    path.touch()
    with pytest.raises(StoreError, match="holds no library yet"):
        open_database(str(path), create=False)
    open_database(str(path), create=True).dispose()
    open_database(str(path), create=False).dispose()


@pytest.mark.parametrize("create", [True, False])
def test_a_newer_database_stays_unchanged(create: bool, tmp_path: Path) -> None:
    path = location(tmp_path)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    before = Path(path).read_bytes()
    with pytest.raises(StoreError, match=r"newer musictagger \(revision 9999\); update musictagger"):
        open_database(path, create=create)
    assert Path(path).read_bytes() == before


@pytest.mark.parametrize("create", [True, False])
def test_another_programs_database_stays_unchanged(create: bool, tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE photos (id)")
    connection.close()
    with pytest.raises(StoreError, match="database of another program"):
        open_database(str(path), create=create)
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("photos",)]
    connection.close()


@pytest.mark.parametrize("create", [True, False])
def test_a_file_that_is_not_a_database_stays_unchanged(create: bool, tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    path.write_text("just some notes\n" * 100)
    with pytest.raises(StoreError, match=r"notes\.db: is not a database"):
        open_database(str(path), create=create)
    assert path.read_text() == "just some notes\n" * 100
    assert [found.name for found in tmp_path.iterdir()] == ["notes.db"]


def test_a_damaged_database_is_an_error_with_advice(tmp_path: Path) -> None:
    path = Path(location(tmp_path))
    data = bytearray(path.read_bytes())
    data[100:4096] = bytes([255]) * 3996
    path.write_bytes(data)
    with pytest.raises(StoreError, match=r"library\.db: the database is damaged"):
        open_database(str(path), create=True)


def test_a_location_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for name in ("file/library.db", "file/deeper/library.db"):
        with pytest.raises(StoreError, match=r"cannot be (opened or )?created.*--db"):
            open_database(str(tmp_path / name), create=True)
        with pytest.raises(StoreError, match="--db"), exclusive(str(tmp_path / name)):
            pass
    (tmp_path / "folder.db").mkdir()
    with pytest.raises(StoreError, match="is a folder; choose another place with --db"):
        open_database(str(tmp_path / "folder.db"), create=True)


@pytest.mark.parametrize("url", ["nonsense://x", "mysql+nodriver://host/db", "://"])
def test_an_invalid_url_is_a_usage_error(url: str) -> None:
    with pytest.raises(BadRequestError, match="takes a path or an SQLAlchemy URL"):
        open_database(url, create=True)


def test_a_sqlite_url_works_too(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'library.db'}"
    open_database(url, create=True).dispose()
    open_database(url, create=False).dispose()
    with exclusive(url):
        pass


def test_a_folder_that_is_read_only_can_still_be_queried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = location(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    engine = open_database(path, create=False)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM file")).scalar() == 0
    wanted = pytest.raises(StoreError, match="is read-only; choose another place")
    with wanted, readable_errors(path, LIBRARY_ADVICE), engine.begin() as connection:
        connection.execute(text("INSERT INTO audio (digest) VALUES ('x')"))
    engine.dispose()
    assert [found.name for found in tmp_path.iterdir()] == ["library.db"]


def test_a_full_disk_loses_nothing_that_was_committed(tmp_path: Path) -> None:
    path = location(tmp_path)
    engine = open_database(path, create=False)
    with engine.connect() as connection:
        pages = connection.execute(text("PRAGMA page_count")).scalar()
        connection.execute(text(f"PRAGMA max_page_count = {int(pages or 0) + 3}"))
        connection.execute(text("INSERT INTO audio (digest) VALUES ('safe')"))
        connection.commit()
        with (
            pytest.raises(StoreError, match="disk is full; what was committed is safe, free some space"),
            readable_errors(path, LIBRARY_ADVICE),
        ):
            for number in range(1000):
                connection.execute(text(f"INSERT INTO audio (digest) VALUES ('{'x' * 1000}{number}')"))
        connection.rollback()
    engine.dispose()
    with open_database(path, create=False).connect() as connection:
        assert connection.execute(text("SELECT digest FROM audio")).all() == [("safe",)]
        assert connection.execute(text("PRAGMA integrity_check")).scalar() == "ok"


HOLD = """
import sys, time
from musictagger.library.database import exclusive
with exclusive(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_only_one_scan_may_write_and_a_killed_one_releases_the_lock(tmp_path: Path) -> None:
    path = str(tmp_path / "library.db")
    holder = subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StoreError, match="another musictagger is writing to this database"), exclusive(path):
            pass
        with exclusive(str(tmp_path / "another.db")):
            pass
        holder.send_signal(signal.SIGKILL)
    finally:
        holder.kill()
        holder.wait()
        if holder.stdout is not None:
            holder.stdout.close()
    with exclusive(path):
        pass
    with exclusive(path):
        pass


def test_a_locked_database_gives_a_readable_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = location(tmp_path)
    monkeypatch.setattr("musictagger.sqlite.connection.BUSY_TIMEOUT_S", 0.05)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    engine = open_database(path, create=False)
    wanted = pytest.raises(StoreError, match="another program is writing to this database")
    with wanted, readable_errors(path, LIBRARY_ADVICE), engine.begin() as connection:
        connection.execute(text("INSERT INTO audio (digest) VALUES ('x')"))
    other.close()
    engine.dispose()


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("CREATE TABLE photos (id)", "database of another program"),
        ("CREATE TABLE alembic_version AS SELECT '9999' AS version_num", r"newer musictagger \(revision 9999\)"),
        ("VACUUM", "holds no library yet"),
    ],
)
def test_reading_refuses_what_is_not_a_library_of_this_version(statement: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(statement)
    with pytest.raises(StoreError, match=reason), open_library(str(path)):
        pass


def test_reading_a_missing_library_does_not_create_it(tmp_path: Path) -> None:
    with (
        pytest.raises(StoreError, match=r"gone\.db: there is no database yet"),
        open_library(str(tmp_path / "gone.db")),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_library_in_a_read_only_folder_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = location(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with open_library(path) as library:
        assert not library.models()
    assert [found.name for found in tmp_path.iterdir()] == ["library.db"]
