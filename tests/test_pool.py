"""Worker processes: their answers, and the cost of a crash, a hang and a slow consumer."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import media
import numpy as np
import pytest
import soundfile

from musictagger.audio.digest import audio_digest
from musictagger.audio.frames import FrameRule
from musictagger.audio.walk import FoundFile, stat_file
from musictagger.pipeline.pool import QUEUED_ANSWERS, Decoding, WorkerPool
from musictagger.pipeline.worker import Answer, Decode, Failed, Finished, Frame, Inspect, Inspected, run

RATE_HZ = 12_000
RULE = FrameRule(5 * RATE_HZ)
CORPUS = Path(__file__).with_name("corpus")

posix_only = pytest.mark.skipif(os.name != "posix", reason="signals")


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    with WorkerPool(Decoding(2)) as pool:
        yield pool


def found(path: Path) -> FoundFile:
    file = stat_file(path)
    assert isinstance(file, FoundFile)
    return file


def decode_job(path: Path, rule: FrameRule = RULE) -> Decode:
    return Decode(found(path), "digest", RATE_HZ, rule)


def answers(pool: WorkerPool, each: Callable[[Answer], None] = lambda answer: None) -> list[Answer]:
    """All answers until no job is left."""
    got: list[Answer] = []
    while (answer := pool.next_answer()) is not None:
        each(answer)
        got.append(answer)
    return got


def long_file(folder: Path, name: str, hours: float) -> Path:
    """A loud track that takes long to decode, in a sparse file."""
    path = folder / name
    soundfile.write(path, np.zeros(8), 8_000, subtype="PCM_U8")
    size = round(hours * 3600 * 8_000)
    head = bytearray(path.read_bytes()[:44])
    head[4:8], head[40:44] = (36 + size).to_bytes(4, "little"), size.to_bytes(4, "little")
    path.write_bytes(head)
    os.truncate(path, 44 + size)
    return path


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_inspecting_gives_digest_and_tags(pool: WorkerPool, tmp_path: Path) -> None:
    path = media.make("flac", tmp_path, tags={"artist": "Émilie", "genre": "Jazz"})
    pool.submit(Inspect(found(path)))
    (answer,) = answers(pool)
    assert isinstance(answer, Inspected)
    assert answer.file == found(path)
    assert answer.digest == audio_digest(path)
    assert (answer.tags.artist, answer.tags.genres) == ("Émilie", ("Jazz",))


def test_decoding_gives_frames_in_order_then_the_end(pool: WorkerPool, tmp_path: Path) -> None:
    path = media.make("wav", tmp_path, seconds=17.0)
    pool.submit(decode_job(path))
    *frames, end = answers(pool)
    assert [frame.index for frame in frames if isinstance(frame, Frame)] == [0, 1, 2]
    assert all(isinstance(frame, Frame) and frame.wave.shape == (5 * RATE_HZ,) for frame in frames)
    assert isinstance(end, Finished)
    assert (end.digest, end.decoded.frames, end.decoded.status) == ("digest", 3, "ok")


def test_no_jobs_no_answers(pool: WorkerPool) -> None:
    assert pool.next_answer() is None


@pytest.mark.parametrize("name", sorted(json.loads((CORPUS / "expected.json").read_text(encoding="utf-8"))))
def test_broken_files_have_the_expected_outcome(name: str) -> None:
    entry = json.loads((CORPUS / "expected.json").read_text(encoding="utf-8"))[name]
    sent: list[object] = []
    run(Inspect(found(CORPUS / name)), sent.append)
    if isinstance(sent[-1], Inspected):
        run(decode_job(CORPUS / name), sent.append)
    last = sent[-1]
    if entry.get("outcome_when_named", entry["outcome"]) == "failed":
        assert isinstance(last, Failed)
        assert last.reason
        assert not last.transient
    else:
        assert isinstance(last, Finished)
        assert last.decoded.status == {"tagged": "ok"}.get(entry["outcome"], last.decoded.status)


def test_missing_and_changed_files_fail_with_a_reason(pool: WorkerPool, tmp_path: Path) -> None:
    path = media.make("wav", tmp_path)
    stale = Decode(FoundFile(path, path.stat().st_size, 1), "digest", RATE_HZ, RULE)
    pool.submit(Inspect(FoundFile(tmp_path / "gone.mp3", 1, 1)))
    pool.submit(stale)
    reasons = {answer.file.path.name: answer.reason for answer in answers(pool) if isinstance(answer, Failed)}
    assert reasons == {
        "gone.mp3": "No such file or directory",
        "wav.wav": "changed while it was being scanned; scan it again",
    }


def test_many_jobs_are_all_answered(pool: WorkerPool, tmp_path: Path) -> None:
    paths = [media.make("wav", tmp_path, name=f"{number}.wav") for number in range(40)]
    for path in paths:
        pool.submit(Inspect(found(path)))
        pool.submit(decode_job(path))
    got = answers(pool)
    assert sorted(answer.file.path for answer in got if isinstance(answer, Inspected)) == sorted(paths)
    assert sorted(answer.file.path for answer in got if isinstance(answer, Finished)) == sorted(paths)
    assert not [answer for answer in got if isinstance(answer, Failed)]


@posix_only
def test_a_crash_costs_one_file(tmp_path: Path) -> None:
    victim = long_file(tmp_path, "victim.wav", 40)
    others = [media.make("wav", tmp_path, name=f"{number}.wav", seconds=6.0) for number in range(3)]
    with WorkerPool(Decoding(1)) as pool:
        pool.submit(decode_job(victim))
        first = pool.next_answer()
        assert isinstance(first, Frame)
        os.kill(pool._workers[0].process.pid or 0, signal.SIGSEGV)
        for other in others:
            pool.submit(decode_job(other))
        got = answers(pool)
    failed = [answer for answer in got if isinstance(answer, Failed)]
    assert failed == [Failed(found(victim), f"the decoder crashed (signal {int(signal.SIGSEGV)})")]
    assert {answer.file.path for answer in got if isinstance(answer, Finished)} == set(others)


@posix_only
def test_an_idle_worker_that_was_killed_is_replaced(tmp_path: Path) -> None:
    path = media.make("wav", tmp_path)
    with WorkerPool(Decoding(1)) as pool:
        pool.submit(Inspect(found(path)))
        assert isinstance(answers(pool)[0], Inspected)
        process = pool._workers[0].process
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        pool.submit(Inspect(found(path)))
        (answer,) = answers(pool)
        assert isinstance(answer, Inspected), answer


@posix_only
def test_a_hang_costs_one_file(tmp_path: Path) -> None:
    victim = long_file(tmp_path, "victim.wav", 40)
    other = media.make("wav", tmp_path, seconds=6.0)
    with WorkerPool(Decoding(1, timeout_s=6.0)) as pool:
        pool.submit(decode_job(victim))
        assert isinstance(pool.next_answer(), Frame)
        stopped = pool._workers[0].process.pid or 0
        os.kill(stopped, signal.SIGSTOP)
        pool.submit(decode_job(other))
        got = answers(pool)
        assert not alive(stopped)
    failed = [answer for answer in got if isinstance(answer, Failed)]
    assert failed == [Failed(found(victim), "no progress for 6 s; decoding was stopped")]
    assert any(isinstance(answer, Finished) and answer.file.path == other for answer in got)


def test_a_slow_consumer_is_not_a_hang(tmp_path: Path) -> None:
    """The queue is full for longer than the timeout, several times over."""
    path = long_file(tmp_path, "long.wav", 0.25)
    pauses = iter([4.0, 4.0])
    with WorkerPool(Decoding(1, timeout_s=3.0)) as pool:
        pool.submit(decode_job(path, FrameRule(RATE_HZ)))
        time.sleep(4.0)
        assert pool._answers.qsize() <= QUEUED_ANSWERS

        def slow(answer: Answer) -> None:
            if isinstance(answer, Frame) and answer.index in (100, 300):
                time.sleep(next(pauses))

        got = answers(pool, slow)
    assert isinstance(got[-1], Finished), got[-1]
    assert len(got) == 901


@posix_only
def test_closing_a_busy_pool_leaves_no_process(tmp_path: Path) -> None:
    pool = WorkerPool(Decoding(2))
    pids = [worker.process.pid or 0 for worker in pool._workers]
    for number in range(6):
        pool.submit(decode_job(long_file(tmp_path, f"{number}.wav", 40), FrameRule(RATE_HZ)))
    assert isinstance(pool.next_answer(), Frame)
    started_s = time.monotonic()
    pool.close()
    # Decoding all six files would take minutes.
    assert time.monotonic() - started_s < 20
    assert not any(alive(pid) for pid in pids)
    assert not pool._thread.is_alive()
