"""The stream: files, copies, failures and a request to stop. Worker processes are in test_pool."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
from helpers import Stopped, write_tone

from musictagger.audio.decode import Decoded, decode_frames
from musictagger.audio.frames import FrameRule
from musictagger.audio.walk import FoundFile, stat_file
from musictagger.pipeline import stream as stream_module
from musictagger.pipeline.pool import Decoding
from musictagger.pipeline.stream import Event, Known, SourceFile, stream
from musictagger.pipeline.worker import Answer, Decode, Failed, Finished, Frame, Inspect, Inspected, Job
from musictagger.progress import SILENT, Progress
from musictagger.tags.fields import FileTags

RATE_HZ = 8_000
BLOCKS = FrameRule(2 * RATE_HZ, tail=True)


def file(name: str) -> FoundFile:
    return FoundFile(Path("/music") / name, 1, 1)


class FakePool:
    """A pool that knows the digest of each file and answers jobs in order; files in `broken` cannot be decoded."""

    def __init__(self, digests: dict[str, str], broken: Sequence[str] = ()) -> None:
        self.jobs: list[Job] = []
        self.max_pending = 0
        self._digests, self._broken = digests, broken
        self._answers: deque[Answer] = deque()

    def __call__(self, decoding: Decoding) -> FakePool:
        return self

    def __enter__(self) -> FakePool:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    @property
    def pending(self) -> int:
        return sum(not isinstance(answer, Frame) for answer in self._answers)

    def submit(self, job: Job) -> None:
        self.jobs.append(job)
        if isinstance(job, Inspect):
            self._answers.append(Inspected(job.file, self._digests[job.file.path.name], FileTags("flac")))
        elif job.file.path.name in self._broken:
            self._answers.append(Failed(job.file, "broken"))
        else:
            self._answers.append(Frame(job.file, 0, np.zeros(8, np.float32)))
            self._answers.append(Finished(job.file, job.digest, Decoded(1.0, 1, False, "ok")))
        self.max_pending = max(self.max_pending, self.pending)

    def next_answer(self) -> Answer | None:
        return self._answers.popleft() if self._answers else None


Run = Callable[..., list[Event]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    def run(
        pool: FakePool,
        sources: Iterable[SourceFile],
        progress: Progress = SILENT,
        known: Callable[[str], bool] = lambda digest: False,
    ) -> list[Event]:
        monkeypatch.setattr(stream_module, "WorkerPool", pool)
        with stream(
            list(sources), rate_hz=RATE_HZ, rule=BLOCKS, decoding=Decoding(1), progress=progress, known=known
        ) as events:
            return list(events)

    return run


def outline(events: Iterable[Event]) -> list[tuple[str, str]]:
    return [(type(event).__name__, event.file.path.name) for event in events]


def test_a_file_without_a_digest_is_inspected_then_decoded(run: Run) -> None:
    pool = FakePool({"a": "1"})
    events = run(pool, [SourceFile(file("a")), SourceFile(file("b"), "2")])
    assert sorted(outline(events)) == [
        ("Finished", "a"),
        ("Finished", "b"),
        ("Frame", "a"),
        ("Frame", "b"),
        ("Inspected", "a"),
    ]
    assert [event.digest for event in events if isinstance(event, Finished)] in (["1", "2"], ["2", "1"])


def test_known_audio_is_not_decoded(run: Run) -> None:
    pool = FakePool({"a": "1", "b": "2"})
    events = run(
        pool, [SourceFile(file("a")), SourceFile(file("b")), SourceFile(file("c"), "1")], known=lambda digest: True
    )
    assert {event for event in events if isinstance(event, Known)} == {
        Known(file("a"), "1", before=True),
        Known(file("b"), "2", before=True),
        Known(file("c"), "1", before=True),
    }
    assert {type(job) for job in pool.jobs} == {Inspect}


def test_copies_are_decoded_once(run: Run) -> None:
    pool = FakePool({})
    events = run(pool, [SourceFile(file(name), "1") for name in "abcde"])
    assert outline(events) == [("Frame", "a"), ("Finished", "a"), *(("Known", name) for name in "bcde")]
    assert not any(event.before for event in events if isinstance(event, Known))


def test_a_copy_found_later_is_not_decoded_again(run: Run) -> None:
    pool = FakePool({"late": "1"})
    sources = [SourceFile(file("a"), "1"), *(SourceFile(file(f"{number}"), f"other {number}") for number in range(5))]
    events = run(pool, [*sources, SourceFile(file("late"))])
    assert events[-1] == Known(file("late"), "1", before=False)
    assert [job.file for job in pool.jobs if isinstance(job, Decode)] == [source.file for source in sources]


def test_the_next_copy_is_decoded_when_one_fails(run: Run) -> None:
    pool = FakePool({}, broken=["a", "b"])
    events = run(pool, [SourceFile(file(name), "1") for name in "abcd"])
    assert outline(events) == [
        *(("Failed", "a"), ("Failed", "b"), ("Frame", "c"), ("Finished", "c"), ("Known", "d")),
    ]
    failing = run(FakePool({}, broken=["a", "b"]), [SourceFile(file(name), "1") for name in "ab"])
    assert outline(failing) == [("Failed", "a"), ("Failed", "b")]


def test_few_jobs_are_pending_at_once(run: Run) -> None:
    pool = FakePool({f"{number}": f"{number}" for number in range(50)})
    events = run(pool, [SourceFile(file(f"{number}")) for number in range(50)])
    assert sum(isinstance(event, Finished) for event in events) == 50
    assert pool.max_pending == stream_module.PREFETCH


def test_a_stop_starts_no_more_files_and_finishes_those_started(run: Run) -> None:
    class StopAfterOne(Progress):
        @property
        def stopping(self) -> bool:  # type: ignore[override]
            return len(pool.jobs) >= 2

    pool = FakePool({})
    events = run(pool, [SourceFile(file(name), name) for name in "abcd"], progress=StopAfterOne())
    assert outline(events) == [("Frame", "a"), ("Finished", "a"), ("Frame", "b"), ("Finished", "b")]
    assert run(FakePool({}), [SourceFile(file("a"), "1")], progress=Stopped()) == []


def test_no_file_needs_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(stream_module, "WorkerPool")
    with stream([], rate_hz=RATE_HZ, rule=BLOCKS, decoding=Decoding(1), progress=SILENT) as events:
        assert list(events) == []


def test_whole_tracks_come_in_order_from_real_workers(tmp_path: Path) -> None:
    paths = [write_tone(tmp_path / f"{index}.flac", 7, 220.0 * (index + 1), 16_000) for index in range(3)]
    bad = tmp_path / "bad.flac"
    bad.write_bytes(b"fLaC")
    found = [stat_file(path) for path in (*paths, bad)]
    sources = [SourceFile(each, str(number)) for number, each in enumerate(found) if isinstance(each, FoundFile)]
    gone = FoundFile(tmp_path / "missing", 1, 1)
    blocks: dict[Path, list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]] = {}
    ends: dict[Path, Event] = {}
    decoding = Decoding(2, timeout_s=30)
    with stream(
        [*sources, SourceFile(gone, "gone")], rate_hz=RATE_HZ, rule=BLOCKS, decoding=decoding, progress=SILENT
    ) as events:
        for event in events:
            if isinstance(event, Frame):
                assert event.index == len(blocks.setdefault(event.file.path, []))
                blocks[event.file.path].append(event.wave)
            else:
                ends[event.file.path] = event
    assert list(map(len, blocks[paths[0]])) == [16_000, 16_000, 16_000, 8_000]
    for path in paths:
        ((_, wave),) = decode_frames(path, RATE_HZ, FrameRule(100 * RATE_HZ, tail=True))
        np.testing.assert_array_equal(np.concatenate(blocks[path]), wave)
        assert isinstance(ends[path], Finished)
    assert isinstance(ends[bad], Failed)
    assert isinstance(ends[gone.path], Failed)
