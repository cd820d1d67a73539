"""Mel files: one track's float16 [columns, n_mels] each, written whole or not at all, opened as memory.

They are plain .npy files. Their header is always of the same length, so that it can be written last, when the number
of columns is known, and so that a file's size alone says how many columns it must hold.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from musictagger.errors import MusictaggerError, printable, reason_of

Mel = npt.NDArray[np.float16]
"""Mel columns of a track, float16 [columns, n_mels]."""

HEADER_BYTES = 128
"""Of version 1.0 of the .npy format: 64 would do, but for a number of columns of eight digits."""

ABANDONED_S = 3600
"""An unfinished file that nobody wrote into for so long belongs to a run that was killed."""

_MAGIC = b"\x93NUMPY\x01\x00"


def mel_bytes(columns: int, n_mels: int) -> int:
    """The size of a mel file."""
    return HEADER_BYTES + columns * n_mels * np.dtype(np.float16).itemsize


def check_mel(path: Path, n_mels: int) -> int | None:
    """The number of columns in the file at `path`, None where there is none or it is not one of ours, or not whole.

    Raises OSError where that cannot be found out.
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEADER_BYTES)
            size = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        return None
    columns, rest = divmod(size - HEADER_BYTES, mel_bytes(1, n_mels) - HEADER_BYTES)
    return columns if columns > 0 and not rest and head == _header(columns, n_mels) else None


def open_mel(path: Path, n_mels: int) -> Mel:
    """The columns of the file at `path`, read-only memory, float16 [columns, n_mels].

    Raises MusictaggerError where the file is gone or damaged.
    """
    try:
        columns = check_mel(path, n_mels)
        if columns is None:
            raise ValueError("damaged" if path.exists() else "gone")
        mapped = np.memmap(path, np.dtype("<f2"), "r", HEADER_BYTES, (columns, n_mels))
    except (OSError, ValueError) as error:
        raise MusictaggerError(
            f"{printable(path)}: this part of the mel cache cannot be read ({reason_of(error)}); "
            "run the same command again, which makes it anew"
        ) from error
    # A plain view: every slice of a memmap costs several microseconds more.
    return np.asarray(mapped)


class MelWriter:
    """A mel file in the making: `append` columns, then `finish` under its name, or `discard`.

    Raises MusictaggerError where the disk refuses, and then nothing is left of it.
    """

    def __init__(self, folder: Path, n_mels: int) -> None:
        self._folder = folder
        self._n_mels = n_mels
        self._path = _unfinished(folder) / f"{os.getpid()}-{secrets.token_hex(4)}.npy"
        self.columns = 0
        with disk_errors(folder):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("xb")
        self.restart()

    def restart(self) -> None:
        """Forget what was written."""
        self.columns = 0
        with self._discarding():
            self._file.seek(HEADER_BYTES)
            self._file.truncate()

    def append(self, mel: Mel) -> None:
        """Write columns, float16 [any number, n_mels]."""
        self.columns += len(mel)
        with self._discarding():
            self._file.write(np.ascontiguousarray(mel, "<f2").data)

    def finish(self, path: Path) -> int:
        """Give the file its header and, once it is durable, its name; returns the number of columns."""
        with self._discarding():
            self._file.seek(0)
            self._file.write(_header(self.columns, self._n_mels))
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            path.parent.mkdir(parents=True, exist_ok=True)
            self._path.replace(path)
        return self.columns

    def discard(self) -> None:
        """Leave nothing behind. What `finish` has named stays."""
        with contextlib.suppress(OSError):
            # Closing writes what is held back, and the disk may be full.
            self._file.close()
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _discarding(self) -> Iterator[None]:
        try:
            with disk_errors(self._folder):
                yield
        except BaseException:
            self.discard()
            raise


def sweep_unfinished(folder: Path) -> None:
    """Remove what killed runs left."""
    for path in _unfinished(folder).glob("*.npy"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > ABANDONED_S:
                path.unlink()


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn errors of the system into a MusictaggerError that names the folder of the mel cache."""
    try:
        yield
    except OSError as error:
        raise MusictaggerError(
            f"mel cache {printable(folder)}: {reason_of(error)}. What was cached before is whole and is kept; "
            "run the same command again to go on, or choose another folder for the cache"
        ) from error


def _unfinished(folder: Path) -> Path:
    return folder / "unfinished"


def _header(columns: int, n_mels: int) -> bytes:
    text = f"{{'descr': '<f2', 'fortran_order': False, 'shape': ({columns}, {n_mels}), }}"
    length = HEADER_BYTES - len(_MAGIC) - 2
    return _MAGIC + length.to_bytes(2, "little") + text.ljust(length - 1).encode() + b"\n"
