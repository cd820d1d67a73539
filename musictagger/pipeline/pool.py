"""Worker processes that inspect and decode files, so that a crash, a hang or a memory leak costs one file.

A thread of the main process hands out jobs and collects answers in a bounded queue. When the consumer is slow,
the queue fills, the thread stops reading, the pipes fill and the workers pause: memory stays bounded.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from musictagger.config import Settings
from musictagger.pipeline.worker import Answer, Failed, Frame, Heartbeat, Inspect, Job, serve

QUEUED_ANSWERS = 32
"""Answers held for the consumer; most are frames of 1.4 MB, so about 45 MB."""

START_S = 60.0
"""Time allowed for a process to start on a busy machine, where a short timeout would blame the file."""

MAX_WORKERS = 16
_POLL_S = 0.5


@dataclass(frozen=True)
class Decoding:
    """The number of worker processes, and the time after which one that makes no progress is killed."""

    workers: int
    timeout_s: float = Settings.decode_timeout

    @classmethod
    def of(cls, settings: Settings, *, cpu_inference: bool) -> Decoding:
        """Return the values of the settings; by default a worker on every core but one.

        On a quarter of the cores with `cpu_inference`, which is the bottleneck and uses every core: one core decodes
        about 300 times as fast as real time.
        """
        cores = os.cpu_count() or 1
        default = min(MAX_WORKERS, max(1, cores // 4 if cpu_inference else cores - 1))
        return cls(settings.workers or default, settings.decode_timeout)


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    job: Job | None = None
    ready: bool = False
    """Whether the process has started and imported what it needs."""
    last_answer_s: float = field(default_factory=time.monotonic)


class WorkerPool:
    """Worker processes: `submit` jobs, take their answers, close.

    A worker that sends nothing for `decoding.timeout_s` is killed and its file reported as `Failed`, as is the file of
    a worker that dies.
    """

    def __init__(self, decoding: Decoding) -> None:
        # Not fork, which torch's threads and locks do not survive.
        self._context = multiprocessing.get_context("spawn")
        self._timeout_s = decoding.timeout_s
        self._jobs: deque[Job] = deque()
        self._answers: queue.Queue[Answer] = queue.Queue(QUEUED_ANSWERS)
        self._wake_read, self._wake_write = self._context.Pipe(duplex=False)
        self._closing = False
        self._error: BaseException | None = None
        self.pending = 0
        self._workers = [self._start() for _ in range(decoding.workers)]
        self._thread = threading.Thread(target=self._supervise, name="decode-pool", daemon=True)
        self._thread.start()

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def submit(self, job: Job) -> None:
        """Queue a job. Decoding takes precedence over inspecting, so that tracks already started are finished first."""
        self.pending += 1
        if isinstance(job, Inspect):
            self._jobs.append(job)
        else:
            self._jobs.appendleft(job)
        self._wake_write.send(None)

    def next_answer(self) -> Answer | None:
        """Return the next answer, or None when every submitted job is done."""
        while self.pending:
            try:
                answer = self._answers.get(timeout=_POLL_S)
            except queue.Empty:
                if self._error is not None:
                    raise RuntimeError("the decode workers stopped") from self._error
                continue
            if not isinstance(answer, Frame):
                self.pending -= 1
            return answer
        return None

    def close(self) -> None:
        """Stop the workers at once and drop the jobs that are not done."""
        self._closing = True
        self._wake_write.send(None)
        self._thread.join()
        for worker in self._workers:
            _end(worker)

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=serve, args=(theirs,), name="musictagger-decode", daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours)

    def _supervise(self) -> None:
        try:
            while not self._closing:
                self._hand_out()
                self._collect()
                self._kill_hung()
        except BaseException as error:
            # Raised again by `next_answer`, which would otherwise wait without end.
            self._error = error

    def _hand_out(self) -> None:
        for position, worker in enumerate(self._workers):
            if worker.job is None and self._jobs:
                if not worker.process.is_alive():
                    # It died while idle, so no file is to blame.
                    _end(worker)
                    worker = self._workers[position] = self._start()
                worker.job = self._jobs.popleft()
                worker.last_answer_s = time.monotonic()
                try:
                    worker.connection.send(worker.job)
                except OSError:
                    self._lost(position, "")

    def _collect(self) -> None:
        busy = {w.connection: position for position, w in enumerate(self._workers) if w.job is not None}
        for ready in wait([*busy, self._wake_read], timeout=_POLL_S):
            if ready is self._wake_read:
                self._wake_read.recv()
            else:
                self._receive(busy[ready])  # type: ignore[index]

    def _receive(self, position: int) -> None:
        worker = self._workers[position]
        try:
            answer = worker.connection.recv()
        except (EOFError, OSError):
            self._lost(position, "")
            return
        worker.ready = True
        worker.last_answer_s = time.monotonic()
        if isinstance(answer, Heartbeat):
            return
        if not isinstance(answer, Frame):
            worker.job = None
        self._put(answer)

    def _put(self, answer: Answer) -> None:
        blocked_s = time.monotonic()
        while not self._closing:
            try:
                self._answers.put(answer, timeout=_POLL_S)
                break
            except queue.Full:
                continue
        # A worker whose pipe was full all this while was not hung: nobody was reading.
        blocked_s = time.monotonic() - blocked_s
        for worker in self._workers:
            worker.last_answer_s += blocked_s

    def _kill_hung(self) -> None:
        now_s = time.monotonic()
        for position, worker in enumerate(self._workers):
            allowed_s = self._timeout_s if worker.ready else max(self._timeout_s, START_S)
            silent = worker.job is not None and now_s - worker.last_answer_s > allowed_s
            if silent and not worker.connection.poll():
                self._lost(position, f"no progress for {self._timeout_s:g} s; decoding was stopped")

    def _lost(self, position: int, reason: str) -> None:
        """Replace a worker that died or has to be killed, and report its job as failed."""
        worker = self._workers[position]
        _end(worker)
        self._workers[position] = self._start()
        if worker.job is not None:
            code = worker.process.exitcode
            crash = f"the decoder crashed (signal {-code})" if code and code < 0 else f"the decoder ended (code {code})"
            self._put(Failed(worker.job.file, reason or crash))


def _end(worker: _Worker) -> None:
    worker.connection.close()
    # Wait first: the exit code of a worker that died by itself is part of the reason that users read.
    worker.process.join(timeout=0.2)
    if worker.process.is_alive():
        worker.process.kill()
        # A process that waits for a dead network drive cannot be killed; it is left behind.
        worker.process.join(timeout=5)
