"""Mel files: the spectrogram of one track each, float16 [columns, n_mels], written atomically, memory-mapped.

They are plain .npy files. Their header always has the same length, so that it can be written last, when the number of
columns is known, and so that the number of columns follows from a file's size.
"""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from musictagger.errors import MusictaggerError, printable, reason_of

MelColumns = npt.NDArray[np.float16]
"""Mel columns of a track, float16 [columns, n_mels]."""

HEADER_BYTES = 128
"""Length of the header that NumPy writes, which leaves room for a number of columns of any length."""

ABANDONED_S = 3600
"""An unfinished file not written to for this long belongs to a run that was killed."""


def mel_bytes(columns: int, n_mels: int) -> int:
    """Return the size of a mel file."""
    return HEADER_BYTES + columns * n_mels * np.dtype(np.float16).itemsize


def track_file(folder: Path, digest: str) -> Path:
    """Return the file of a track in `folder`: ab/abcd....npy."""
    return folder / digest[:2] / f"{digest}.npy"


@dataclass(frozen=True)
class MelFolder:
    """The mel files of one front end in `folder`."""

    folder: Path
    n_mels: int

    def columns(self, digest: str) -> int | None:
        """Return the number of columns of a track, None when it is not cached. Remove a damaged file."""
        path = track_file(self.folder, digest)
        with disk_errors(self.folder):
            columns = self._columns(path)
            if columns is None:
                path.unlink(missing_ok=True)
        return columns

    def open(self, digest: str) -> MelColumns:
        """Return a track, read-only and memory-mapped, float16 [columns, n_mels].

        Raises MusictaggerError when its file is missing or damaged.
        """
        path = track_file(self.folder, digest)
        try:
            columns = self._columns(path)
            if columns is None:
                raise ValueError("damaged" if path.exists() else "missing")
            mapped = np.memmap(path, np.dtype("<f2"), "r", HEADER_BYTES, (columns, self.n_mels))
        except (OSError, ValueError) as error:
            raise MusictaggerError(
                f"{printable(path)}: this file of the mel cache cannot be read ({reason_of(error)}); "
                "run the same command again to replace it"
            ) from error
        # A plain view: every slice of a memmap costs several microseconds more.
        return np.asarray(mapped)

    def _columns(self, path: Path) -> int | None:
        """Return the number of columns of an intact file, None for any other. Raises OSError."""
        try:
            with path.open("rb") as file:
                head = file.read(HEADER_BYTES)
                size = os.fstat(file.fileno()).st_size
        except FileNotFoundError:
            return None
        columns, rest = divmod(size - HEADER_BYTES, mel_bytes(1, self.n_mels) - HEADER_BYTES)
        return columns if columns > 0 and not rest and head == _header(columns, self.n_mels) else None


class MelWriter:
    """Writes a mel file: `append` columns, then `finish` under its name, or `discard`.

    Raises MusictaggerError when writing fails, and then leaves no file behind.
    """

    def __init__(self, folder: Path, n_mels: int) -> None:
        self._folder = folder
        self._n_mels = n_mels
        self._path = _unfinished(folder) / f"{os.getpid()}-{secrets.token_hex(4)}.npy"
        self._columns = 0
        self.finite = True
        """Whether all columns so far are finite."""
        with disk_errors(folder):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("xb")
            self._file.seek(HEADER_BYTES)

    def append(self, mel: MelColumns) -> None:
        """Write columns, float16 [columns, n_mels]."""
        self._columns += len(mel)
        self.finite = self.finite and bool(np.isfinite(mel).all())
        with self._discarding():
            self._file.write(np.ascontiguousarray(mel, "<f2").data)

    def finish(self, path: Path) -> int:
        """Write the header and, once the file is durable, give it its name. Return the number of columns."""
        with self._discarding():
            self._file.seek(0)
            self._file.write(_header(self._columns, self._n_mels))
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            path.parent.mkdir(parents=True, exist_ok=True)
            self._path.replace(path)
        return self._columns

    def discard(self) -> None:
        """Remove the file, unless `finish` has given it its name."""
        with contextlib.suppress(OSError):
            # Closing flushes buffered columns, and the disk may be full.
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
    """Remove the unfinished files of killed runs."""
    for path in _unfinished(folder).glob("*.npy"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > ABANDONED_S:
                path.unlink()


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn an OSError into a MusictaggerError that names the folder of a cache."""
    try:
        yield
    except OSError as error:
        raise MusictaggerError(
            f"cache {printable(folder)}: {reason_of(error)}. What is already cached is kept; "
            "run the same command again to continue, or choose another folder for the cache"
        ) from error


def _unfinished(folder: Path) -> Path:
    return folder / "unfinished"


def _header(columns: int, n_mels: int) -> bytes:
    header = io.BytesIO()
    array = {"descr": "<f2", "fortran_order": False, "shape": (columns, n_mels)}
    np.lib.format.write_array_header_1_0(header, array)
    return header.getvalue()
