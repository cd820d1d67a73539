"""The journal is durable before a file changes, and correct however and whenever a write ends."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

import media
import pytest
from test_faults import JOURNALLED_STEPS

from musictagger.audio.digest import audio_digest
from musictagger.errors import StoreError, TagWriteError
from musictagger.library.store import Store
from musictagger.tags import journal as journal_module
from musictagger.tags import journalfile
from musictagger.tags.fields import read_fields, set_fields, snapshot
from musictagger.tags.journal import Journal, journalled_write
from musictagger.tags.journalfile import EntryState, JournalEntry
from musictagger.tags.safewrite import Edit, WriteOptions, sweep

TAGS = {"artist": "An artist", "title": "A title", "genre": "Rock"}
ROCK: Any = {"genre": ("Rock",), "mood": ()}
JAZZ: Any = {"genre": ("Jazz", "Latin Jazz"), "mood": ("calm",)}
POP: Any = {"genre": ("Pop",), "mood": ("happy",)}
STATES = get_args(EntryState)
SONG = Path("/music/song.mp3")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The path of the journal, outside of the music folder."""
    return tmp_path / "data" / "journal.db"


@pytest.fixture
def music(tmp_path: Path) -> Path:
    folder = tmp_path / "music"
    folder.mkdir()
    return folder


def write(
    journal: Journal, path: Path, before: Any = MappingProxyType({}), after: Any = JAZZ, **options: Any
) -> os.stat_result:
    """A run with one write."""
    run = journal.start_run(options.pop("kind", "apply"), "a note")
    edit = Edit(path, before, after, options.pop("digest", None))
    return journalled_write(journal, run, edit, WriteOptions(id3v23_join=options.pop("join", "; ")), **options)


def undo(journal: Journal, entry: JournalEntry) -> None:
    write(journal, entry.path, before=entry.after, after=entry.before, digest=entry.digest, kind="undo")
    journal.settle(entry.id, "undone")


def all_of(journal: Journal) -> list[JournalEntry]:
    return journal.entries(states=STATES)


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def in_child(action: Callable[[], object]) -> int:
    """Run `action` in a forked process; returns its exit status, negative for a signal."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            action()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def die_at(name: str) -> Callable[[str], None]:
    def step(now: str) -> None:
        if now == name:
            os.kill(os.getpid(), signal.SIGKILL)

    return step


def raise_at(name: str, error: BaseException) -> Callable[[str], None]:
    def step(now: str) -> None:
        if now == name:
            raise error

    return step


def killed_write(file: Path, path: Path, name: str, after: Any = JAZZ) -> None:
    """Write in a process that is killed before the step `name`."""

    def action() -> None:
        with Journal(file) as journal:
            write(journal, path, after=after, step=die_at(name))

    assert in_child(action) == -signal.SIGKILL


# ---- runs and entries ---------------------------------------------------------------------------------------------


def test_runs_and_entries(file: Path) -> None:
    with Journal(file) as journal:
        first = journal.start_run("scan", "musictagger scan /music")
        journal.start_run("apply", "nothing to do")
        last = journal.start_run("apply", "plan.json")
        old = journal.intend(first, Edit(SONG, ROCK, JAZZ, "d" * 64))
        journal.settle(old, "written")
        bad = journal.intend(last, Edit(SONG.with_name("other.mp3"), ROCK, JAZZ))
        journal.settle(bad, "failed", "the disk is full")
        new = journal.intend(last, Edit(SONG, JAZZ, POP, "d" * 64))
        journal.settle(new, "written", after={"genre": ("Pop!",), "mood": ()})
        journal.intend(last, Edit(SONG, POP, ROCK))
    with Journal(file, create=False) as journal:
        runs = journal.runs()
        assert [(run.id, run.kind, run.note) for run in runs] == [
            (last, "apply", "plan.json"),
            (first, "scan", "musictagger scan /music"),
        ]
        assert runs[0].counts == {"intended": 1, "written": 1, "failed": 1, "undone": 0}
        assert abs(runs[0].started_at - datetime.now(UTC)) < timedelta(minutes=1)
        assert [entry.id for entry in journal.entries()] == [new, old]
        assert [entry.id for entry in journal.entries(run_id=last)] == [new]
        assert journal.entries(states=["failed"])[0].reason == "the disk is full"
        newest, oldest = journal.entries(paths=[SONG])
        assert (newest.before, newest.after) == (JAZZ, {"genre": ("Pop!",), "mood": ()})
        assert oldest == JournalEntry(old, first, SONG, "d" * 64, ROCK, JAZZ, "written", "", oldest.at)
        assert oldest.at.tzinfo == UTC
        journal.settle(new, "undone")
        assert journal.entries(paths=[SONG]) == [oldest]


def test_a_run_without_entries_is_not_listed(file: Path) -> None:
    with Journal(file) as journal:
        journal.start_run("scan", "")
        assert journal.runs() == []
        assert journal.entries() == []
        assert journal.recover() == []


def test_any_path_and_any_value(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paths = [Path(os.fsdecode(name)) for name in (b"/a/caf\xe9 \xff.mp3", "/a/\ufffdff.mp3".encode(), b"/a\n'\"%.mp3")]
    values: Any = {"genre": ("", "a\0b", "\ud800", "日本 \U0001f3b5", '{"a": [1]}\n'), "mood": (), "provenance": ("",)}
    with Journal(file) as journal:
        run = journal.start_run("apply", "")
        for path in [*paths, Path("here/../there.mp3")]:
            journal.settle(journal.intend(run, Edit(path, values, {})), "written")
        assert [entry.path for entry in journal.entries()] == [tmp_path / "there.mp3", *reversed(paths)]
        assert {tuple(entry.before.items()) for entry in journal.entries()} == {tuple(values.items())}
        assert [entry.path for entry in journal.entries(paths=[paths[0]])] == [paths[0]]
        assert [entry.path for entry in journal.entries(paths=[Path("there.mp3")])] == [tmp_path / "there.mp3"]


def test_entries_of_many_paths_are_newest_first(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "_CHUNK", 3)
    paths = [Path(f"/music/{number * 7 % 10}.mp3") for number in range(10)]
    with Journal(file) as journal:
        run = journal.start_run("apply", "")
        ids = [journal.intend(run, Edit(path, {}, {})) for path in paths]
        found = journal.entries(paths=paths, states=["intended"])
        assert [entry.id for entry in found] == ids[::-1]


def test_unknown_ids_are_refused(file: Path) -> None:
    with Journal(file) as journal:
        with pytest.raises(StoreError, match="has no entry 7"):
            journal.settle(7, "written")
        with pytest.raises(StoreError, match="FOREIGN KEY"):
            journal.intend(7, Edit(SONG, {}, {}))


# ---- on disk ------------------------------------------------------------------------------------------------------


def test_an_entry_survives_a_kill_right_after_it(file: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from musictagger.tags.journal import Journal\n"
        "from musictagger.tags.safewrite import Edit\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "run = journal.start_run('scan', '')\n"
        "journal.intend(run, Edit(Path('/a.mp3'), {'genre': ('A',)}, {'genre': ()}))\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program, file], check=False)
    assert done.returncode == -signal.SIGKILL
    with Journal(file, create=False) as journal:
        (entry,) = all_of(journal)
        assert (entry.path, entry.before, entry.after) == (Path("/a.mp3"), {"genre": ("A",)}, {"genre": ()})
        assert entry.state == "intended"


def test_commits_reach_the_disk(file: Path) -> None:
    for _ in range(2):  # a new file, then an existing one
        with Journal(file) as journal, journal._engine.connect() as connection:
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
            assert connection.exec_driver_sql("PRAGMA user_version").scalar() == journalfile.VERSION


def _append(file: Path, name: str, count: int) -> None:
    with Journal(file) as journal:
        run = journal.start_run("apply", name)
        for number in range(count):
            journal.settle(journal.intend(run, Edit(Path(f"/{name}/{number}"), ROCK, JAZZ)), "written")


def test_several_processes_create_and_fill_one_journal(file: Path) -> None:
    def start(name: str) -> int:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                _append(file, name, 50)
                code = 0
            finally:
                os._exit(code)
        return pid

    pids = [start(name) for name in "abc"]
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0, 0, 0]
    with Journal(file) as journal:
        assert sorted((run.note, run.counts["written"]) for run in journal.runs()) == [("a", 50), ("b", 50), ("c", 50)]
    assert names(file.parent) == [file.name]


def test_two_journals_in_one_process(file: Path) -> None:
    with Journal(file) as one, Journal(file) as two:
        runs = [one.start_run("scan", ""), two.start_run("apply", "")]
        ids = [journal.intend(run, Edit(SONG, ROCK, JAZZ)) for journal, run in zip((one, two), runs, strict=True)]
        with Journal(file) as third:
            assert third.recover() == [], "both are under way"
        for journal, entry in zip((one, two), ids, strict=True):
            journal.settle(entry, "written")
        assert [entry.id for entry in one.entries()] == ids[::-1]


def test_a_journal_that_is_busy(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Journal(file) as journal:
        run = journal.start_run("scan", "")
        other = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
        with contextlib.closing(other):
            other.execute("BEGIN IMMEDIATE")
            threading.Timer(0.3, other.execute, ("COMMIT",)).start()
            journal.intend(run, Edit(SONG, {}, {}))
            monkeypatch.setattr("musictagger.sqlite.connection.BUSY_TIMEOUT_S", 0.05)
            with Journal(file) as impatient:
                other.execute("BEGIN IMMEDIATE")
                with pytest.raises(StoreError, match=r"journal\.db: another program is writing"):
                    impatient.start_run("scan", "")
                assert len(all_of(impatient)) == 1, "reading is still possible"


# ---- files of other programs, places where a journal cannot be created -------------------------------------------


def test_a_newer_journal(file: Path) -> None:
    Journal(file).close()
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute(f"PRAGMA user_version={journalfile.VERSION + 1}")
    with pytest.raises(StoreError, match=r"newer musictagger .*update"):
        Journal(file)


def test_files_of_other_programs_are_not_changed(tmp_path: Path) -> None:
    text, foreign, library = tmp_path / "text.db", tmp_path / "foreign.db", tmp_path / "library.db"
    text.write_text("these are notes, and nothing else\n" * 40)
    with contextlib.closing(sqlite3.connect(foreign)) as connection:
        connection.execute("PRAGMA application_id=42")
        connection.execute("CREATE TABLE notes (id INTEGER)")
    Store(str(library), create=True).__exit__(None, None, None)
    for path, reason in ((text, "is not a database"), (foreign, "not a journal"), (library, "not a journal")):
        old = path.read_bytes()
        with pytest.raises(StoreError, match=reason) as caught:
            Journal(path)
        assert str(path) in str(caught.value)
        assert path.read_bytes() == old
    assert names(tmp_path) == ["foreign.db", "library.db", "text.db"]


def test_a_library_is_not_created_in_a_journal(file: Path) -> None:
    Journal(file).close()
    with pytest.raises(StoreError, match="another program"):
        Store(str(file), create=True)


def test_a_missing_journal(file: Path) -> None:
    with pytest.raises(StoreError, match="no journal yet"):
        Journal(file, create=False)
    assert not file.parent.exists()
    file.parent.mkdir()
    file.touch()  # as a kill during its creation can leave it
    with pytest.raises(StoreError, match="no journal yet"):
        Journal(file, create=False)
    Journal(file).close()
    Journal(file, create=False).close()


def test_locations_where_a_journal_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, reason in (
        (tmp_path, "is a folder"),
        (tmp_path / "file" / "journal.db", "cannot be created"),
        (Path("/proc/nowhere/journal.db"), "cannot be created"),
    ):
        with pytest.raises(StoreError, match=f"{reason}.*nothing is written into music without it"):
            Journal(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_journal_can_be_read(file: Path) -> None:
    _append(file, "a", 1)
    file.chmod(0o444)
    file.parent.chmod(0o555)
    try:
        with Journal(file, create=False) as journal:
            assert len(journal.entries()) == 1
            with pytest.raises(StoreError, match="read-only"):
                journal.start_run("undo", "")
    finally:
        file.parent.chmod(0o755)


def test_a_full_disk_prevents_the_write(file: Path, music: Path) -> None:
    path = media.make("mp3", music, tags=TAGS)
    old = path.read_bytes()
    with Journal(file) as journal:
        run = journal.start_run("apply", "")
        with journal._engine.connect() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
            connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
        with pytest.raises(StoreError, match="the disk is full"):
            for _ in range(500):
                journal.settle(journal.intend(run, Edit(SONG, ROCK, JAZZ)), "failed")
        count = len(all_of(journal))
        with pytest.raises(StoreError, match="the disk is full"):
            journalled_write(journal, run, Edit(path, {}, JAZZ))
        assert len(all_of(journal)) == count
    assert path.read_bytes() == old
    assert names(music) == [path.name]


def test_without_a_lock_nothing_is_written(file: Path, music: Path) -> None:
    path = media.make("mp3", music, tags=TAGS)
    old = path.read_bytes()
    with Journal(file) as journal:
        run = journal.start_run("apply", "")
        journal._lock_file(journal._owner).mkdir()
        with pytest.raises(StoreError, match="cannot be locked"):
            journalled_write(journal, run, Edit(path, {}, JAZZ))
        assert all_of(journal) == []
    assert path.read_bytes() == old


# ---- writes and their undoing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("container", media.TAGGABLE)
def test_two_writes_are_undone_in_reverse_order(container: str, file: Path, music: Path) -> None:
    path = media.make(container, music, tags=TAGS)
    old, digest = snapshot(path, ()), audio_digest(path)
    with Journal(file) as journal:
        assert write(journal, path, before=ROCK, digest=digest).st_ino == path.stat().st_ino
        write(journal, path, after={"genre": ("Pop",)})
        newest, oldest = journal.entries(paths=[path])
        assert (newest.before, newest.after) == ({"genre": JAZZ["genre"]}, {"genre": ("Pop",)})
        assert (oldest.before, oldest.after, oldest.digest) == (ROCK, JAZZ, digest)
        for entry in (newest, oldest):
            undo(journal, entry)
        assert [entry.state for entry in all_of(journal)] == ["written", "written", "undone", "undone"]
        assert [run.kind for run in journal.runs()] == ["undo", "undo", "apply", "apply"]
    assert snapshot(path, ()) == old, "the values and all else are the same, byte for byte"
    assert audio_digest(path) == digest
    assert names(music) == [path.name]
    assert names(file.parent) == [file.name]


def old_tag(path: Path) -> Path:
    """Give an MP3 an ID3v2.3 tag with a genre."""
    path.write_bytes(b"ID3\x03\0\0\0\0\0\x0fTCON\0\0\0\x05\0\0\0Rock" + path.read_bytes())
    return path


def test_joined_values_are_recorded_as_stored(file: Path, music: Path) -> None:
    path = old_tag(media.make("mp3", music))
    old = snapshot(path, ())
    with Journal(file) as journal:
        write(journal, path, after={"genre": ("Jazz", "Pop")}, join=" / ")
        (entry,) = journal.entries()
        assert entry.after == {"genre": ("Jazz / Pop",)} == read_fields(path, ["genre"])
        undo(journal, entry)
        assert snapshot(path, ()) == old
        killed_write(file, path, "settle", {"genre": ("Jazz", "Pop")})
        assert [entry.after for entry in journal.recover()] == [{"genre": ("Jazz; Pop",)}]


def test_nothing_to_write_makes_no_entry(file: Path, music: Path) -> None:
    path = old_tag(media.make("mp3", music))
    with Journal(file) as journal:
        inode = path.stat().st_ino
        assert write(journal, path, after={"genre": ("Rock",), "mood": ()}).st_ino == inode
        write(journal, path, after={"genre": ("Jazz", "Pop")})
        inode = path.stat().st_ino
        assert write(journal, path, after={"genre": ("Jazz", "Pop")}).st_ino == inode
        assert write(journal, path, after={}).st_ino == inode
        assert len(all_of(journal)) == len(journal.runs()) == 1


def test_refusals_before_an_entry_is_made(file: Path, music: Path) -> None:
    path = media.make("opus", music, tags=TAGS)
    (music / "text.mp3").write_text("text " * 900)
    media.make("matroska", music)
    os.mkfifo(music / "pipe.mp3")
    with Journal(file) as journal:
        for refused, before, reason in (
            (path, POP, "genre was changed since this was planned"),
            (path, {"provenance": ("us",)}, "provenance was changed"),
            (music / "text.mp3", {}, "no kind"),
            (music / "matroska.mka", {}, "never written"),
            (music / "pipe.mp3", {}, "not a regular file"),
            (music, {}, "not a regular file"),
            (music / "nowhere.mp3", {}, "it no longer exists; scan again"),
        ):
            with pytest.raises(TagWriteError, match=reason) as caught:
                write(journal, refused, before=before)
            assert caught.value.path == str(refused)
        assert all_of(journal) == []


def test_values_that_an_undo_could_not_restore_are_not_changed(file: Path, music: Path) -> None:
    """Two frames, the second one empty: written again, they would be one frame with one value."""
    path = media.make("mp3", music)
    frames = b"TCON\0\0\0\x05\0\0\x03Rock" + b"TCON\0\0\0\x01\0\0\x03"
    path.write_bytes(b"ID3\x04\0\0\0\0\0" + bytes([len(frames)]) + frames + path.read_bytes())
    assert read_fields(path)["genre"] == ("Rock", "")
    old = path.read_bytes()
    with Journal(file) as journal:
        with pytest.raises(TagWriteError, match="an undo could not restore"):
            write(journal, path)
        assert all_of(journal) == []
        assert path.read_bytes() == old
        write(journal, path, after={"mood": ("calm",)})


def test_a_refused_write_becomes_a_failed_entry(file: Path, music: Path) -> None:
    path = media.make("flac", music, tags=TAGS)
    path.chmod(0o444)
    with Journal(file) as journal:
        with pytest.raises(TagWriteError, match="read-only"):
            write(journal, path)
        (entry,) = all_of(journal)
        assert entry.state == "failed"
        assert entry.reason == "the file is read-only; make it writable and try again"
        path.chmod(0o644)
        with pytest.raises(TagWriteError, match="audio is not what was analysed"):
            write(journal, path, digest="0" * 64)
        assert [entry.state for entry in all_of(journal)] == ["failed", "failed"]


@pytest.mark.parametrize("name", [b"caf\xe9 \xff.mp3", b"a\nb\x1b[31m.mp3"])
def test_unusual_file_names(name: bytes, file: Path, music: Path) -> None:
    path = media.make("mp3", music, name=os.fsdecode(name), tags=TAGS)
    killed_write(file, path, "settle")
    with Journal(file) as journal:
        (entry,) = journal.recover()
        assert (entry.path, entry.state) == (path, "written")
        undo(journal, entry)
    assert read_fields(path, tuple(ROCK)) == ROCK


# ---- faults at every step -----------------------------------------------------------------------------------------

BEFORE_REPLACE = JOURNALLED_STEPS[: JOURNALLED_STEPS.index("replace") + 1]


def settled_and_restored(file: Path, path: Path, old: bytes, name: str) -> None:
    """After a fault at `name`: the file is the old or the new one, the journal knows which, and an undo restores."""
    new = name not in BEFORE_REPLACE
    with Journal(file) as journal:
        journal.recover()
        sweep(path.parent)
        assert names(path.parent) == [path.name]
        assert (path.read_bytes() == old) is not new, name
        assert read_fields(path, tuple(JAZZ)) == (JAZZ if new else ROCK), name
        states = [entry.state for entry in all_of(journal)]
        assert states == ([] if name == "intend" else ["written"] if new else ["failed"]), name
        for entry in journal.entries():
            assert (entry.before, entry.after) == (ROCK, JAZZ)
            undo(journal, entry)
        assert journal.recover() == []
    assert read_fields(path, tuple(ROCK)) == ROCK
    assert names(file.parent) == [file.name]
    file.unlink()


@pytest.mark.parametrize("container", media.TAGGABLE)
def test_a_kill_at_any_step_can_be_recovered(container: str, file: Path, music: Path) -> None:
    path = media.make(container, music, tags=TAGS)
    old, everything = path.read_bytes(), snapshot(path, ())
    for name in JOURNALLED_STEPS:
        killed_write(file, path, name)
        settled_and_restored(file, path, old, name)
        assert snapshot(path, ()) == everything
        path.write_bytes(old)


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
@pytest.mark.parametrize("container", media.TAGGABLE)
def test_a_failure_at_any_step_is_settled(container: str, error: BaseException, file: Path, music: Path) -> None:
    path = media.make(container, music, tags=TAGS)
    old = path.read_bytes()
    for name in JOURNALLED_STEPS:
        harmless = name == "sync folder" and isinstance(error, OSError)
        inside = isinstance(error, OSError) and name in BEFORE_REPLACE[1:]
        with Journal(file) as journal:
            with contextlib.nullcontext() if harmless else pytest.raises(TagWriteError if inside else type(error)):
                write(journal, path, step=raise_at(name, error))
            assert [entry for entry in all_of(journal) if entry.state == "intended"] == [], "settled at once"
            for entry in journal.entries(states=["failed"]):
                assert "disk reports an error" in entry.reason or type(error).__name__ in entry.reason
        settled_and_restored(file, path, old, name)
        path.write_bytes(old)


@pytest.mark.parametrize("container", ["mp3", "flac", "vorbis", "m4a", "wav"])
def test_a_process_killed_at_any_moment(container: str, file: Path, music: Path) -> None:
    """A kill from outside, also while the journal itself writes."""
    path = media.make(container, music, tags=TAGS)
    old = path.read_bytes()
    for milliseconds in (1, 3, 6, 10, 15, 20, 30):
        pid = os.fork()
        if pid == 0:
            try:
                with Journal(file) as journal:
                    write(journal, path)
            finally:
                os._exit(0)
        time.sleep(milliseconds / 1e3)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        with Journal(file) as journal:
            journal.recover()
            sweep(music)
            assert names(music) == [path.name]
            states = [entry.state for entry in all_of(journal)][:1]
            if read_fields(path, tuple(JAZZ)) == JAZZ:
                assert states == ["written"]
            else:
                assert path.read_bytes() == old
                assert states in ([], ["failed"])
            for entry in journal.entries():
                undo(journal, entry)
        assert read_fields(path, tuple(ROCK)) == ROCK
        for left in file.parent.iterdir():
            left.unlink()
        path.write_bytes(old)


@pytest.mark.parametrize("seed", range(12))
def test_any_sequence_of_interrupted_writes_can_be_undone(seed: int, file: Path, music: Path) -> None:
    """Several killed writes of the same file, without a recovery in between."""
    choose = random.Random(seed)
    path = media.make(choose.choice(["mp3", "flac", "m4a"]), music, tags=TAGS)
    old = snapshot(path, ())
    edits = [JAZZ, POP, {"genre": ()}, {"mood": ("sad", "slow")}, {"genre": ("Rock",), "mood": ("calm",)}]
    for _ in range(5):
        after, name = choose.choice(edits), choose.choice([*JOURNALLED_STEPS, "none"])

        def action(after: Any = after, name: str = name) -> None:
            with Journal(file) as journal:
                write(journal, path, after=after, step=die_at(name))

        assert in_child(action) in (0, -signal.SIGKILL)
        sweep(music)
    with Journal(file) as journal:
        journal.recover()
        assert journal.entries(states=["intended"]) == []
        for entry in journal.entries():
            undo(journal, entry)
    assert snapshot(path, ()) == old


def test_a_full_disk_after_the_write(file: Path, music: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is written, and then the journal's disk is full."""

    def fail(*arguments: object) -> None:
        raise StoreError("the disk is full")

    path = media.make("flac", music, tags=TAGS)
    with Journal(file) as journal:
        with monkeypatch.context() as patch:
            patch.setattr(journal, "settle", fail)
            with pytest.raises(StoreError, match="full"):
                write(journal, path)
            with pytest.raises(StoreError, match="full"):
                write(journal, path, after=POP, step=raise_at("save", OSError(errno.EIO, "error")))
        assert [entry.state for entry in all_of(journal)] == ["intended", "intended"]
        assert [entry.state for entry in journal.recover()] == ["failed", "written"]


# ---- recovery -----------------------------------------------------------------------------------------------------


def intended(file: Path, path: Path, before: Any = ROCK, after: Any = JAZZ) -> None:
    """An entry whose process is gone."""
    with Journal(file) as journal:
        journal.intend(journal.start_run("apply", ""), Edit(path, before, after))


def recovered(file: Path) -> list[tuple[EntryState, str]]:
    with Journal(file) as journal:
        settled = journal.recover()
        assert [entry for entry in all_of(journal) if entry in settled] == settled
        return [(entry.state, entry.reason) for entry in settled]


def test_recovery_uses_the_values_in_the_file(file: Path, music: Path) -> None:
    path = media.make("flac", music, tags=TAGS)
    intended(file, path)
    assert recovered(file) == [("failed", "interrupted before the file was changed")]
    set_fields(path, JAZZ)
    intended(file, path)
    assert recovered(file) == [("written", "")]
    set_fields(path, {"genre": ("Edited",), "mood": ("calm",)})
    intended(file, path)
    assert recovered(file) == [("failed", "interrupted, and its genre was then changed by another program")]
    path.write_bytes(b"junk")
    intended(file, path)
    ((state, reason),) = recovered(file)
    assert state == "failed"
    assert "cannot be read" in reason
    path.unlink()
    intended(file, path)
    assert recovered(file) == [("failed", "interrupted, and the file no longer exists")]
    path.mkdir()
    intended(file, path)
    assert recovered(file) == [("failed", "interrupted, and now it is not a regular file")]
    assert recovered(file) == []


def test_recovery_recognises_joined_values(file: Path, music: Path) -> None:
    path = old_tag(media.make("mp3", music))
    set_fields(path, {"genre": ("Jazz", "Pop")})
    intended(file, path, {"genre": ("Rock",)}, {"genre": ("Jazz", "Pop")})
    assert recovered(file) == [("written", "")]
    with Journal(file) as journal:
        assert journal.entries()[0].after == {"genre": ("Jazz; Pop",)}


def test_recovery_waits_for_a_drive_that_is_not_mounted(file: Path, music: Path) -> None:
    path = media.make("wav", music, tags=TAGS)
    killed_write(file, path, "settle")
    sweep(music)
    music.rename(music.with_name("away"))
    assert recovered(file) == []
    music.with_name("away").rename(music)
    assert recovered(file) == [("written", "")]


def test_recovery_uses_the_values_that_a_later_write_found(file: Path, music: Path) -> None:
    path = media.make("mp3", music, tags=TAGS)
    killed_write(file, path, "save")
    sweep(music)
    killed_write(file, path, "settle")
    with Journal(file) as journal:
        write(journal, path, after={"mood": ("sad",)})
        write(journal, path, after={"genre": ("Edited",)})
    path.unlink()
    assert recovered(file) == [("written", ""), ("failed", "interrupted before the file was changed")]


def test_writes_in_progress_in_other_processes_are_not_settled(file: Path, music: Path) -> None:
    path = media.make("mp3", music, tags=TAGS)
    seen = []

    def step(now: str) -> None:
        if now in ("copy", "replace", "sync folder", "settle"):
            seen.append(recovered(file))

    with Journal(file) as journal:
        write(journal, path, step=step)
        assert seen == [[], [], [], []]
        assert [entry.state for entry in all_of(journal)] == ["written"]
    reader, writer = os.pipe()

    def hang(now: str) -> None:
        if now == "save":
            os.write(writer, b".")
            time.sleep(60)

    pid = os.fork()
    if pid == 0:
        try:
            with Journal(file) as journal:
                write(journal, path, after=POP, step=hang)
        finally:
            os._exit(1)
    os.read(reader, 1)
    assert recovered(file) == []
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert recovered(file) == [("failed", "interrupted before the file was changed")]


def test_lock_files_are_removed(file: Path, music: Path) -> None:
    path = media.make("mp3", music, tags=TAGS)
    killed_write(file, path, "save")
    locks = [name for name in names(file.parent) if name.endswith(".lock")]
    assert len(locks) == 1
    recovered(file)
    assert names(file.parent) == [file.name]
    old, young, foreign = (file.parent / name for name in ("journal.db-0.lock", "journal.db-1.lock", "other.lock"))
    for lock, days in ((old, 2), (young, 0), (foreign, 2)):
        lock.touch()
        os.utime(lock, (time.time() - days * 86_400,) * 2)
    recovered(file)
    assert names(file.parent) == [file.name, young.name, foreign.name]


def test_steps_are_in_order(file: Path, music: Path) -> None:
    path = media.make("wav", music, tags=TAGS)
    called: list[str] = []
    with Journal(file) as journal:
        write(journal, path, step=called.append)
    assert tuple(called) == JOURNALLED_STEPS
