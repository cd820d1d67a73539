"""The state of a run on disk: all that is needed to go on, written all or nothing, read without pickle's powers."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from musictagger.errors import BadRequestError, MusictaggerError, clipped, printable
from musictagger.paths import replacing

SCHEMA = "musictagger.checkpoint/1"
NAME = "checkpoint.pt"


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the right to train into `folder`; the system gives it back however the process ends.

    Raises BadRequestError while another process has it, MusictaggerError where nothing can be written.
    """
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BadRequestError(
            f"{printable(folder)}: another training is writing here; wait for it to end, or give this one its own --out"
        ) from None
    except OSError as error:
        raise MusictaggerError(f"{printable(folder)}: cannot be written: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write `state` (plain values and tensors) beside the old file, then put it in its place.

    Raises MusictaggerError when it cannot be written (a full disk); the checkpoint before it is untouched.
    """
    try:
        with replacing(path, alone=True) as temporary, temporary.open("wb") as file:
            torch.save({"schema": SCHEMA, **state}, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:
        # torch's zip writer turns a full disk into a RuntimeError.
        reason = error.strerror if isinstance(error, OSError) else str(error).partition("\n")[0]
        raise MusictaggerError(f"{path}: the checkpoint cannot be written: {reason}") from error


@contextlib.contextmanager
def kept(path: Path) -> Iterator[None]:
    """Around whatever writes into a run's folder: an error also says what is left, and how to go on from it."""
    try:
        yield
    except MusictaggerError as error:
        left = (
            "the last checkpoint is kept; free some space and go on with --resume"
            if path.exists()
            else "free some space"
        )
        raise MusictaggerError(f"{error}; {left}") from error


def load_checkpoint(path: Path, identity: Mapping[str, Any], older: Mapping[str, Any]) -> dict[str, Any]:
    """The state saved at `path`, on the CPU.

    `identity` says what the run is about (backbone, options, outputs, tracks); it must be the checkpoint's own, where
    what a checkpoint of an older version does not know is as in `older`, or else not asked for. Raises
    BadRequestError where it is not, naming the first difference, and MusictaggerError for a file that is no checkpoint.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise BadRequestError(f"{path}: there is no checkpoint to resume; leave --resume out to begin") from None
    except Exception as error:
        # torch.load raises whatever the damaged part happens to raise.
        raise unreadable(path, error) from error
    if not isinstance(state, dict) or state.get("schema") != SCHEMA or not isinstance(state.get("identity"), dict):
        raise MusictaggerError(f"{path}: is no checkpoint of this version; remove it and begin again")
    _require_same(path, {**older, **state["identity"]}, identity)
    return state


def unreadable(path: Path, error: Exception) -> MusictaggerError:
    """What to say of a file that holds something else, or a part only."""
    return MusictaggerError(f"{path}: is no readable checkpoint ({type(error).__name__}); remove it and begin again")


def _require_same(path: Path, saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    for name in [name for name in wanted if name in saved]:
        if saved[name] != wanted[name]:
            raise BadRequestError(
                f"{path}: is the checkpoint of another run: {name} was {clipped(repr(saved[name]))}, "
                f"now {clipped(repr(wanted[name]))}; resume with the same options and data, or choose another --out"
            )
