"""A write that fails or is killed at any point leaves the old file or the new one, and no temporary files."""

from __future__ import annotations

import errno
import functools
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import media
import pytest

from musictagger.audio.digest import audio_digest
from musictagger.errors import TagWriteError
from musictagger.tags import safewrite
from musictagger.tags.fields import read_fields, set_fields, snapshot
from musictagger.tags.safewrite import STEPS, Edit, WriteOptions, no_step, sweep, write_fields

TAGS = {"artist": "An artist", "title": "A title", "genre": "Rock"}
JAZZ: Any = {"genre": ("Jazz", "Latin Jazz"), "mood": ("calm",)}
ROCK: Any = {"genre": ("Rock",), "mood": ()}


def write(path: Path, **options: Any) -> os.stat_result:
    edit = Edit(path, options.pop("before", {}), options.pop("after", JAZZ), options.pop("digest", None))
    step = options.pop("step", no_step)
    return write_fields(edit, WriteOptions(**options), step)


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def refused(path: Path, reason: str, **options: Any) -> None:
    """Assert that the write fails for this reason, with this path, and changes neither file nor folder."""
    old = path.read_bytes() if path.is_file() else b""
    there = names(path.parent)
    with pytest.raises(TagWriteError, match=reason) as caught:
        write(path, **options)
    assert caught.value.path == os.fspath(path)
    assert (path.read_bytes() if path.is_file() else b"") == old
    assert names(path.parent) == there


@pytest.mark.parametrize("container", media.TAGGABLE)
def test_a_write_and_its_undo(container: str, tmp_path: Path) -> None:
    path = media.make(container, tmp_path, tags=TAGS)
    digest, others = audio_digest(path), snapshot(path)
    status = write(path, before=ROCK, digest=digest)
    assert status.st_ino == path.stat().st_ino
    assert read_fields(path, tuple(JAZZ)) == JAZZ
    assert (audio_digest(path), snapshot(path)) == (digest, others)
    write(path, before=JAZZ, after=ROCK, digest=digest)
    assert read_fields(path, tuple(ROCK)) == ROCK
    assert (audio_digest(path), snapshot(path)) == (digest, others)
    assert names(tmp_path) == [path.name]


# ---- faults -------------------------------------------------------------------------------------------------------


def raising(name: str, error: BaseException) -> Callable[[str], None]:
    def step(now: str) -> None:
        if now == name:
            raise error

    return step


def new_and_old(container: str, folder: Path) -> tuple[Path, bytes, bytes]:
    """A file, its bytes, and its bytes after the write."""
    path = media.make(container, folder, tags=TAGS)
    old = path.read_bytes()
    write(path)
    new = path.read_bytes()
    path.write_bytes(old)
    assert new != old
    return path, old, new


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt(), MemoryError()])
@pytest.mark.parametrize("container", media.TAGGABLE)
def test_a_failure_at_any_step_leaves_a_complete_file(container: str, error: BaseException, tmp_path: Path) -> None:
    path, old, new = new_and_old(container, tmp_path)
    for name in STEPS:
        last = name == "sync folder"
        if last and isinstance(error, OSError):
            write(path, step=raising(name, error))  # the file is in place, so the write has not failed
        else:
            wanted = TagWriteError if isinstance(error, OSError) else type(error)
            with pytest.raises(wanted) as caught:
                write(path, step=raising(name, error))
            assert "disk is full" in str(caught.value) or not isinstance(error, OSError)
        assert path.read_bytes() == (new if last else old), name
        assert names(tmp_path) == [path.name]


def in_child(action: Callable[[], object]) -> int:
    """Run `action` in a forked process; returns its wait status. Exit status 3: it raised TagWriteError."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            action()
            code = 0
        except TagWriteError:
            code = 3
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1]


@pytest.mark.parametrize("container", media.TAGGABLE)
def test_a_kill_at_any_step_leaves_a_complete_file(container: str, tmp_path: Path) -> None:
    path, old, new = new_and_old(container, tmp_path)
    for name in STEPS:

        def die(now: str, name: str = name) -> None:
            if now == name:
                os.kill(os.getpid(), signal.SIGKILL)

        assert os.WTERMSIG(in_child(lambda: write(path, step=die))) == signal.SIGKILL
        assert path.read_bytes() == (new if name == "sync folder" else old), name
        left = [entry for entry in names(tmp_path) if entry != path.name]
        assert all(entry.startswith(".musictagger-") and entry.endswith(".tmp") for entry in left)
        assert len(left) == (name not in ("check", "sync folder"))
        assert len(sweep(tmp_path)) == len(left)
        assert names(tmp_path) == [path.name]


@pytest.mark.parametrize("container", media.TAGGABLE)
def test_a_full_disk_at_any_byte(container: str, tmp_path: Path) -> None:
    """A limit on the size of files fails real writes, in the copy and halfway through saving."""
    path, old, new = new_and_old(container, tmp_path)
    low, high = sorted((len(old), len(new)))

    def limited(limit: int) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        write(path)

    for limit in sorted({0, 1, low // 2, low - 1, *range(low, high, max(1, (high - low) // 5)), high - 1}):
        status = in_child(functools.partial(limited, limit))
        done = path.read_bytes()
        assert os.waitstatus_to_exitcode(status) == (3 if done == old else 0), limit
        assert done in (old, new)
        assert names(tmp_path) == [path.name]
        path.write_bytes(old)


@pytest.mark.parametrize("container", media.TAGGABLE)
def test_a_process_killed_at_any_moment(container: str, tmp_path: Path) -> None:
    """A kill from outside, at a moment unrelated to the steps."""
    path, old, new = new_and_old(container, tmp_path)
    for microseconds in (300, 800, 1500, 2500, 4000, 7000):
        pid = os.fork()
        if pid == 0:
            try:
                write(path)
            finally:
                os._exit(0)
        time.sleep(microseconds / 1e6)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert path.read_bytes() in (old, new)
        sweep(tmp_path)
        assert names(tmp_path) == [path.name]
        path.write_bytes(old)


@pytest.mark.parametrize("call", ["fsync", "utime", "chown"])
def test_failing_system_calls(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    path = media.make("mp3", tmp_path, tags=TAGS)
    if call == "chown":
        os.chown(path, 12345, 12345) if os.geteuid() == 0 else pytest.skip("needs root")
    monkeypatch.setattr(os, call, fail)
    refused(path, "disk reports an error")


def test_a_replacement_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    path = media.make("flac", tmp_path, tags=TAGS)
    monkeypatch.setattr(Path, "replace", fail)
    refused(path, "no permission")


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda path: media.add_tags(path, {"album": "Other"}), "other tags would change"),
        (lambda path: set_fields(path, {"genre": ("Wrong",)}), "reads back as"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\0"), "audio would change"),
        (lambda path: path.write_bytes(b""), "cannot be read|no kind"),
    ],
)
def test_a_wrong_copy_is_never_used(harm: Any, reason: str, tmp_path: Path) -> None:
    path = media.make("mp3", tmp_path, tags=TAGS)
    path.write_bytes(path.read_bytes()[:-1] + b"\x55")

    def step(now: str) -> None:
        if now == "verify":
            harm(next(tmp_path.glob(".musictagger-*")))

    refused(path, reason, step=step)


# ---- refusals -----------------------------------------------------------------------------------------------------


def test_a_file_changed_since_the_plan(tmp_path: Path) -> None:
    path = media.make("opus", tmp_path, tags=TAGS)
    refused(path, "genre was changed", before={"genre": ("Pop",)})
    refused(path, "mood was changed", before={"mood": ("calm",)}, after={"genre": ("Jazz",)})
    refused(path, "audio is not what was analysed", digest="0" * 64)


def test_a_file_changed_while_it_is_written(tmp_path: Path) -> None:
    path = media.make("m4a", tmp_path, tags=TAGS)
    other = media.make("m4a", tmp_path, name="other", tags={"title": "Another"}).read_bytes()
    (tmp_path / "other").unlink()

    def step(now: str) -> None:
        if now == "recheck":
            path.write_bytes(other)

    with pytest.raises(TagWriteError, match="another program changed it"):
        write(path, step=step)
    assert path.read_bytes() == other
    assert names(tmp_path) == [path.name]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has leases")
def test_a_file_open_for_writing_elsewhere(tmp_path: Path) -> None:
    path = media.make("mp3", tmp_path, tags=TAGS)
    command = "import sys, time; file = open(sys.argv[1], 'ab'); print('open', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", command, path], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            refused(path, "open for writing")
        finally:
            process.kill()
    with path.open("rb"):  # a reader does not prevent a write
        write(path)


def test_hard_links(tmp_path: Path) -> None:
    path = media.make("mp3", tmp_path, tags=TAGS)
    twin = tmp_path / "twin.mp3"
    twin.hardlink_to(path)
    old = twin.read_bytes()
    refused(path, "2 names .*--break-hardlinks")
    write(path, break_hardlinks=True)
    assert read_fields(path)["genre"] == JAZZ["genre"]
    assert twin.read_bytes() == old


def test_symbolic_links_stay_links(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    path = media.make("mp3", tmp_path / "real", tags=TAGS)
    link = tmp_path / "link.mp3"
    link.symlink_to(path)
    write(link)
    assert link.is_symlink()
    assert read_fields(path)["genre"] == JAZZ["genre"]
    assert names(tmp_path / "real") == [path.name]
    loop = tmp_path / "loop.mp3"
    loop.symlink_to(loop)
    refused(loop, "symbolic links form a loop")


def test_other_than_regular_files_are_refused(tmp_path: Path) -> None:
    refused(tmp_path, "not a regular file")
    refused(tmp_path / "nowhere.mp3", "it no longer exists")
    os.mkfifo(tmp_path / "pipe.mp3")
    refused(tmp_path / "pipe.mp3", "not a regular file")


def test_other_than_music_is_refused(tmp_path: Path) -> None:
    for name, data in {"text.mp3": b"text " * 900, "empty.flac": b"", "a.mka": media.payload("matroska")}.items():
        (tmp_path / name).write_bytes(data)
        refused(tmp_path / name, "Matroska|no kind")


def test_read_only_files_and_folders(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    path = media.make("mp3", folder, tags=TAGS)
    path.chmod(0o444)
    refused(path, "file is read-only")
    path.chmod(0o644)
    folder.chmod(0o555)
    refused(path, "folder is read-only")
    folder.chmod(0o755)


# ---- preserved properties -----------------------------------------------------------------------------------------


def test_attributes_are_kept(tmp_path: Path) -> None:
    path = media.make("flac", tmp_path, tags=TAGS)
    path.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(path, 12345, 23456)
    os.setxattr(path, "user.rating", b"\0five")
    os.utime(path, ns=(1_000_000_000_123_456_789, 1_100_000_000_987_654_321))
    before = path.stat()
    after = write(path, preserve_mtime=True)
    assert after.st_mtime_ns == before.st_mtime_ns == path.stat().st_mtime_ns
    assert stat.S_IMODE(after.st_mode) == 0o640
    assert (after.st_uid, after.st_gid) == (before.st_uid, before.st_gid)
    assert os.getxattr(path, "user.rating") == b"\0five"
    assert write(path, after=ROCK).st_mtime_ns > before.st_mtime_ns


def test_extended_attributes_that_cannot_be_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = media.make("flac", tmp_path, tags=TAGS)
    os.setxattr(path, "user.rating", b"5")
    monkeypatch.setattr(shutil, "copystat", lambda *arguments: None)
    refused(path, "extended attributes")


def test_a_file_with_the_new_values_is_not_written(tmp_path: Path) -> None:
    path = media.make("mp3", tmp_path, tags=TAGS)
    inode = path.stat().st_ino
    assert write(path, after=ROCK).st_ino == inode == path.stat().st_ino
    assert names(tmp_path) == [path.name]


def test_several_values_in_an_old_tag_are_joined(tmp_path: Path) -> None:
    path = media.make("mp3", tmp_path)
    path.write_bytes(b"ID3\x03\0\0\0\0\0\x0dTIT2\0\0\0\x03\0\0\0Hi" + path.read_bytes())
    write(path, id3v23_join=" / ")
    assert read_fields(path)["genre"] == ("Jazz / Latin Jazz",)
    inode = path.stat().st_ino
    assert write(path, id3v23_join=" / ").st_ino == inode


@pytest.mark.parametrize("name", [b"caf\xe9 \xff.mp3", b"n" * 251 + b".mp3", b"a\nb\x1b[31m.mp3"])
def test_unusual_file_names(name: bytes, tmp_path: Path) -> None:
    path = media.make("mp3", tmp_path, name=os.fsdecode(name), tags=TAGS)
    write(path)
    assert names(tmp_path) == [os.fsdecode(name)]
    assert read_fields(path)["genre"] == JAZZ["genre"]
    path.chmod(0o400)
    with pytest.raises(TagWriteError) as caught:
        write(path, after=ROCK)
    assert str(caught.value).isprintable()


def test_sweep_removes_only_files_of_ended_processes(tmp_path: Path) -> None:
    host = safewrite._HOST
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        dead = process.pid
    mine = tmp_path / f".musictagger-{host}-{dead}-0123abcd.tmp"
    kept = [
        f".musictagger-{host}-{os.getpid()}-0123abcd.tmp",
        f".musictagger-ffffffff-{dead}-0123abcd.tmp",
        f".musictagger-{host}-{dead}-0123abcd.tmp.mp3",
        f"musictagger-{host}-{dead}-0123abcd.tmp",
        ".musictagger-.tmp",
    ]
    for name in [mine.name, *kept]:
        (tmp_path / name).touch()
    folder = tmp_path / f".musictagger-{host}-{dead}-ffffffff.tmp"
    folder.mkdir()
    assert sweep(tmp_path) == [mine]
    assert names(tmp_path) == sorted([*kept, folder.name])
    assert sweep(tmp_path / "nowhere") == []


def test_sweep_removes_any_temporary_file_after_a_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / f".musictagger-ffffffff-{os.getpid()}-0123abcd.tmp"
    path.touch()
    assert sweep(tmp_path) == []
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + safewrite.ABANDONED_S + 5)
    assert sweep(tmp_path) == [path]
