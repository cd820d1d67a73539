"""A journalled write that fails or is killed at any point leaves the old file or the new one, as the journal records.

`uv run python tests/test_faults.py` tries every fault in every container and prints their number (eight minutes).
The tests try all steps and limits, and a sample of the system calls. Each fault has a process of its own.
"""

from __future__ import annotations

import errno
import logging
import os
import resource
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, get_args

import media
import pytest

from musictagger.audio.digest import audio_digest
from musictagger.errors import StoreError, TagWriteError
from musictagger.tags.containers.systems import FIELDS, Values
from musictagger.tags.fields import read_fields, snapshot
from musictagger.tags.journal import Journal, journalled_write
from musictagger.tags.journalfile import EntryState
from musictagger.tags.safewrite import STEPS, Edit, Step, no_step, sweep, write_fields

TAGS = {"artist": "Ein Künstler", "title": "A title", "genre": "Rock"}
AFTER: Values = {"genre": ("Jazz", "Música"), "mood": ("calm", "träumerisch"), "provenance": ('{"model": "m"}',)}

JOURNALLED_STEPS = ("intend", *STEPS, "settle")
"""The steps of a journalled write in order."""
Outcome = str
"""How the process of a fault ended: `written`, `refused`, `no journal`, `interrupted`, `killed` or `other`."""
_EXIT_CODES: dict[Outcome, int] = {"written": 0, "other": 1, "refused": 3, "no journal": 4, "interrupted": 5}
_FIRED = 16

# The module or type of a function decides whether it is a system call; these make none, or change nothing.
_MODULES = frozenset({"posix", "fcntl", "_io", "io", "_sqlite3", "sqlite3"})
_TYPES = frozenset({"_io", "_sqlite3", "sqlite3"})
_SILENT = frozenset({"fspath", "getpid", "urandom", "_path_normpath", "tell", "seek", "fileno", "get_blocking"})
_HARMLESS = frozenset({"read", "readinto", "stat", "lstat", "fstat", "access", "listxattr", "getxattr"})


@dataclass(frozen=True)
class Scene:
    """A file, its old and new bytes, the values that an undo must restore, and a journal with one run."""

    container: str
    path: Path
    old: bytes
    new: bytes
    fields: Values
    others: dict[str, str]
    digest: str
    empty_journal: Path
    journal: Path
    error: Path


@dataclass(frozen=True)
class Fault:
    """`arm` is called in the new process, just before the write, and returns the `step` of the write.

    Its argument is to be called when the fault happens. `kill_after_s`: the time from the start to a kill from outside.
    """

    kind: str
    place: str
    arm: Callable[[Callable[[], None]], Step]
    kill_after_s: float | None = None


def make_scene(container: str, folder: Path) -> Scene:
    for name in ("music", "data", "empty"):
        (folder / name).mkdir()
    path = media.make(container, folder / "music", tags=TAGS)
    old, fields, others, digest = path.read_bytes(), read_fields(path), snapshot(path), audio_digest(path)
    write_fields(Edit(path, {}, AFTER, digest))
    new = path.read_bytes()
    assert new != old
    with Journal(folder / "empty" / "journal.db") as journal:
        assert journal.start_run("apply", "faults") == 1
    empty, journal_file = folder / "empty" / "journal.db", folder / "data" / "journal.db"
    return Scene(container, path, old, new, fields, others, digest, empty, journal_file, folder / "error")


# ---- kinds of faults ----------------------------------------------------------------------------------------------


def step_fails(name: str, error: BaseException) -> Fault:
    def arm(fired: Callable[[], None]) -> Step:
        def step(now: str) -> None:
            if now == name:
                fired()
                raise error

        return step

    return Fault(f"a step fails ({type(error).__name__})", name, arm)


def killed_at_step(name: str) -> Fault:
    def arm(fired: Callable[[], None]) -> Step:
        def step(now: str) -> None:
            if now == name:
                os.kill(os.getpid(), signal.SIGKILL)

        return step

    return Fault("killed at a step", name, arm)


def is_system_call(function: Any, harmless_too: bool) -> bool:
    owner = getattr(function, "__self__", None)
    if function.__name__ in _SILENT or (function.__name__ in _HARMLESS and not harmless_too):
        return False
    if type(owner).__name__ == "module":
        return owner.__name__ in _MODULES  # type: ignore[union-attr]
    return type(owner).__module__ in _TYPES and type(owner).__name__ not in ("BytesIO", "StringIO")


def at_call(number: int, harmless_too: bool, action: Callable[[Any], None]) -> None:
    """Count system calls from now on, and call `action` with the function before the one of this number."""
    left = number

    def profile(frame: FrameType, event: str, function: Any) -> None:
        nonlocal left
        if event == "c_call" and is_system_call(function, harmless_too):
            left -= 1
            if left == 0:
                action(function)

    sys.setprofile(profile)


def call_fails(number: int) -> Fault:
    def arm(fired: Callable[[], None]) -> Step:
        def fail(function: Any) -> None:
            fired()
            if "sqlite3" in type(getattr(function, "__self__", None)).__module__:
                raise sqlite3.OperationalError("disk I/O error")
            raise OSError(errno.EIO, "Input/output error")

        at_call(number, True, fail)
        return no_step

    return Fault("a call into the system fails", str(number), arm)


def killed_at_call(number: int) -> Fault:
    def arm(fired: Callable[[], None]) -> Step:
        at_call(number, False, lambda function: os.kill(os.getpid(), signal.SIGKILL))
        return no_step

    return Fault("killed at a call into the system", str(number), arm)


def full_disk(limit_bytes: int) -> Fault:
    """Limit the size of all files: of the copy and of the journal."""

    def arm(fired: Callable[[], None]) -> Step:
        fired()
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
        return no_step

    return Fault("files may not grow", f"{limit_bytes} bytes", arm)


def killed_after(seconds: float) -> Fault:
    return Fault("killed at a moment", f"{seconds * 1000:.1f} ms", lambda fired: no_step, seconds)


ERRORS = (OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), MemoryError())


def step_faults(errors: Sequence[BaseException] = ERRORS) -> Iterator[Fault]:
    for name in JOURNALLED_STEPS:
        yield killed_at_step(name)
        yield from (step_fails(name, error) for error in errors)


def limit_faults(scene: Scene) -> Iterator[Fault]:
    low, high = sorted((len(scene.old), len(scene.new)))
    limits = {0, 100, 1024, 5000, 20_000, low // 2, low - 1, low, (low + high) // 2, high - 1}
    yield from (full_disk(limit) for limit in sorted(limits))


def call_faults(scene: Scene, at_most: int | None) -> Iterator[Fault]:
    """All calls that can fail, and all that could be interrupted half-way; or `at_most` of each, evenly spaced."""
    for fault, harmless_too in ((call_fails, True), (killed_at_call, False)):
        count = calls_of_a_write(scene, harmless_too)
        every = 1 if at_most is None else max(1, count // at_most)
        yield from (fault(number) for number in range(1, count + 1, every))


def calls_of_a_write(scene: Scene, harmless_too: bool) -> int:
    found = 0

    def profile(frame: FrameType, event: str, function: Any) -> None:
        nonlocal found
        found += event == "c_call" and is_system_call(function, harmless_too)

    reset(scene)
    with Journal(scene.journal) as journal:
        sys.setprofile(profile)
        try:
            write(scene, journal, no_step)
        finally:
            sys.setprofile(None)
    return found


# ---- trying one ---------------------------------------------------------------------------------------------------


def reset(scene: Scene) -> None:
    scene.path.write_bytes(scene.old)
    shutil.rmtree(scene.journal.parent)
    shutil.copytree(scene.empty_journal.parent, scene.journal.parent)


def write(scene: Scene, journal: Journal, step: Step) -> None:
    before = {field: scene.fields[field] for field in AFTER}
    journalled_write(journal, 1, Edit(scene.path, before, AFTER, scene.digest), step=step)


def try_fault(scene: Scene, fault: Fault) -> bool:
    """Cause the fault, and check the result. Returns whether it happened. Raises AssertionError."""
    reset(scene)
    pid = os.fork()
    if pid == 0:
        run_child(scene, fault)
    if fault.kill_after_s is not None:
        time.sleep(fault.kill_after_s)
        os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    killed = os.WIFSIGNALED(status)
    code = 0 if killed else os.waitstatus_to_exitcode(status)
    outcome = "killed" if killed else {number: name for name, number in _EXIT_CODES.items()}[code & ~_FIRED]
    try:
        check_what_is_left(scene, outcome)
    except (AssertionError, StoreError, TagWriteError) as error:
        error.add_note(f"{scene.container}: {fault.kind}: {fault.place}: {outcome}")
        raise
    return killed or bool(code & _FIRED)


def run_child(scene: Scene, fault: Fault) -> None:
    happened: list[bool] = []
    outcome = "other"
    logging.disable()  # SQLAlchemy reports what it cannot raise
    try:
        with Journal(scene.journal) as journal:
            step = fault.arm(lambda: happened.append(True))
            try:
                write(scene, journal, step)
                outcome = "written"
            finally:
                sys.setprofile(None)
    except TagWriteError:
        outcome = "refused"
    except StoreError:
        outcome = "no journal"
    except (KeyboardInterrupt, MemoryError):
        outcome = "interrupted"
    except BaseException as error:
        # The errors of `step` itself, outside of any write, are not translated.
        outcome = "interrupted" if error in ERRORS else "other"
        scene.error.write_text("".join(traceback.format_exception_only(error)))
    finally:
        os._exit(_EXIT_CODES[outcome] | (_FIRED if happened else 0))


def check_what_is_left(scene: Scene, outcome: Outcome) -> None:
    assert outcome != "other", f"an error of another kind than musictagger's: {scene.error.read_text()}"
    found = scene.path.read_bytes()
    assert found in (scene.old, scene.new), "neither the old file nor the new one"
    left = [path.name for path in scene.path.parent.iterdir() if path != scene.path]
    assert all(name.startswith(".musictagger-") and name.endswith(".tmp") for name in left)
    sweep(scene.path.parent)
    assert list(scene.path.parent.iterdir()) == [scene.path], "temporary files are left"
    if outcome in ("written", "refused"):
        assert (found == scene.new) == (outcome == "written"), "the outcome does not match the file"
    with Journal(scene.journal) as journal:
        journal.recover()
        entries = journal.entries(states=get_args(EntryState))
        assert [entry.state for entry in entries] in ([["written"]] if found == scene.new else [[], ["failed"]])
        if entries:
            assert (entries[0].path, entries[0].before, entries[0].after) == (scene.path, scene.fields, AFTER)
        if found == scene.new:
            undo(scene, journal)


def undo(scene: Scene, journal: Journal) -> None:
    (entry,) = journal.entries()
    run = journal.start_run("undo", "")
    journalled_write(journal, run, Edit(entry.path, entry.after, entry.before, entry.digest))
    assert read_fields(scene.path, FIELDS) == scene.fields
    assert (snapshot(scene.path), audio_digest(scene.path)) == (scene.others, scene.digest)


# ---- tests, and all of them ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("container", media.TAGGABLE)
def test_a_failure_or_kill_at_every_step(container: str, tmp_path: Path) -> None:
    scene = make_scene(container, tmp_path)
    tried = [try_fault(scene, fault) for fault in step_faults(ERRORS[:2])]
    assert len(tried) == len(JOURNALLED_STEPS) * 3
    assert all(tried)


@pytest.mark.parametrize("container", media.TAGGABLE)
def test_a_full_disk(container: str, tmp_path: Path) -> None:
    scene = make_scene(container, tmp_path)
    assert sum(try_fault(scene, fault) for fault in limit_faults(scene)) >= 8


@pytest.mark.parametrize("container", media.TAGGABLE)
def test_a_sample_of_system_calls(container: str, tmp_path: Path) -> None:
    scene = make_scene(container, tmp_path)
    assert sum(try_fault(scene, fault) for fault in call_faults(scene, at_most=6)) >= 10


def main() -> None:
    """Try all faults; print those that did harm, and the number of faults."""
    counts: Counter[str] = Counter()
    harmed = 0
    for container in media.TAGGABLE:
        with tempfile.TemporaryDirectory() as folder:
            scene = make_scene(container, Path(folder).resolve())
            moments = [killed_after(milliseconds / 1000) for milliseconds in range(1, 25)]
            for fault in [*step_faults(), *limit_faults(scene), *call_faults(scene, None), *moments]:
                try:
                    counts[fault.kind] += try_fault(scene, fault)
                except (AssertionError, StoreError, TagWriteError) as error:
                    harmed += 1
                    print("; ".join([str(error).splitlines()[0] if str(error) else "", *error.__notes__]), flush=True)
        print(f"{container}: {sum(counts.values())} so far", flush=True)
    for kind, count in sorted(counts.items()):
        print(f"{count:6} {kind}")
    print(f"{sum(counts.values()):6} faults tried in {len(media.TAGGABLE)} kinds of files; {harmed} did harm")
    sys.exit(bool(harmed))


if __name__ == "__main__":
    main()
