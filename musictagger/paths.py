"""Where things live: what ships with the program, the user's own folders, files that are whole or not there."""

from __future__ import annotations

import contextlib
import os
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from musictagger.errors import BadRequestError, printable

TEMPORARY_PREFIX = ".musictagger-"
"""What the names of our temporary copies beside music files begin with."""

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
    """A TOML file that a user wrote, with or without a byte order mark.

    Raises FileNotFoundError where there is none, BadRequestError where it cannot be read.
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
    """A path beside `path` to write to. At the end of the block it takes the place of `path`; an error removes it.

    `alone`: no other process writes `path` now, so that what a killed one left there is written over.
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
