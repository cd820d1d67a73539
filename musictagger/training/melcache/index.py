"""The digests of files at their last inspection: lines of JSON, appended, so that a killed run loses at most one."""

from __future__ import annotations

import json
import os
import re
from io import BufferedWriter
from pathlib import Path

from musictagger.audio.walk import FoundFile
from musictagger.training.melcache.files import disk_errors


class FileIndex:
    """The digests of files that have not changed since, in `folder`/files.jsonl.

    Lines that are damaged or of a newer format are ignored.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._path = folder, folder / "files.jsonl"
        self._known = _read(self._path)
        self._file: BufferedWriter | None = None

    def digest(self, file: FoundFile) -> str | None:
        """Return the digest of a file with this path, size and modification time, None when it is unknown."""
        size, mtime_ns, digest = self._known.get(_key(file.path), (None, None, ""))
        return digest if (size, mtime_ns) == (file.size, file.mtime_ns) else None

    def record(self, file: FoundFile, digest: str) -> None:
        """Store the digest of a file. Raises MusictaggerError."""
        key = _key(file.path)
        self._known[key] = (file.size, file.mtime_ns, digest)
        line = {"path": key, "size": file.size, "mtime_ns": file.mtime_ns, "digest": digest}
        with disk_errors(self._folder):
            if self._file is None:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._file = self._path.open("ab")
                # The last line may be incomplete.
                self._file.write(b"\n" if self._file.tell() else b"")
            self._file.write(json.dumps(line).encode() + b"\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file of the index. Raises MusictaggerError."""
        if self._file is not None:
            with disk_errors(self._folder):
                self._file.close()
            self._file = None


def _key(path: Path) -> str:
    return os.fspath(path.absolute())


def _read(path: Path) -> dict[str, tuple[int, int, str]]:
    known: dict[str, tuple[int, int, str]] = {}
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        # Every file is then inspected again, which only takes longer.
        return known
    for line in lines:
        try:
            entry = json.loads(line)
            values = (entry["size"], entry["mtime_ns"], entry["digest"])
        except (ValueError, KeyError, TypeError):
            continue
        if list(map(type, values)) == [int, int, str] and re.fullmatch("[0-9a-f]{64}", values[2]):
            known[str(entry["path"])] = values
    return known
