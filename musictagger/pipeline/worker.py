"""The work of one worker process: inspect a file, or decode it to frames. Imports no torch.

A job comes in through the pipe and its answers go out: any number of `Frame`, then one `Inspected`, `Finished` or
`Failed`. A `Heartbeat` distinguishes a slow job from a hung one.
"""

from __future__ import annotations

import os
import signal
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from musictagger.audio.decode import Decoded, decode_frames
from musictagger.audio.digest import audio_digest
from musictagger.audio.frames import FrameRule, Wave
from musictagger.audio.walk import FoundFile
from musictagger.errors import AudioError, reason_of
from musictagger.tags.containers.table import container_of
from musictagger.tags.fields import FileTags, read_tags

HEARTBEAT_S = 1.0


class ChangedMeanwhileError(AudioError):
    """The file has changed since the job was made for it."""


@dataclass(frozen=True)
class Inspect:
    """Job: the digest of a file's audio, and its tags."""

    file: FoundFile


@dataclass(frozen=True)
class Decode:
    """Job: the frames of a file, mono at `rate_hz`. `file` is the file as it was when its `digest` was taken."""

    file: FoundFile
    digest: str
    rate_hz: int
    rule: FrameRule


Job = Inspect | Decode


@dataclass(frozen=True)
class Inspected:
    """Answer to `Inspect`; `file` is the file as it was inspected."""

    file: FoundFile
    digest: str
    tags: FileTags


@dataclass(frozen=True)
class Frame:
    """One frame, float32 [samples]. Index 0 restarts the track (see decode_frames)."""

    file: FoundFile
    index: int
    wave: Wave


@dataclass(frozen=True)
class Finished:
    """Answer to `Decode`, after its frames."""

    file: FoundFile
    digest: str
    decoded: Decoded


@dataclass(frozen=True)
class Failed:
    """A file that cannot be used; a `transient` failure has its cause outside the file and may not recur."""

    file: FoundFile
    reason: str
    transient: bool = False


@dataclass(frozen=True)
class Heartbeat:
    """The job is still running."""


Answer = Inspected | Frame | Finished | Failed
Send = Callable[[Answer | Heartbeat], None]


def serve(connection: Connection) -> None:
    """Do jobs until the pipe is closed: the main function of a worker process."""
    # Ctrl-C reaches the whole process group; only the main process decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _silence_native_libraries()
    try:
        connection.send(Heartbeat())
        while True:
            run(connection.recv(), connection.send)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        # The main process is gone, or has closed this worker.
        return


def _silence_native_libraries() -> None:
    """Keep the warnings of libsndfile and FFmpeg, which go straight to standard error, off the progress bar."""
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 2)
    os.close(sink)


def run(job: Job, send: Send) -> None:
    """Do one job and send its answers; every failure becomes a `Failed` with its reason."""
    beat = _heartbeats(send)
    try:
        if isinstance(job, Inspect):
            send(_inspect(job.file.path, beat))
        else:
            for answer in decode(job, beat):
                send(answer)
    except AudioError as error:
        send(Failed(job.file, error.reason, transient=isinstance(error, ChangedMeanwhileError)))
    except MemoryError:
        send(Failed(job.file, "not enough memory", transient=True))
    except OSError as error:
        send(Failed(job.file, reason_of(error), transient=True))
    except Exception as error:
        # An unforeseen error of a decoder costs this file, not the worker; its type and text are what users read.
        send(Failed(job.file, f"{type(error).__name__}: {error}"))


def _inspect(path: Path, beat: Callable[[], None]) -> Inspected:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise AudioError(path, "not a regular file but a pipe, a socket or a device")
    if not status.st_size:
        raise AudioError(path, "the file is empty")
    file = FoundFile(path, status.st_size, status.st_mtime_ns)
    digest = audio_digest(path, beat)
    try:
        tags = read_tags(path)
    except AudioError:
        # The audio may be intact although the tags are damaged. Writing to such a file is refused later.
        tags = FileTags(container_of(path).name)
    _require_unchanged(file)
    return Inspected(file, digest, tags)


def decode(job: Decode, beat: Callable[[], None] = lambda: None) -> Iterator[Frame | Finished]:
    """Yield the frames of a file, then `Finished`.

    Raises AudioError when the file cannot be decoded or has changed, OSError when it is not accessible.
    """
    _require_unchanged(job.file)
    frames = decode_frames(job.file.path, job.rate_hz, job.rule, beat)
    while True:
        try:
            index, wave = next(frames)
        except StopIteration as end:
            _require_unchanged(job.file)
            yield Finished(job.file, job.digest, end.value)
            return
        yield Frame(job.file, index, wave)


def _require_unchanged(file: FoundFile) -> None:
    """Raise ChangedMeanwhileError if the file has changed: scores must never be stored under another audio's digest."""
    status = file.path.stat()
    if (status.st_size, status.st_mtime_ns) != (file.size, file.mtime_ns):
        raise ChangedMeanwhileError(file.path, "changed while it was being scanned; scan it again")


def _heartbeats(send: Send) -> Callable[[], None]:
    """Return a function that sends a heartbeat, at most one every HEARTBEAT_S however often it is called."""
    last_s = time.monotonic()

    def beat() -> None:
        nonlocal last_s
        now_s = time.monotonic()
        if now_s - last_s >= HEARTBEAT_S:
            last_s = now_s
            send(Heartbeat())

    return beat
