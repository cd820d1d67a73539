"""Which sound is in which file, as last seen: lines of JSON, appended, so that a killed run loses at most one."""

from __future__ import annotations

import json
import os
from io import BufferedWriter
from pathlib import Path

from musictagger.audio.walk import FoundFile

FILE_NAME = "files.jsonl"


class FileIndex:
    """The digests of files that have not changed since. A line that is damaged, or of a newer kind, is passed over."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = _read(path)
        self._file: BufferedWriter | None = None

    def digest(self, file: FoundFile) -> str | None:
        """The digest of a file with this path, size and time of change, None if it is not known."""
        size, mtime_ns, digest = self._known.get(_key(file.path), (None, None, ""))
        return digest if (size, mtime_ns) == (file.size, file.mtime_ns) else None

    def record(self, file: FoundFile, digest: str) -> None:
        """Keep the digest of a file. Raises OSError."""
        key = _key(file.path)
        self._known[key] = (file.size, file.mtime_ns, digest)
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("ab")
            # The line before may have been cut short.
            self._file.write(b"\n" if self._file.tell() else b"")
        line = {"path": key, "size": file.size, "mtime_ns": file.mtime_ns, "digest": digest}
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        """Raises OSError."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _key(path: Path) -> str:
    return os.fspath(path.absolute())


def _read(path: Path) -> dict[str, tuple[int, int, str]]:
    known: dict[str, tuple[int, int, str]] = {}
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        # Then every file is inspected again: slower, and nothing worse.
        return known
    for line in lines:
        try:
            entry = json.loads(line)
            values = (entry["size"], entry["mtime_ns"], entry["digest"])
        except (ValueError, KeyError, TypeError):
            continue
        if list(map(type, values)) == [int, int, str] and _is_digest(values[2]):
            known[str(entry["path"])] = values
    return known


def _is_digest(text: str) -> bool:
    return len(text) == 64 and all(digit in "0123456789abcdef" for digit in text)
