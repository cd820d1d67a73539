"""The program's and the user's folders, TOML files, atomic replacement of files, and locks between processes."""

from __future__ import annotations

import contextlib
import os
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from musictagger.errors import BadRequestError, printable

TEMPORARY_PREFIX = ".musictagger-"
"""Start of the names of temporary copies beside music files."""

_PACKAGE = Path(__file__).parent


def bundled_folder(name: Literal["plugins", "weights"]) -> Path:
    """A folder that ships with the program: inside the installed package, beside it in a checkout."""
    installed = _PACKAGE / name
    return installed if installed.is_dir() else _PACKAGE.parent / name


def user_data_folder() -> Path:
    """The platform's data folder of this program (not created)."""
    import platformdirs

    return platformdirs.user_data_path("musictagger", appauthor=False)


def user_config_folder() -> Path:
    """The platform's configuration folder of this program (not created)."""
    import platformdirs

    return platformdirs.user_config_path("musictagger", appauthor=False)


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file, with or without a byte order mark.

    Raises FileNotFoundError where it does not exist, BadRequestError where it cannot be read.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise BadRequestError(f"{printable(path)}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise BadRequestError(f"{printable(path)}: cannot be read as TOML: {error}") from error


@contextlib.contextmanager
def replacing(path: Path, *, alone: bool = False) -> Iterator[Path]:
    """A path beside `path` to write to. At the end of the block it replaces `path`; an error removes it.

    `alone`: no other process writes `path` now, so that the leftover of a killed process is overwritten.
    """
    temporary = path.with_name(f".{path.name}.tmp" if alone else f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def sync_folder(folder: Path) -> None:
    """Make the names of new files in `folder` durable. Does nothing on Windows, which has no such call."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def hold_lock(
    lock_file: Path, *, refuse: Exception | None = None, waiting: Callable[[], object] = lambda: None
) -> contextlib.AbstractContextManager[object]:
    """Acquire a lock, which the returned context manager releases, or the system however the process ends.

    While another process holds it, `refuse` is raised; without `refuse`, `waiting` is called and this call waits.
    Raises OSError where the lock file cannot be written.
    """
    # Imported here, because it takes 12 ms and commands that only read do not need it.
    from filelock import FileLock, Timeout

    lock = FileLock(lock_file)
    with contextlib.suppress(Timeout):
        return lock.acquire(timeout=0)
    if refuse is not None:
        raise refuse
    waiting()
    return lock.acquire()
