"""The library: next steps of files, copies, missing files, commits, and reading without SQLAlchemy."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_card

from musictagger.audio.frames import Status
from musictagger.audio.walk import FoundFile
from musictagger.errors import StoreError
from musictagger.library.opening import open_library
from musictagger.library.reader import CHUNK, TrackRow
from musictagger.library.store import Store, Todo
from musictagger.records import Analysed
from musictagger.tags.fields import FileTags

RULE = "12000/349440/60000"
TAGS = FileTags("mp3", "ID3v2.4", "artist", "title", "album", ("Rock",), {"genre": ("Rock",)})
CARD = make_card()
OUTPUTS = len(CARD.outputs)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(str(tmp_path / "library.db"), create=True) as store:
        yield store


def file(name: str, size: int = 10, mtime_ns: int = 1_700_000_000_123_456_789) -> FoundFile:
    return FoundFile(Path("/music") / name, size, mtime_ns)


def analysed(name: str, digest: str, frames: int = 2, status: Status = "ok") -> Analysed:
    scores = np.random.default_rng(len(digest)).random((frames, OUTPUTS)).astype(np.float32)
    return Analysed(file(name), digest, status, 63.5, False, scores, np.arange(4, dtype=np.float32))


def record(store: Store, name: str, digest: str, *, model: int | None = None, rule: str = RULE) -> None:
    store.record_file(file(name), digest, TAGS)
    if model is not None:
        store.record_analysis(model, rule, analysed(name, digest))


def need(store: Store, found: FoundFile, model: int, rule: str = RULE, **options: bool) -> tuple[str, str]:
    todo = next(store.todo([found], model, rule, **options))
    assert todo.file == found
    return todo.need, todo.why


def rows(store: Store, model: int, paths: list[Path] | None = None) -> list[TrackRow]:
    return [row for chunk in store.tracks(model, paths) for row in chunk]


def test_the_next_step_of_a_file(store: Store) -> None:
    model, other = store.model_id(CARD), store.model_id(replace(CARD, weights_sha256="1" * 64))
    assert need(store, file("a.mp3"), model) == ("inspection", "new")
    record(store, "a.mp3", "d1")
    assert need(store, file("a.mp3"), model) == ("analysis", "not analysed by this model")
    store.record_analysis(model, RULE, analysed("a.mp3", "d1"))
    assert need(store, file("a.mp3"), model) == ("nothing", "unchanged")
    assert need(store, file("a.mp3"), model, force=True) == ("analysis", "forced")
    assert need(store, file("a.mp3"), model, retry_failed=True) == ("nothing", "unchanged")
    assert need(store, file("a.mp3"), model, "other rule") == ("analysis", "sliced differently before")
    assert need(store, file("a.mp3"), other) == ("analysis", "not analysed by this model")
    assert need(store, file("a.mp3", size=11), model) == ("inspection", "changed")
    assert need(store, file("a.mp3", mtime_ns=1), model, force=True) == ("inspection", "changed")


def test_a_failed_file_is_skipped_until_it_changes_or_a_retry_is_requested(store: Store) -> None:
    model = store.model_id(CARD)
    store.record_failure(file("a.mp3"), "no audio in it", transient=False)
    assert need(store, file("a.mp3"), model) == ("nothing", "failed before")
    assert need(store, file("a.mp3"), model, force=True) == ("nothing", "failed before")
    assert need(store, file("a.mp3"), model, retry_failed=True) == ("inspection", "failed before")
    assert need(store, file("a.mp3", size=11), model) == ("inspection", "changed")
    assert store.failures() == [(Path("/music/a.mp3"), "no audio in it")]
    record(store, "a.mp3", "d1", model=model)
    assert store.failures() == []
    assert need(store, file("a.mp3"), model) == ("nothing", "unchanged")


def test_a_failure_detaches_the_file_but_not_its_copy_from_the_audio(store: Store) -> None:
    model = store.model_id(CARD)
    record(store, "a.mp3", "d1", model=model)
    record(store, "b.mp3", "d1")
    store.record_failure(file("a.mp3", size=3), "truncated", transient=False)
    failed, copy = rows(store, model)
    assert (failed.failure, failed.scores, failed.status) == ("truncated", None, None)
    assert copy.status == "ok"


def test_copies_share_one_analysis(store: Store) -> None:
    model = store.model_id(CARD)
    record(store, "a.mp3", "d1", model=model)
    assert store.known_status("d1", model, RULE) == "ok"
    assert not store.known_status("d1", model, "other rule")
    assert not store.known_status("d2", model, RULE)
    record(store, "copy.mp3", "d1")
    assert need(store, file("copy.mp3"), model) == ("nothing", "unchanged")
    one, other = rows(store, model)
    assert one.scores == other.scores is not None
    assert store.paths_of("d1") == [Path("/music/a.mp3"), Path("/music/copy.mp3")]
    assert len(store.models()) == 1


def test_a_file_with_other_audio_loses_the_old_scores(store: Store) -> None:
    model = store.model_id(CARD)
    record(store, "a.mp3", "d1", model=model)
    store.record_file(file("a.mp3", size=99), "d2", TAGS)
    assert rows(store, model)[0].scores is None
    assert need(store, file("a.mp3", size=99), model) == ("analysis", "not analysed by this model")
    # The audio may come back with another file.
    assert store.known_status("d1", model, RULE) == "ok"


def test_scores_come_back_as_float16(store: Store) -> None:
    model = store.model_id(CARD)
    store.record_file(file("a.mp3"), "d1", TAGS)
    done = analysed("a.mp3", "d1", frames=3)
    store.record_analysis(model, RULE, done)
    row = rows(store, model)[0]
    np.testing.assert_allclose(np.frombuffer(row.scores or b"", "<f2").reshape(-1, OUTPUTS), done.scores, atol=5e-4)
    assert np.frombuffer(row.embedding or b"", "<f2").tolist() == [0, 1, 2, 3]
    assert (row.frames, row.duration_s, row.padded, row.status) == (3, 63.5, False, "ok")
    assert (row.artist, row.title, row.album, row.genres) == ("artist", "title", "album", ("Rock",))


@pytest.mark.parametrize("status", ["too short", "silent"])
def test_a_track_without_frames_is_known_as_such(status: Status, store: Store) -> None:
    model = store.model_id(CARD)
    store.record_file(file("a.mp3"), "d1", TAGS)
    store.record_analysis(model, RULE, analysed("a.mp3", "d1", 0, status))
    row = rows(store, model)[0]
    assert (row.status, row.frames, row.scores) == (status, 0, b"")
    assert need(store, file("a.mp3"), model) == ("nothing", "unchanged")


def test_a_new_analysis_replaces_the_old_one(store: Store) -> None:
    model = store.model_id(CARD)
    record(store, "a.mp3", "d1", model=model)
    store.record_analysis(model, "other rule", analysed("a.mp3", "d1", 5))
    assert [row.frames for row in rows(store, model)] == [5]
    assert need(store, file("a.mp3"), model, "other rule") == ("nothing", "unchanged")


def test_models_coexist_the_last_used_first(store: Store) -> None:
    first = store.model_id(CARD)
    second = store.model_id(replace(CARD, name="second", weights_sha256="1" * 64))
    assert first != second
    record(store, "a.mp3", "d1", model=first)
    # A model that has not analysed anything yet is not listed.
    assert [(id_, card.name) for id_, card in store.models()] == [(first, "small")]
    record(store, "b.mp3", "d2", model=second)
    assert [(id_, card.name) for id_, card in store.models()] == [(second, "second"), (first, "small")]
    assert store.model_id(replace(CARD, name="renamed")) == first
    assert [card.name for _, card in store.models()] == ["renamed", "second"]
    assert rows(store, second)[0].scores is None


def test_missing_files_are_marked_and_return_without_analysis(store: Store) -> None:
    model = store.model_id(CARD)
    for name in ("in/a.mp3", "in/b.mp3", "in/unread/c.mp3", "in-2/d.mp3", "out/e.mp3"):
        record(store, name, name, model=model)
    seen = {todo.file_id for todo in store.todo([file("in/a.mp3")], model, RULE)}
    unread = [Path("/music/in/unread")]
    assert store.mark_missing([Path("/music/in")], seen, unread) == 1
    shown = [row.path.name for row in rows(store, model)]
    assert shown == ["d.mp3", "a.mp3", "c.mp3", "e.mp3"]
    assert store.mark_missing([Path("/music/in")], seen, unread) == 0
    assert need(store, file("in/b.mp3"), model) == ("nothing", "unchanged")
    assert len(rows(store, model)) == 5
    assert store.mark_missing([Path("/")], set(), []) == 5
    assert rows(store, model) == []


def test_an_unreadable_file_is_not_missing(store: Store) -> None:
    record(store, "a.mp3", "d1")
    assert store.mark_missing([Path("/music")], set(), [Path("/music/a.mp3")]) == 0


def test_our_own_write_does_not_count_as_a_change(store: Store) -> None:
    model = store.model_id(CARD)
    record(store, "a.mp3", "d1", model=model)
    written = file("a.mp3", size=12, mtime_ns=5)
    store.record_written(written, replace(TAGS, genres=("Jazz",), fields={"genre": ("Jazz",)}))
    assert need(store, written, model) == ("nothing", "unchanged")
    assert rows(store, model)[0].genres == ("Jazz",)


def test_many_files_are_looked_up_in_their_order(store: Store) -> None:
    model = store.model_id(CARD)
    files = [file(f"{number:05}.mp3") for number in range(2 * CHUNK + 7)]
    for found in files[::2]:
        store.record_failure(found, "x", transient=False)
    todos: list[Todo] = list(store.todo(iter(files), model, RULE))
    assert [todo.file for todo in todos] == files
    assert [todo.why for todo in todos[:4]] == ["failed before", "new", "failed before", "new"]
    paths = [found.path for found in files]
    assert [row.path for row in rows(store, model, paths)] == paths[::2]


def test_strange_names_sizes_and_times_are_kept(store: Store) -> None:
    model = store.model_id(CARD)
    strange = FoundFile(Path("/music/caf\udce9\ufffd.mp3"), 2**40, -1)
    store.record_file(strange, "d1", replace(TAGS, artist="x\ud800y".encode("utf-8", "replace").decode(), title=None))
    assert need(store, strange, model) == ("analysis", "not analysed by this model")
    assert rows(store, model)[0].path == strange.path


def test_leaving_the_block_commits_even_after_an_error_elsewhere(tmp_path: Path) -> None:
    location = str(tmp_path / "library.db")
    with pytest.raises(KeyboardInterrupt), Store(location, create=True) as store:
        store.model_id(CARD)
        record(store, "a.mp3", "d1")
        raise KeyboardInterrupt
    with Store(location) as store:
        assert store.paths_of("d1") == [Path("/music/a.mp3")]


KILLED = """
import os, sys
sys.path.insert(0, sys.argv[2])
from test_store import CARD, Store, record
store = Store(sys.argv[1], create=True)
model = store.model_id(CARD)
record(store, "a.mp3", "d1", model=model)
store.commit()
record(store, "b.mp3", "d2", model=model)
store._session.flush()
os.kill(os.getpid(), 9)
"""


def test_commits_survive_a_killed_process(tmp_path: Path) -> None:
    location = str(tmp_path / "library.db")
    done = subprocess.run([sys.executable, "-c", KILLED, location, str(Path(__file__).parent)], check=False)
    assert done.returncode == -9
    with Store(location) as store:
        model = store.model_id(CARD)
        assert [row.path.name for row in rows(store, model)] == ["a.mp3"]
        assert rows(store, model)[0].status == "ok"


def test_a_full_disk_is_an_error_with_advice_and_loses_nothing(tmp_path: Path) -> None:
    location = str(tmp_path / "library.db")

    def fill() -> None:
        with Store(location, create=True) as store:
            model = store.model_id(CARD)
            record(store, "a.mp3", "d1", model=model)
            store.commit()
            connection: Any = store._session.connection()
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 2}")
            for number in range(2000):
                record(store, f"{number}.mp3", f"d{number}", model=model)

    with pytest.raises(StoreError, match="the disk is full; what was committed is safe"):
        fill()
    with Store(location) as store:
        assert [row.path.name for row in rows(store, store.model_id(CARD))] == ["a.mp3"]


def test_reading_works_in_a_library_that_needs_a_migration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    location = str(tmp_path / "library.db")
    with Store(location, create=True) as store:
        record(store, "a.mp3", "d1", model=store.model_id(CARD))
    monkeypatch.setattr("musictagger.library.opening.REVISION", "0002")
    with open_library(location) as library:
        assert [row.path.name for chunk in library.tracks(1) for row in chunk] == ["a.mp3"]


@pytest.mark.parametrize("command", [["query", "genre:rock"], ["show", "/music/a.mp3"], ["tags"], ["failed"]])
def test_commands_that_only_read_import_neither_torch_nor_sqlalchemy(command: list[str], tmp_path: Path) -> None:
    location = str(tmp_path / "library.db")
    with Store(location, create=True) as store:
        record(store, "a.mp3", "d1", model=store.model_id(CARD))
    code = (
        "import sys; from musictagger.cli import cli; cli(sys.argv[1:], standalone_mode=False);"
        "print({'torch', 'sqlalchemy', 'alembic'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *command, "--db", location], capture_output=True, text=True)
    assert done.stderr == "set()\n"
