"""Whole tracks through the decode workers, block by block: as waves for whoever asks, as mel files for the cache."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from musictagger.audio.decode import SHORTEST_S, Decoded
from musictagger.audio.frames import FrameRule, Wave
from musictagger.audio.logmel import LogMel
from musictagger.audio.walk import FoundFile
from musictagger.errors import reason_of
from musictagger.pipeline.pool import DEFAULT_TIMEOUT_S, WorkerPool
from musictagger.pipeline.worker import Decode, Failed, Finished, Frame, Inspect, Inspected
from musictagger.training.melcache.files import Mel, MelWriter

BLOCK_S = 30
"""What a worker sends at a time: as much as a frame of the scan, and all of a usual clip."""

AHEAD = 2
"""Jobs kept ready per worker, so that none waits for this process."""


def stream_waves(
    paths: Iterable[Path],
    rate_hz: int,
    *,
    workers: int,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    block_s: float = BLOCK_S,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Frame | Finished | Failed]:
    """Whole tracks at `rate_hz`, mono, in blocks of `block_s`, several tracks at once.

    For each path any number of `Frame(path, index, wave)`, in order, wave float32 [samples], the last one shorter;
    index 0 starts the track over: forget what came of it before. Then one `Finished(path, decoded)`, where only
    `decoded.status == "ok"` is music, or one `Failed(path, reason)`. Tracks are interleaved and end in any order, at
    most `workers` of them begun at a time. It ends early once `stop` says True, tracks begun being dropped.
    """
    waiting = deque(dict.fromkeys(paths))
    rule = whole_track(rate_hz, block_s)
    with WorkerPool(max(1, min(workers, len(waiting))), timeout_s) as pool:
        while (waiting or pool.pending) and not stop():
            while waiting and pool.pending < AHEAD * workers:
                path = waiting.popleft()
                try:
                    status = path.stat()
                except OSError as error:
                    yield Failed(path, reason_of(error), transient=True)
                else:
                    pool.submit(Decode(path, rate_hz, rule, status.st_size, status.st_mtime_ns))
            answer = pool.next_answer()
            if isinstance(answer, Frame | Finished | Failed):
                yield answer


def inspected(
    paths: Iterable[Path], *, workers: int, timeout_s: float, stop: Callable[[], bool] = lambda: False
) -> Iterator[Inspected]:
    """Which sounds are in files, in any order; a file that cannot be read is passed over. Ends early as `stop` says."""
    waiting = deque(dict.fromkeys(paths))
    workers = max(1, min(workers, len(waiting)))
    with WorkerPool(workers, timeout_s) as pool:
        while (waiting or pool.pending) and not stop():
            while waiting and pool.pending < AHEAD * workers:
                pool.submit(Inspect(waiting.popleft()))
            answer = pool.next_answer()
            if isinstance(answer, Inspected):
                yield answer


def whole_track(rate_hz: int, block_s: float = BLOCK_S) -> FrameRule:
    """The rule under which a track's frames are the whole track, in order."""
    return FrameRule(max(1, round(block_s * rate_hz)), tail=True)


class LevelStream:
    """`LogMel.level` of a wave that comes in blocks; it holds one block and a window.

    What comes out of `push` and `finish`, one after the other, is what `level` makes of the whole wave.
    """

    def __init__(self, logmel: LogMel) -> None:
        front_end = logmel.front_end
        self._logmel = logmel
        self._hop = front_end.hop_samples
        self._half = (front_end.n_fft + 1) // 2
        # A hop more than half a window: at the end the padding may reflect what lies before.
        self._before_hops = -(-self._half // self._hop) + 1
        self._held = np.zeros(0, np.float32)
        self._held_hops = 0
        self._columns = 0

    def push(self, block: Wave) -> Mel:
        """Take float32 [any number of samples]; the columns that are sure now, float16 [columns, n_mels]."""
        self._held = np.concatenate([self._held, block])
        # A column is sure when its whole window is there.
        sure = self._held_hops + (len(self._held) - self._half) // self._hop + 1
        if sure <= self._columns or len(self._held) <= self._half:
            return np.zeros((0, self._logmel.front_end.n_mels), np.float16)
        return self._level(sure)

    def finish(self) -> Mel:
        """The columns that remain, float16 [columns, n_mels]."""
        return self._level(None)

    def _level(self, sure: int | None) -> Mel:
        with torch.inference_mode():
            mel = self._logmel.level(torch.from_numpy(self._held)[None])[0].T.half().contiguous().numpy()
        fresh: Mel = mel[self._columns - self._held_hops : None if sure is None else sure - self._held_hops]
        self._columns += len(fresh)
        begin_hops = max(0, self._columns - self._before_hops)
        self._held = self._held[(begin_hops - self._held_hops) * self._hop :].copy()
        self._held_hops = begin_hops
        return fresh


@dataclass(frozen=True)
class MissingMel:
    """A file whose mel is missing, with its digest if that is known."""

    file: FoundFile
    digest: str | None = None


class _Track:
    """A track between its first block and its last column."""

    def __init__(self, folder: Path, logmel: LogMel) -> None:
        self._logmel = logmel
        self._stream = LevelStream(logmel)
        self.writer = MelWriter(folder, logmel.front_end.n_mels)
        self.finite = True

    def push(self, frame: Frame) -> None:
        if frame.index == 0:
            self._stream = LevelStream(self._logmel)
            self.writer.restart()
            self.finite = True
        self._append(self._stream.push(frame.wave))

    def end(self) -> None:
        self._append(self._stream.finish())

    def _append(self, mel: Mel) -> None:
        self.finite = self.finite and bool(np.isfinite(mel).all())
        self.writer.append(mel)


class Filler:
    """One run over many files. `inspected` and `done` are told what is learnt; see MelCache.fill."""

    def __init__(
        self,
        folder: Path,
        logmel: LogMel,
        pool: WorkerPool,
        workers: int,
        *,
        path_of: Callable[[str], Path],
        cached_columns: Callable[[str], int | None],
        inspected: Callable[[FoundFile, str], None],
        done: Callable[[Path, str | None, int, str], None],
    ) -> None:
        self._folder, self._logmel, self._pool = folder, logmel, pool
        self._workers = workers
        self._rule = whole_track(logmel.front_end.sample_rate_hz)
        self._path_of, self._cached_columns = path_of, cached_columns
        self._tell_inspected, self._done = inspected, done
        self._digests: dict[Path, str] = {}
        self._tracks: dict[Path, _Track] = {}
        # Copies of a sound wait for the one being decoded.
        self._copies: dict[str, list[FoundFile]] = {}

    def run(self, todo: Iterable[MissingMel], stop: Callable[[], bool]) -> bool:
        """Make what is missing; False once `stop` says True, when tracks begun are dropped."""
        waiting = deque(todo)
        try:
            with _threads_beside(self._workers):
                while waiting or self._pool.pending:
                    if stop():
                        return False
                    while waiting and self._pool.pending < AHEAD * self._workers:
                        self._begin(waiting.popleft())
                    self._answered(self._pool.next_answer())
        finally:
            for track in self._tracks.values():
                track.writer.discard()
        return True

    def _begin(self, todo: MissingMel) -> None:
        if todo.digest is None:
            self._pool.submit(Inspect(todo.file.path))
        else:
            self._decode(todo.file, todo.digest)

    def _answered(self, answer: object) -> None:
        if isinstance(answer, Frame):
            self._frame(answer)
        elif isinstance(answer, Inspected):
            self._inspected(answer)
        elif isinstance(answer, Finished):
            self._finished(answer.path, answer.decoded)
        elif isinstance(answer, Failed):
            self._failed(answer)

    def _inspected(self, answer: Inspected) -> None:
        file = FoundFile(answer.path, answer.size, answer.mtime_ns)
        self._tell_inspected(file, answer.digest)
        columns = self._cached_columns(answer.digest)
        if columns is None:
            self._decode(file, answer.digest)
        else:
            self._done(file.path, answer.digest, columns, "")

    def _decode(self, file: FoundFile, digest: str) -> None:
        if digest in self._copies:
            self._copies[digest].append(file)
            return
        self._copies[digest] = []
        self._digests[file.path] = digest
        rate_hz = self._logmel.front_end.sample_rate_hz
        self._pool.submit(Decode(file.path, rate_hz, self._rule, file.size, file.mtime_ns))

    def _frame(self, frame: Frame) -> None:
        if frame.path not in self._tracks:
            self._tracks[frame.path] = _Track(self._folder, self._logmel)
        self._tracks[frame.path].push(frame)

    def _finished(self, path: Path, decoded: Decoded) -> None:
        digest = self._digests.pop(path)
        track = self._tracks.pop(path, None)
        columns, reason = 0, _no_music(decoded)
        if track is not None:
            if not reason:
                track.end()
                reason = "" if track.finite else "its spectrum is no number; are its samples absurdly large?"
            if reason:
                track.writer.discard()
            else:
                columns = track.writer.finish(self._path_of(digest))
        for each in (path, *(copy.path for copy in self._copies.pop(digest))):
            self._done(each, digest, columns, reason)

    def _failed(self, answer: Failed) -> None:
        self._done(answer.path, None, 0, answer.reason)
        digest = self._digests.pop(answer.path, None)
        if (track := self._tracks.pop(answer.path, None)) is not None:
            track.writer.discard()
        # A copy elsewhere may still be readable.
        for copy in self._copies.pop(digest, []) if digest else []:
            assert digest
            self._decode(copy, digest)


@contextmanager
def _threads_beside(workers: int) -> Iterator[None]:
    """Leave the workers' cores to them: on two busy ones 7 ms a block became 110."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads - workers))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _no_music(decoded: Decoded) -> str:
    """Why nothing can be learnt from a track, "" where it can."""
    if decoded.status == "too short":
        return f"too short: {decoded.duration_s:.1f} s, at least {SHORTEST_S:g} s are needed"
    return "" if decoded.status == "ok" else decoded.status
