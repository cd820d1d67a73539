"""Which files of the given folders are music: recursive, in sorted order, each once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from musictagger.errors import BadRequestError, printable
from musictagger.paths import TEMPORARY_PREFIX

AUDIO_SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("mp3", "flac", "ogg", "oga", "opus", "m4a", "m4b", "mp4", "aac", "wav", "aif", "aiff", "aifc"),
        *("wma", "ape", "wv", "mka", "mpc", "spx"),
    )
)

_MAGIC = (b"ID3", b"fLaC", b"OggS", b"MAC ", b"wvpk", b"MPCK", b"MP+")
_CHUNKED = {b"RIFF": (b"WAVE",), b"RF64": (b"WAVE",), b"FORM": (b"AIFF", b"AIFC")}
"""Containers of many kinds of things, and the kinds that are sound: RIFF holds AVI and WebP as well."""
_PICTURES = frozenset({b"heic", b"heix", b"mif1", b"msf1", b"avif", b"avis", b"crx "})
"""Kinds of MP4 that are pictures."""
_ASF = bytes.fromhex("3026b2758e66cf11")
_EBML = bytes.fromhex("1a45dfa3")


@dataclass(frozen=True)
class FoundFile:
    """One music file: absolute path, size in bytes, modification time in nanoseconds."""

    path: Path
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class LeftOver:
    """A temporary copy of ours: a write is going on, or was killed."""

    path: Path


@dataclass(frozen=True)
class WalkProblem:
    """A folder or file that could not be looked at."""

    path: Path
    reason: str


Found = FoundFile | LeftOver | WalkProblem


def walk(roots: Sequence[Path], *, all_files: bool = False) -> Iterator[Found]:
    """Every music file under `roots` (files or folders), sorted, as absolute paths.

    Hidden files and folders (a leading dot: AppleDouble `._*`, our own temporary copies) are skipped unless named.
    Links are followed; a folder already visited is not entered again, so loops end. With `all_files`, a file
    whose extension is missing or unknown counts if its first bytes are those of an audio container.

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
            # A file the user names is taken at the user's word, whatever it is called.
            yield _look(root)
        else:
            yield from (found for found in _visit(root, all_files, seen_folders) if found.path not in named)


def absolute(path: Path) -> Path:
    """The one spelling under which a file is known: absolute, without `..`, links left as the user sees them."""
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
                yield _look(Path(entry.path))
        pending.extend(reversed(folders))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A dangling or looping link: not a folder to enter; as a file it is reported when it looks like music.
        return False


def _look(path: Path) -> Found:
    try:
        status = path.stat()
    except OSError as error:
        return WalkProblem(path, f"cannot be read: {error.strerror}")
    return FoundFile(path, status.st_size, status.st_mtime_ns)


def is_music(path: Path, all_files: bool = False) -> bool:
    """Whether a file's extension says it is music or, with `all_files`, its first bytes do."""
    if path.suffix.lower() in AUDIO_SUFFIXES:
        return True
    return all_files and _has_audio_magic(path)


def _has_audio_magic(path: Path) -> bool:
    try:
        # A pipe or device could block for ever.
        if not path.is_file():
            return False
        with path.open("rb") as file:
            head = file.read(16)
    except OSError:
        return False
    if head[:4] in _CHUNKED:
        return head[8:12] in _CHUNKED[head[:4]]
    if head[4:8] == b"ftyp":
        return head[8:12] not in _PICTURES
    return head.startswith((*_MAGIC, _ASF, _EBML)) or _is_mpeg_sync(head)


def _is_mpeg_sync(head: bytes) -> bool:
    # Layer I (both layer bits set) is extinct, and ff fe is how text in UTF-16 begins.
    return len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0 and head[1] & 0x06 != 0x06
