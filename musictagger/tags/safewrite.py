"""Write tags so that at every moment a file is either the complete old one or the complete new one.

The file is copied within its folder. The copy is tagged, read back, compared with the original and made durable, and
only then replaces the original in one step. A failure before that leaves the original untouched.
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
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from musictagger.audio.digest import audio_digest
from musictagger.errors import AudioError, TagWriteError
from musictagger.paths import TEMPORARY_PREFIX, sync_folder
from musictagger.tags.containers.systems import DEFAULT_JOIN, Field, Values
from musictagger.tags.containers.table import container_of
from musictagger.tags.fields import read_fields, set_fields, snapshot, stored_form

if TYPE_CHECKING:
    from musictagger.config import Settings

STEPS = ("check", "copy", "compare", "save", "verify", "attributes", "sync", "recheck", "replace", "sync folder")
"""The steps of a write in order; `step` is called with each name before it. After "replace" the file is the new one."""

ABANDONED_S = 24 * 3600
"""Age after which a temporary or lock file is abandoned even if its process seems alive: process ids are reused."""

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
    errno.ENOENT: "it no longer exists; scan again",
    errno.ELOOP: "its symbolic links form a loop",
}


@dataclass(frozen=True)
class WriteOptions:
    """Options for replacing files and joining values (see Settings)."""

    preserve_mtime: bool = False
    break_hardlinks: bool = False
    id3v23_join: str = DEFAULT_JOIN

    @classmethod
    def of(cls, settings: Settings) -> WriteOptions:
        """The options that the settings hold."""
        return cls(settings.preserve_mtime, settings.break_hardlinks, settings.id3v23_join)


DEFAULT_OPTIONS = WriteOptions()


@dataclass(frozen=True)
class Edit:
    """New values for some fields of one file.

    `before`: raw values that these fields must still have. `after`: the new values; () removes a field.
    `digest`: the `audio_digest` that the file must still have, None for any.
    """

    path: Path
    before: Values
    after: Values
    digest: str | None = None


Step = Callable[[str], None]
"""Called with the name of each step before it."""


def no_step(name: str) -> None:
    """Do nothing between the steps."""


def write_fields(edit: Edit, options: WriteOptions = DEFAULT_OPTIONS, step: Step = no_step) -> os.stat_result:
    """Give the fields in `edit.after` their values and change nothing else; returns the stat of the new file.

    A symbolic link is followed and remains a link. A file that already holds the values is not written.
    Raises TagWriteError, and then the file has not changed.
    """
    with as_tag_write_error(edit.path):
        step("check")
        target = _resolved(edit.path)
        original = _checked(target, options.break_hardlinks)
        temporary = _temporary_beside(target)
        try:
            step("copy")
            shutil.copyfile(target, temporary)
            if not _edited(target, temporary, edit, options.id3v23_join, step):
                return original
            step("attributes")
            _copy_attributes(target, temporary, original, options.preserve_mtime)
            step("sync")
            _sync_file(temporary)
            step("recheck")
            _check_unchanged(target, original)
            written = temporary.stat()
            step("replace")
            temporary.replace(target)
        finally:
            with contextlib.suppress(OSError):  # it is hidden, and the next sweep removes it
                temporary.unlink(missing_ok=True)
    # The file is now the new one, so no error may suggest otherwise.
    with contextlib.suppress(OSError):
        step("sync folder")
        sync_folder(target.parent)
        written = target.stat()
    return written


def _edited(target: Path, temporary: Path, edit: Edit, join: str, step: Step) -> bool:
    """Give the copy its new values and verify it. False, with nothing done, where it holds them already."""
    step("compare")
    found = read_planned(temporary, edit)
    wanted = stored_form(temporary, edit.after, id3v23_join=join)
    if all(found[field] == values for field, values in wanted.items()):
        return False
    digest = edit.digest or audio_digest(target)
    others = snapshot(temporary, tuple(wanted))
    step("save")
    set_fields(temporary, edit.after, id3v23_join=join)
    step("verify")
    _verify(target, temporary, wanted, others, digest)
    return True


def read_planned(path: Path, edit: Edit) -> dict[Field, tuple[str, ...]]:
    """The values that the fields of an edit have in the file at `path`.

    Raises TagWriteError unless they are those before the edit.
    """
    found = read_fields(path, {*edit.before, *edit.after})
    for field, values in edit.before.items():
        if found[field] != values:
            raise TagWriteError(path, f"its {field} was changed since this was planned; plan again")
    return found


def require_taggable(path: Path) -> os.stat_result:
    """The stat of a regular file that can hold tags. Raises TagWriteError with the reason for any other."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise TagWriteError(path, "not a regular file")
    container = container_of(path)
    if not container.systems:
        raise TagWriteError(path, container.refusal)
    return status


def sweep(folder: Path) -> list[Path]:
    """Remove the temporary files in `folder` (not below) whose process is gone; returns those removed.

    A folder that cannot be listed, or a file that cannot be removed, is ignored.
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
    # The time at which the inode changed: the modification time is set to that of the original.
    return time.time() - entry.stat(follow_symlinks=False).st_ctime > ABANDONED_S


def _is_alive(pid: int) -> bool:
    try:
        with contextlib.suppress(PermissionError):
            os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    return True


def _temporary_beside(target: Path) -> Path:
    """A new, empty, private file with a hidden name, which is short however long the name of `target` is."""
    path = target.parent / f"{TEMPORARY_PREFIX}{_HOST}-{os.getpid()}-{secrets.token_hex(4)}.tmp"
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    return path


@contextlib.contextmanager
def as_tag_write_error(path: Path) -> Iterator[None]:
    """Turn errors of the system, of tags and of audio into a TagWriteError for `path`, the path that the user knows."""
    try:
        yield
    except (TagWriteError, AudioError) as error:
        raise TagWriteError(path, error.reason) from error
    except OSError as error:
        cause = _ADVICE.get(error.errno or 0) or error.strerror or str(error)
        raise TagWriteError(path, f"not written; the file is unchanged: {cause}") from error


def _resolved(path: Path) -> Path:
    try:
        return path.resolve(strict=True)
    except RuntimeError as error:  # how Python 3.11 and 3.12 report a circle of links
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path) from error


def _checked(target: Path, break_hardlinks: bool) -> os.stat_result:
    """The stat of a file that may be replaced. Raises TagWriteError with the reason for any other."""
    status = require_taggable(target)
    if status.st_nlink > 1 and not break_hardlinks:
        raise TagWriteError(
            target,
            f"the file has {status.st_nlink} names (hard links), and writing would separate them; "
            "allow it with --break-hardlinks",
        )
    # access() lets root write anything, but a read-only mode asks root too to leave the file alone.
    if not status.st_mode & 0o222 or not os.access(target, os.W_OK):
        raise TagWriteError(target, "the file is read-only; make it writable and try again")
    if not target.parent.stat().st_mode & 0o222 or not os.access(target.parent, os.W_OK | os.X_OK):
        raise TagWriteError(target, "its folder is read-only; make it writable and try again")
    _check_no_writer(target)
    return status


def _verify(target: Path, temporary: Path, wanted: Values, others: Mapping[str, str], digest: str) -> None:
    """Read the copy again. Raises TagWriteError unless it differs from the original in the wanted fields only."""
    got = read_fields(temporary, tuple(wanted))
    for field, values in wanted.items():
        if got[field] != values:
            reason = f"its {field} reads back as {got[field]!r}, not {values!r}; nothing was written"
            raise TagWriteError(target, reason)
    now = snapshot(temporary, tuple(wanted))
    changed = sorted(name for name in {*now, *others} if now.get(name) != others.get(name))
    if changed:
        raise TagWriteError(target, f"other tags would change ({', '.join(changed[:3])}); nothing was written")
    if audio_digest(temporary) != digest:
        if audio_digest(target) != digest:
            raise TagWriteError(target, "its audio is not what was analysed; scan it again")
        raise TagWriteError(target, "its audio would change; nothing was written")


def _copy_attributes(target: Path, temporary: Path, original: os.stat_result, preserve_mtime: bool) -> None:
    """Copy owner, mode, flags and extended attributes from the original, and its modification time if requested."""
    if sys.platform != "win32":
        _copy_owner(temporary, original)
    shutil.copystat(target, temporary)
    modified_ns = original.st_mtime_ns if preserve_mtime else time.time_ns()
    os.utime(temporary, ns=(original.st_atime_ns, modified_ns))
    if _user_attributes(target) != _user_attributes(temporary):
        raise TagWriteError(target, "its extended attributes could not be copied; nothing was written")


def _copy_owner(temporary: Path, original: os.stat_result) -> None:
    made = temporary.stat()
    if (made.st_uid, made.st_gid) == (original.st_uid, original.st_gid):
        return
    # Only root may change the owner; the group can be changed to one of our own.
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


def _check_unchanged(target: Path, original: os.stat_result) -> None:
    now = target.stat()
    for name in ("st_dev", "st_ino", "st_size", "st_mtime_ns", "st_ctime_ns", "st_nlink"):
        if getattr(now, name) != getattr(original, name):
            raise TagWriteError(target, "another program changed it in the meantime; its changes were kept, plan again")
    _check_no_writer(target)


def _check_no_writer(target: Path) -> None:
    """Raise TagWriteError if another program has the file open for writing: what it writes would be lost.

    Linux refuses a read lease on such a file. Where leases are not available, nothing is checked.
    """
    if sys.platform != "linux":
        return
    import fcntl  # does not exist on Windows

    with target.open("rb", buffering=0) as file:
        try:
            # The kernel sends a signal if a program opens the file just now: choose one that is ignored by default.
            fcntl.fcntl(file, fcntl.F_SETSIG, signal.SIGURG)  # type: ignore[attr-defined, unused-ignore]
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        except OSError as error:
            if error.errno == errno.EAGAIN:
                reason = "another program has it open for writing; close it and try again"
                raise TagWriteError(target, reason) from error


def _sync_file(path: Path) -> None:
    with path.open("r+b") as file:
        os.fsync(file.fileno())
