"""Worker processes that inspect and decode files, so that a crash, a hang or a memory leak costs one file.

A thread of the main process hands out jobs and collects answers into a bounded queue. When the consumer is slow,
the queue fills, the thread stops reading, the pipes fill and the workers pause: memory stays bounded.
"""

from __future__ import annotations

import multiprocessing
import queue
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType

from musictagger.pipeline.worker import Answer, Failed, Frame, Heartbeat, Inspect, Job, serve

QUEUED_ANSWERS = 32
"""Answers held for the consumer; most are frames of 1.4 MB, so about 45 MB."""

DEFAULT_TIMEOUT_S = 120.0
_POLL_S = 0.5


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    job: Job | None = None
    heard_s: float = field(default_factory=time.monotonic)


class WorkerPool:
    """`workers` processes; `submit` jobs, take their answers, close.

    A worker silent for `timeout_s` is killed and its file reported as `Failed`, as is the file of a
    worker that dies by itself.
    """

    def __init__(self, workers: int, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        # Not fork: torch's threads and locks do not survive it.
        self._context = multiprocessing.get_context("spawn")
        self._timeout_s = timeout_s
        self._jobs: deque[Job] = deque()
        self._answers: queue.Queue[Answer] = queue.Queue(QUEUED_ANSWERS)
        self._wake_read, self._wake_write = self._context.Pipe(duplex=False)
        self._closing = False
        self._error: BaseException | None = None
        self.pending = 0
        self._workers = [self._start() for _ in range(workers)]
        self._thread = threading.Thread(target=self._supervise, name="decode-pool", daemon=True)
        self._thread.start()

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def submit(self, job: Job) -> None:
        """Queue a job. Decoding goes before inspecting, so that tracks begun are finished first."""
        self.pending += 1
        if isinstance(job, Inspect):
            self._jobs.append(job)
        else:
            self._jobs.appendleft(job)
        self._wake_write.send(None)

    def next_answer(self) -> Answer | None:
        """The next answer; None when every submitted job has had its last one."""
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
        """End the workers at once; jobs not answered yet are dropped."""
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
            # Handed over, or the consumer would wait for ever.
            self._error = error

    def _hand_out(self) -> None:
        for position, worker in enumerate(self._workers):
            if worker.job is None and self._jobs:
                if not worker.process.is_alive():
                    # It died idle, of whatever: no file of ours is to blame.
                    _end(worker)
                    worker = self._workers[position] = self._start()
                worker.job = self._jobs.popleft()
                worker.heard_s = time.monotonic()
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
        worker.heard_s = time.monotonic()
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
        # A worker whose pipe was full all this while was not hung: we were not listening.
        blocked_s = time.monotonic() - blocked_s
        for worker in self._workers:
            worker.heard_s += blocked_s

    def _kill_hung(self) -> None:
        now_s = time.monotonic()
        for position, worker in enumerate(self._workers):
            silent = worker.job is not None and now_s - worker.heard_s > self._timeout_s
            if silent and not worker.connection.poll():
                self._lost(position, f"no progress for {self._timeout_s:g} s; decoding was stopped")

    def _lost(self, position: int, reason: str) -> None:
        """Report the job of a worker that died or must die, and put a new worker in its place."""
        worker = self._workers[position]
        _end(worker)
        self._workers[position] = self._start()
        if worker.job is not None:
            code = worker.process.exitcode
            crash = f"the decoder crashed (signal {-code})" if code and code < 0 else f"the decoder ended (code {code})"
            self._put(Failed(worker.job.path, reason or crash))


def _end(worker: _Worker) -> None:
    worker.connection.close()
    # A worker that died by itself must keep its own exit code: it is the reason the user reads.
    worker.process.join(timeout=0.2)
    if worker.process.is_alive():
        worker.process.kill()
        # A process in the middle of a call to a dead network drive cannot even be killed; it is left behind.
        worker.process.join(timeout=5)
