"""The one driver of the worker pool, which turns files into a stream of events.

It keeps the workers supplied, inspects files whose digest is missing, decodes the audio that several files share once,
and tries the next copy when one fails. Consumers only accumulate what they are given.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from musictagger.audio.frames import FrameRule
from musictagger.audio.walk import FoundFile, WalkProblem, stat_file
from musictagger.pipeline.pool import Decoding, WorkerPool
from musictagger.pipeline.worker import Answer, Decode, Failed, Finished, Frame, Inspect, Inspected
from musictagger.progress import Progress

PREFETCH = 2
"""Jobs submitted per worker, so that no worker waits for this process."""


@dataclass(frozen=True)
class SourceFile:
    """A file for the stream. Without a digest it is inspected first."""

    file: FoundFile
    digest: str | None = None


def find_sources(digests: Mapping[Path, str | None]) -> tuple[list[SourceFile], dict[Path, str]]:
    """Return the files at these paths, given with their digests if known, and why the others cannot be read."""
    found = {path: stat_file(path) for path in digests}
    sources = [SourceFile(file, digests[path]) for path, file in found.items() if isinstance(file, FoundFile)]
    return sources, {path: file.reason for path, file in found.items() if isinstance(file, WalkProblem)}


@dataclass(frozen=True)
class Known:
    """A file that is not decoded: its audio was known `before`, or this stream has decoded a copy of it."""

    file: FoundFile
    digest: str
    before: bool


Event = Inspected | Known | Frame | Finished | Failed


@contextmanager
def stream(
    sources: Sequence[SourceFile],
    *,
    rate_hz: int,
    rule: FrameRule,
    decoding: Decoding,
    progress: Progress,
    known: Callable[[str], bool] = lambda digest: False,
) -> Iterator[Iterator[Event]]:
    """Provide the events of `sources`, files with distinct paths. Leaving the context ends the workers.

    A file without a digest gives one `Inspected` first. Then `Known` ends a file whose audio `known` recognises by its
    digest or that is a copy of a finished one; `Finished` ends a decoded file, after frames in order, float32 [samples]
    at `rate_hz`, where index 0 restarts the track; `Failed` may come at any point. Tracks are interleaved. Once
    `progress.stopping`, no more files are started, and the stream ends with those already started.
    """
    if not sources:
        yield iter(())
        return
    decoding = dataclasses.replace(decoding, workers=min(decoding.workers, len(sources)))
    with WorkerPool(decoding) as pool:
        yield _Stream(pool, rate_hz, rule, known).events(sources, PREFETCH * decoding.workers, progress)


class _Stream:
    def __init__(self, pool: WorkerPool, rate_hz: int, rule: FrameRule, known: Callable[[str], bool]) -> None:
        self._pool = pool
        self._rate_hz = rate_hz
        self._rule = rule
        self._known = known
        self._digests: dict[FoundFile, str] = {}
        """Of the files being decoded."""
        self._copies: dict[str, list[FoundFile]] = {}
        """By digest, the files that wait for the one being decoded."""
        self._finished: set[str] = set()

    def events(self, sources: Sequence[SourceFile], prefetch: int, progress: Progress) -> Iterator[Event]:
        waiting = deque(sources)
        while True:
            while waiting and self._pool.pending < prefetch and not progress.stopping:
                source = waiting.popleft()
                if source.digest is None:
                    self._pool.submit(Inspect(source.file))
                else:
                    yield from self._identified(source.file, source.digest)
            answer = self._pool.next_answer()
            if answer is None:
                return
            yield answer
            yield from self._answered(answer)

    def _answered(self, answer: Answer) -> Iterator[Known]:
        match answer:
            case Inspected():
                yield from self._identified(answer.file, answer.digest)
            case Finished():
                self._finished.add(self._digests.pop(answer.file))
                for copy in self._copies.pop(answer.digest):
                    yield Known(copy, answer.digest, before=False)
            case Failed() if (digest := self._digests.pop(answer.file, None)) is not None:
                # A copy elsewhere may still be readable.
                for copy in self._copies.pop(digest):
                    yield from self._identified(copy, digest)

    def _identified(self, file: FoundFile, digest: str) -> Iterator[Known]:
        if digest in self._copies:
            self._copies[digest].append(file)
        elif digest in self._finished:
            yield Known(file, digest, before=False)
        elif self._known(digest):
            yield Known(file, digest, before=True)
        else:
            self._copies[digest] = []
            self._digests[file] = digest
            self._pool.submit(Decode(file, digest, self._rate_hz, self._rule))
