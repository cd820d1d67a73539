"""What happens inside one worker process: inspect a file, or decode it to frames. Imports no torch.

A job comes in through the pipe, its answers go out: any number of `Frame`, then one of `Inspected`, `Finished`,
`Failed`. `Heartbeat` says that a job is slow, not hung.
"""

from __future__ import annotations

import os
import signal
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from musictagger.audio.decode import Decoded, decode_frames
from musictagger.audio.digest import audio_digest
from musictagger.audio.frames import FrameRule, Wave
from musictagger.errors import AudioError, reason_of
from musictagger.tags.containers.table import container_of
from musictagger.tags.fields import FileTags, read_tags

BEAT_S = 1.0


class ChangedMeanwhileError(AudioError):
    """The file is not the one that the job was made for."""


@dataclass(frozen=True)
class Inspect:
    """Job: the identity of a file's audio, and its tags."""

    path: Path


@dataclass(frozen=True)
class Decode:
    """Job: a file's frames, mono at `rate_hz`. `size` and `mtime_ns` are those its digest was taken at."""

    path: Path
    rate_hz: int
    rule: FrameRule
    size: int
    mtime_ns: int


Job = Inspect | Decode


@dataclass(frozen=True)
class Inspected:
    """Answer to `Inspect`."""

    path: Path
    size: int
    mtime_ns: int
    digest: str
    tags: FileTags


@dataclass(frozen=True)
class Frame:
    """One frame, float32 [samples]. Index 0 starts the track over (see decode_frames)."""

    path: Path
    index: int
    wave: Wave


@dataclass(frozen=True)
class Finished:
    """Answer to `Decode`, after its frames."""

    path: Path
    decoded: Decoded


@dataclass(frozen=True)
class Failed:
    """The job's file cannot be used; `transient` when the reason lies outside the file and may be over soon."""

    path: Path
    reason: str
    transient: bool = False


@dataclass(frozen=True)
class Heartbeat:
    """Still at work."""


Answer = Inspected | Frame | Finished | Failed
Send = Callable[[Answer | Heartbeat], None]


def serve(connection: Connection) -> None:
    """A worker's life: answer jobs until the pipe closes."""
    # Ctrl-C reaches the whole process group; only the main process decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _silence_native_libraries()
    try:
        while True:
            run(connection.recv(), connection.send)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        # The main process is gone, or has closed this worker.
        return


def _silence_native_libraries() -> None:
    """libsndfile's and FFmpeg's parts print warnings straight to standard error, over the progress bar."""
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 2)
    os.close(sink)


def run(job: Job, send: Send) -> None:
    """Do one job and send its answers; every failure becomes a `Failed` with its reason."""
    try:
        if isinstance(job, Inspect):
            send(_inspect(job.path, _beater(send)))
        else:
            _decode(job, send)
    except ChangedMeanwhileError as error:
        send(Failed(job.path, error.reason, transient=True))
    except AudioError as error:
        send(Failed(job.path, error.reason))
    except MemoryError:
        send(Failed(job.path, "needs more memory than there is", transient=True))
    except OSError as error:
        send(Failed(job.path, reason_of(error), transient=True))
    except Exception as error:
        # A decoder's surprise costs this file, not the worker; its kind and text are the reason the user reads.
        send(Failed(job.path, f"{type(error).__name__}: {error}"))


def _inspect(path: Path, beat: Callable[[], None]) -> Inspected:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise AudioError(path, "is no file but a pipe, a socket or a device")
    if not status.st_size:
        raise AudioError(path, "the file is empty")
    digest = audio_digest(path, beat)
    try:
        tags = read_tags(path)
    except AudioError:
        # Damaged tags say nothing of the sound. Writing to such a file is refused later, with the reason.
        tags = FileTags(container_of(path).name)
    _require_unchanged(path, status.st_size, status.st_mtime_ns)
    return Inspected(path, status.st_size, status.st_mtime_ns, digest, tags)


def _decode(job: Decode, send: Send) -> None:
    _require_unchanged(job.path, job.size, job.mtime_ns)
    frames = decode_frames(job.path, job.rate_hz, job.rule, _beater(send))
    while True:
        try:
            index, wave = next(frames)
        except StopIteration as end:
            _require_unchanged(job.path, job.size, job.mtime_ns)
            send(Finished(job.path, end.value))
            return
        send(Frame(job.path, index, wave))


def _require_unchanged(path: Path, size: int, mtime_ns: int) -> None:
    """Scores must never be filed under the digest of another content."""
    status = path.stat()
    if (status.st_size, status.st_mtime_ns) != (size, mtime_ns):
        raise ChangedMeanwhileError(path, "changed while it was being scanned; scan it again")


def _beater(send: Send) -> Callable[[], None]:
    """A beat at most once a second, however often it is called."""
    last_s = time.monotonic()

    def beat() -> None:
        nonlocal last_s
        now_s = time.monotonic()
        if now_s - last_s >= BEAT_S:
            last_s = now_s
            send(Heartbeat())

    return beat
