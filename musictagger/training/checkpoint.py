"""The state of a training on disk: all that resuming needs, written atomically and read without unpickling code."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from musictagger.errors import BadRequestError, MusictaggerError, clipped, printable, reason_of
from musictagger.paths import hold_lock, replacing

SCHEMA = "musictagger.checkpoint/1"
NAME = "checkpoint.pt"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a run's folder, which the system releases however the process ends.

    Raises BadRequestError while another process holds it, MusictaggerError where nothing can be written.
    """
    busy = "another training is writing here; wait for it to end, or give this one its own --out"
    try:
        lock = hold_lock(folder / ".lock", refuse=BadRequestError(f"{printable(folder)}: {busy}"))
    except OSError as error:
        raise MusictaggerError(f"{printable(folder)}: cannot be written: {reason_of(error)}") from error
    with lock:
        yield


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Replace the checkpoint by `state` (plain values and tensors).

    Raises MusictaggerError when it cannot be written (disk full); the previous checkpoint is then untouched.
    """
    try:
        with replacing(path, alone=True) as temporary, temporary.open("wb") as file:
            torch.save({"schema": SCHEMA, **state}, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:
        # torch's zip writer turns a full disk into a RuntimeError.
        raise MusictaggerError(f"{path}: the checkpoint cannot be written: {reason_of(error)}") from error


@contextlib.contextmanager
def resumable(path: Path) -> Iterator[None]:
    """Add to errors of writing into a run's folder whether the checkpoint is kept, and how to continue from it."""
    try:
        yield
    except MusictaggerError as error:
        kept = "; the last checkpoint is kept, continue from it with --resume" if path.exists() else ""
        raise MusictaggerError(f"{error}{kept}") from error


def load_checkpoint(path: Path, identity: Mapping[str, Any], older: Mapping[str, Any]) -> dict[str, Any]:
    """The state saved at `path`, on the CPU.

    `identity` describes the run (backbone, options, outputs, tracks) and must equal the checkpoint's. Options that an
    older version did not store are taken from `older`, and other missing values are not compared. Raises
    BadRequestError naming the first difference, and MusictaggerError for a file that is not a checkpoint.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise BadRequestError(f"{path}: no checkpoint to resume; leave --resume out to start a training") from None
    except Exception as error:
        # torch.load raises all kinds of exceptions for damaged files.
        raise unreadable(path, error) from error
    if not isinstance(state, dict) or state.get("schema") != SCHEMA or not isinstance(state.get("identity"), dict):
        raise MusictaggerError(f"{path}: not a checkpoint of this version; remove it and start again")
    _require_same(path, {**older, **state["identity"]}, identity)
    return state


def unreadable(path: Path, error: Exception) -> MusictaggerError:
    """The error for a checkpoint that is damaged or of another kind."""
    return MusictaggerError(f"{path}: not a readable checkpoint ({type(error).__name__}); remove it and start again")


def _require_same(path: Path, saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    for name, value in wanted.items():
        if saved.get(name, value) != value:
            raise BadRequestError(
                f"{path}: the checkpoint belongs to another run: {name} was {clipped(repr(saved[name]))}, "
                f"now {clipped(repr(value))}; resume with the same options and data, or choose another --out"
            )
