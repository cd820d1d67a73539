"""Find music files: recursive, in sorted order, each file once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from musictagger.audio.formats.base import HEAD_BYTES
from musictagger.audio.formats.table import AUDIO_SUFFIXES, begins_like_music
from musictagger.errors import BadRequestError, printable
from musictagger.paths import TEMPORARY_PREFIX


@dataclass(frozen=True)
class FoundFile:
    """One music file: absolute path, size in bytes, modification time in nanoseconds."""

    path: Path
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class LeftOver:
    """A temporary copy made by musictagger: a write is in progress, or was killed."""

    path: Path


@dataclass(frozen=True)
class WalkProblem:
    """A folder or file that cannot be read."""

    path: Path
    reason: str


Found = FoundFile | LeftOver | WalkProblem


def walk(roots: Sequence[Path], *, all_files: bool = False) -> Iterator[Found]:
    """Every music file under `roots` (files or folders), sorted, as absolute paths.

    Hidden files and folders (with a leading dot, such as AppleDouble `._*`) are skipped unless they are roots.
    Links are followed; a folder already visited is not entered again, so loops end. With `all_files`, a file
    whose extension is missing or unknown is included if its first bytes are those of an audio format.

    Raises BadRequestError when a root does not exist.
    """
    for root in roots:
        if not root.exists():
            raise BadRequestError(f"{printable(root)}: no such file or folder")
    spelled = sorted({absolute(root) for root in roots})
    named = {root for root in spelled if not root.is_dir()}
    seen_folders: set[tuple[int, int]] = set()
    for root in spelled:
        if root in named:
            # A file that is a root needs no known extension.
            yield stat_file(root)
        else:
            yield from (found for found in _visit(root, all_files, seen_folders) if found.path not in named)


def absolute(path: Path) -> Path:
    """The path under which a file is stored: absolute, without `..`, links not resolved."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - Path.resolve would replace links by their targets


def _visit(root: Path, all_files: bool, seen: set[tuple[int, int]]) -> Iterator[Found]:
    pending = [root]
    while pending:
        path = pending.pop()
        try:
            status = path.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            entries = sorted(os.scandir(path), key=lambda entry: os.fsencode(entry.name))
        except OSError as error:
            yield WalkProblem(path, f"cannot be read: {error.strerror}")
            continue
        folders = []
        for entry in entries:
            if entry.name.startswith("."):
                if entry.name.startswith(TEMPORARY_PREFIX):
                    yield LeftOver(Path(entry.path))
                continue
            if _is_folder(entry):
                folders.append(Path(entry.path))
            elif is_music(Path(entry.path), all_files):
                yield stat_file(Path(entry.path))
        pending.extend(reversed(folders))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A dangling or looping link is not a folder; if its name looks like music it is reported as unreadable.
        return False


def stat_file(path: Path) -> FoundFile | WalkProblem:
    """Return a file in its present state, or the reason why it cannot be read."""
    try:
        status = path.stat()
    except OSError as error:
        return WalkProblem(path, f"cannot be read: {error.strerror}")
    return FoundFile(path, status.st_size, status.st_mtime_ns)


def is_music(path: Path, all_files: bool = False) -> bool:
    """Return whether a file is music by its extension or, with `all_files`, by its first bytes."""
    if path.suffix.lower() in AUDIO_SUFFIXES:
        return True
    try:
        # Opening a pipe or a device could block.
        if not all_files or not path.is_file():
            return False
        with path.open("rb") as file:
            return begins_like_music(file.read(HEAD_BYTES))
    except OSError:
        return False
