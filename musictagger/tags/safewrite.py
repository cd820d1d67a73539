"""Write tags so that a file is at every moment either the old one or the new one, whole.

The file is copied beside itself, the copy is tagged, read again, compared in everything and made durable, and only
then takes the name of the original in one step. Whatever fails before that leaves the original untouched.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import signal
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from musictagger.audio.digest import audio_digest
from musictagger.errors import AudioError, TagWriteError
from musictagger.paths import TEMPORARY_PREFIX
from musictagger.tags.containers import (
    CONTAINERS,
    DEFAULT_JOIN,
    Field,
    container_of,
    read_fields,
    set_fields,
    snapshot,
    stored_form,
    writable,
)

TEMPORARY_SUFFIX = ".tmp"
STEPS = ("check", "copy", "compare", "save", "verify", "attributes", "sync", "recheck", "replace", "sync folder")
"""The steps of a write in order; `step` is called with each name before it. After "replace" the file is the new one."""

ABANDONED_S = 24 * 3600
"""Age after which a temporary file is left over even if its owner seems alive: process numbers are used again."""

_TEMPORARY = re.compile(r"\.musictagger-([0-9a-f]{8})-(\d+)-[0-9a-f]{8}\.tmp")
_HOST = hashlib.blake2b(socket.gethostname().encode(), digest_size=4).hexdigest()
_ADVICE = {
    errno.ENOSPC: "the disk is full; free some space and try again",
    errno.EDQUOT: "the disk quota is used up; free some space and try again",
    errno.EROFS: "the file system is read-only; mount it writable and try again",
    errno.EACCES: "no permission; make the file and its folder writable for you and try again",
    errno.EPERM: "the operation is not permitted; look for an immutable flag or a missing permission",
    errno.EIO: "the disk reports an error; check it and its cable before anything else",
    errno.EFBIG: "the file would become larger than the system allows",
    errno.ENOENT: "it is not there any more; scan again",
    errno.ELOOP: "its symbolic links lead in a circle",
}


def _no_step(name: str) -> None:
    """Nothing to do between the steps."""


def write_fields(
    path: Path,
    before: Mapping[Field, tuple[str, ...]] | None,
    after: Mapping[Field, tuple[str, ...]],
    *,
    expected_digest: str | None,
    preserve_mtime: bool,
    break_hardlinks: bool = False,
    id3v23_join: str = DEFAULT_JOIN,
    step: Callable[[str], None] = _no_step,
) -> os.stat_result:
    """Give the fields in `after` their values (() removes one) and change nothing else; returns the new file's stat.

    `before`: raw values that the fields must still have, or the file was changed since this was planned.
    `expected_digest`: what `audio_digest` must give, or the audio was. A symbolic link is followed and stays one.
    A file that holds the values already is not written. Raises TagWriteError, and then the file is as it was.
    """
    with _as_tag_write_error(path):
        step("check")
        target = _resolved(path)
        original = _checked(path, target, break_hardlinks)
        temporary = _temporary_beside(target)
        try:
            step("copy")
            shutil.copyfile(target, temporary)
            step("compare")
            if _already(path, temporary, before, after, id3v23_join):
                return original
            digest = expected_digest or audio_digest(target)
            others = snapshot(temporary, tuple(after))
            wanted = {field: stored_form(temporary, values, id3v23_join=id3v23_join) for field, values in after.items()}
            step("save")
            set_fields(temporary, after, id3v23_join=id3v23_join)
            step("verify")
            _verify(path, target, temporary, wanted, others, digest)
            step("attributes")
            _copy_attributes(path, target, temporary, original, preserve_mtime)
            step("sync")
            _sync_file(temporary)
            step("recheck")
            _check_unchanged(path, target, original)
            written = temporary.stat()
            step("replace")
            temporary.replace(target)
        finally:
            with contextlib.suppress(OSError):  # it is hidden, and the next sweep takes it
                temporary.unlink(missing_ok=True)
    # From here on the file is the new one: nothing may claim otherwise.
    with contextlib.suppress(OSError):
        step("sync folder")
        _sync_folder(target.parent)
        written = target.stat()
    return written


def sweep(folder: Path) -> list[Path]:
    """Remove what killed runs left in `folder` (not below): files of our own naming whose process is gone.

    Returns what was removed. A folder that cannot be listed, or a file that cannot be removed, is passed over.
    """
    removed = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            with contextlib.suppress(OSError):
                if _is_left_over(entry):
                    Path(entry.path).unlink()
                    removed.append(Path(entry.path))
    return removed


def _is_left_over(entry: os.DirEntry[str]) -> bool:
    name = _TEMPORARY.fullmatch(entry.name)
    if not name or not entry.is_file(follow_symlinks=False):
        return False
    if name[1] == _HOST and not _is_alive(int(name[2])):
        return True
    # The time of the last change of the inode: that of the content is set to the original's.
    return time.time() - entry.stat(follow_symlinks=False).st_ctime > ABANDONED_S


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _temporary_beside(target: Path) -> Path:
    """A new name, short whatever the length of the original's, and hidden from walkers. The file is private, empty."""
    path = target.parent / f"{TEMPORARY_PREFIX}{_HOST}-{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY_SUFFIX}"
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    return path


@contextlib.contextmanager
def _as_tag_write_error(path: Path) -> Iterator[None]:
    """Errors of the system and of the tag readers become TagWriteError of the path that was asked for."""
    try:
        yield
    except TagWriteError as error:
        raise TagWriteError(path, error.reason) from error
    except AudioError as error:
        raise TagWriteError(path, error.reason) from error
    except OSError as error:
        cause = _ADVICE.get(error.errno or 0) or error.strerror or str(error)
        raise TagWriteError(path, f"not written, the file is as it was: {cause}") from error


def _resolved(path: Path) -> Path:
    try:
        return path.resolve(strict=True)
    except RuntimeError as error:  # how Python 3.11 and 3.12 report a circle of links
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path) from error


def _checked(path: Path, target: Path, break_hardlinks: bool) -> os.stat_result:
    """The stat of a file that may be replaced. Raises TagWriteError with the reason for any other."""
    status = target.stat()
    if not stat.S_ISREG(status.st_mode):
        raise TagWriteError(path, "not a regular file")
    if status.st_nlink > 1 and not break_hardlinks:
        raise TagWriteError(
            path,
            f"the file has {status.st_nlink} names (hard links), and writing would separate them; "
            "allow it with --break-hardlinks",
        )
    # The mode is asked besides access(), which lets root write anything: read-only says "leave me alone" to root too.
    if not status.st_mode & 0o222 or not os.access(target, os.W_OK):
        raise TagWriteError(path, "the file is read-only; make it writable and try again")
    if not target.parent.stat().st_mode & 0o222 or not os.access(target.parent, os.W_OK | os.X_OK):
        raise TagWriteError(path, "its folder is read-only; make it writable and try again")
    container = container_of(target)
    if not writable(container):
        raise TagWriteError(path, CONTAINERS[container].refusal)
    _check_no_writer(path, target)
    return status


def _already(
    path: Path,
    temporary: Path,
    before: Mapping[Field, tuple[str, ...]] | None,
    after: Mapping[Field, tuple[str, ...]],
    join: str,
) -> bool:
    """Whether nothing is to be done. Raises TagWriteError where the fields are not what they were in the plan."""
    now = read_fields(temporary, {*after, *(before or ())})
    for field, values in (before or {}).items():
        if now[field] != values:
            raise TagWriteError(path, f"its {field} was changed since this was planned; plan again")
    return all(now[field] == stored_form(temporary, values, id3v23_join=join) for field, values in after.items())


def _verify(
    path: Path,
    target: Path,
    temporary: Path,
    wanted: Mapping[Field, tuple[str, ...]],
    others: Mapping[str, str],
    digest: str,
) -> None:
    """Read the copy as a stranger would. Raises TagWriteError unless it differs in the wanted fields alone."""
    got = read_fields(temporary, tuple(wanted))
    for field, values in wanted.items():
        if got[field] != values:
            raise TagWriteError(path, f"its {field} reads back as {got[field]!r}, not {values!r}; nothing was written")
    now = snapshot(temporary, tuple(wanted))
    changed = sorted(name for name in {*now, *others} if now.get(name) != others.get(name))
    if changed:
        raise TagWriteError(path, f"other tags would change ({', '.join(changed[:3])}); nothing was written")
    if audio_digest(temporary) != digest:
        if audio_digest(target) != digest:
            raise TagWriteError(path, "its audio is not what was analysed; scan it again")
        raise TagWriteError(path, "its audio would change; nothing was written")


def _copy_attributes(path: Path, target: Path, temporary: Path, original: os.stat_result, preserve_mtime: bool) -> None:
    """Owner, mode, flags and extended attributes as those of the original; its time of change if asked for."""
    if sys.platform != "win32":
        _copy_owner(temporary, original)
    shutil.copystat(target, temporary)
    modified_ns = original.st_mtime_ns if preserve_mtime else time.time_ns()
    os.utime(temporary, ns=(original.st_atime_ns, modified_ns))
    if _user_attributes(target) != _user_attributes(temporary):
        raise TagWriteError(path, "its extended attributes could not be copied; nothing was written")


def _copy_owner(temporary: Path, original: os.stat_result) -> None:
    made = temporary.stat()
    if (made.st_uid, made.st_gid) == (original.st_uid, original.st_gid):
        return
    # Only root gives files away; the group at least may be one of ours.
    for uid in (original.st_uid, -1):
        with contextlib.suppress(PermissionError):
            os.chown(temporary, uid, original.st_gid)
            return


def _user_attributes(path: Path) -> dict[str, bytes]:
    if sys.platform != "linux":
        return {}
    try:
        return {name: os.getxattr(path, name) for name in os.listxattr(path) if name.startswith("user.")}
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.ENODATA):
            return {}
        raise


def _check_unchanged(path: Path, target: Path, original: os.stat_result) -> None:
    now = target.stat()
    for name in ("st_dev", "st_ino", "st_size", "st_mtime_ns", "st_ctime_ns", "st_nlink"):
        if getattr(now, name) != getattr(original, name):
            raise TagWriteError(path, "another program changed it in the meantime; its changes were kept, plan again")
    _check_no_writer(path, target)


def _check_no_writer(path: Path, target: Path) -> None:
    """Raises TagWriteError if another program has the file open for writing: what it writes would be lost.

    Linux refuses a read lease on such a file. Where there are no leases, or not for us, nothing can be known.
    """
    if sys.platform != "linux":
        return
    import fcntl  # not there on Windows

    with target.open("rb", buffering=0) as file:
        try:
            # Somebody who opens the file just now makes the kernel send a signal: one that is ignored by default.
            fcntl.fcntl(file, fcntl.F_SETSIG, signal.SIGURG)  # type: ignore[attr-defined, unused-ignore]
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        except OSError as error:
            if error.errno == errno.EAGAIN:
                raise TagWriteError(path, "another program has it open for writing; close it and try again") from error


def _sync_file(path: Path) -> None:
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make the new name durable. Windows knows no such thing."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
