"""The mel cache: its spectrograms are those of LogMel, are computed once, and survive failing disks and files."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import tracemalloc
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from helpers import Recorder, Stopped, write_tone

from musictagger.audio.decode import Decoded, decode_frames
from musictagger.audio.frames import FrameRule
from musictagger.audio.frontend import FrontEnd
from musictagger.audio.logmel import LogMel
from musictagger.audio.walk import FoundFile, stat_file
from musictagger.errors import MusictaggerError
from musictagger.pipeline import stream as stream_module
from musictagger.pipeline.pool import Decoding
from musictagger.pipeline.worker import Answer, Decode, Failed, Finished, Frame, Heartbeat, Inspect, Inspected, Job, run
from musictagger.progress import SILENT, Progress
from musictagger.training.melcache import cache as cache_module
from musictagger.training.melcache.cache import OPEN_FILES, Filled, MelCache, spectrogram_key
from musictagger.training.melcache.files import ABANDONED_S, MelWriter
from musictagger.training.melcache.fill import SpectrogramStream

FRONT_END = FrontEnd()
NEVER = 1 << 40


class InlinePool:
    """A WorkerPool without processes that records its jobs; a path in `broken` cannot be decoded."""

    def __init__(self, broken: Sequence[Path] = ()) -> None:
        self.broken = broken
        self.jobs: list[Job] = []
        self.answered: list[Answer] = []
        self._waiting: deque[Job] = deque()
        self._answers: deque[Answer] = deque()
        self.pending = 0

    def __call__(self, decoding: Decoding) -> InlinePool:
        return self

    def __enter__(self) -> InlinePool:
        return self

    def __exit__(self, *error: object) -> None:
        self._waiting.clear()
        self._answers.clear()
        self.pending = 0

    def submit(self, job: Job) -> None:
        self.jobs.append(job)
        self._waiting.append(job)
        self.pending += 1

    def next_answer(self) -> Answer | None:
        if not self._answers:
            if not self._waiting:
                return None
            job = self._waiting.popleft()
            if isinstance(job, Decode) and job.file.path in self.broken:
                self._answers.append(Failed(job.file, "broken"))
            else:
                run(job, self._take)
        answer = self._answers.popleft()
        self.answered.append(answer)
        self.pending -= not isinstance(answer, Frame)
        return answer

    def _take(self, answer: Answer | Heartbeat) -> None:
        if not isinstance(answer, Heartbeat):
            self._answers.append(answer)

    def names(self, kind: type[Job]) -> list[str]:
        return [job.file.path.name for job in self.jobs if isinstance(job, kind)]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """On a busy machine the threads of torch wait for each other longer than they compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> InlinePool:
    inline = InlinePool()
    monkeypatch.setattr(stream_module, "WorkerPool", inline)
    return inline


@pytest.fixture
def cache(tmp_path: Path) -> MelCache:
    return MelCache(tmp_path / "cache", FRONT_END)


def tones(folder: Path, count: int, seconds: float = 3.0) -> list[Path]:
    return [write_tone(folder / f"{index}.flac", seconds, 220.0 + 30 * index) for index in range(count)]


def mel_files(cache: MelCache) -> list[Path]:
    """Every file in the cache except its index."""
    return sorted(path for path in cache.folder.rglob("*") if path.is_file() and path.suffix != ".jsonl")


def mel_file(cache: MelCache, digest: str) -> Path:
    return next(cache.folder.glob(f"*/{digest[:2]}/{digest}.npy"))


class StopAt(Recorder):
    """A progress that asks to stop once this many tracks are done."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._count = count

    @property
    def stopping(self) -> bool:  # type: ignore[override]
        return len(self.done) >= self._count


def fill(cache: MelCache, paths: Sequence[Path], progress: Progress = SILENT) -> Filled:
    return cache.fill(paths, decoding=Decoding(1, timeout_s=30), progress=progress)


def whole_spectrogram(path: Path, front_end: FrontEnd = FRONT_END) -> Any:
    """The spectrogram of a whole track at once, float32 [columns, n_mels]."""
    rule = FrameRule(NEVER, tail=True)
    ((_, wave),) = decode_frames(path, front_end.sample_rate_hz, rule)
    with torch.inference_mode():
        return LogMel(front_end).spectrogram(torch.from_numpy(wave)[None])[0].T.numpy()


def test_a_cached_track_is_the_spectrogram_of_the_track(tmp_path: Path) -> None:
    path = write_tone(tmp_path / "a.flac", 70, rate_hz=22_050)
    cache = MelCache(tmp_path / "cache", FRONT_END)
    filled = fill(cache, [path])
    entry = filled.entries[path]
    mel = cache.mel(entry.digest)
    expected = whole_spectrogram(path)
    assert mel.dtype == np.float16
    assert mel.shape == expected.shape == (entry.columns, 96)
    assert not mel.flags.writeable
    assert (filled.failures, filled.interrupted) == ({}, False)
    assert entry.duration_s == pytest.approx(70, abs=0.03)
    np.testing.assert_allclose(mel, expected, rtol=2**-10, atol=1e-3)


@pytest.mark.parametrize("pad_mode", ["constant", "reflect"])
@pytest.mark.parametrize(("n_fft", "hop"), [(512, 256), (512, 200), (400, 512), (513, 100)])
def test_blocks_give_the_spectrogram_of_the_whole_wave(pad_mode: Any, n_fft: int, hop: int) -> None:
    front_end = replace(FRONT_END, n_fft=n_fft, hop_samples=hop, pad_mode=pad_mode)
    random = np.random.default_rng(0)
    logmel = LogMel(front_end)
    for total in (12_031, 12_800):
        wave = random.normal(0, 0.1, total).astype(np.float32)
        expected = logmel.spectrogram(torch.from_numpy(wave)[None])[0].T.numpy()
        for size in (1, 257, 3_000, total):
            stream = SpectrogramStream(logmel)
            blocks = np.split(wave, range(size, total, size)) if size > 1 else [wave[:1], wave[1:]]
            got = np.concatenate([*(stream.push(block) for block in blocks), stream.finish()])
            assert got.shape == expected.shape
            np.testing.assert_allclose(got, expected, rtol=2**-10, atol=1e-2)


def test_the_file_is_a_plain_npy(cache: MelCache, pool: InlinePool, tmp_path: Path) -> None:
    (path,) = tones(tmp_path, 1)
    digest = fill(cache, [path]).entries[path].digest
    (file,) = mel_files(cache)
    assert file == cache.folder / spectrogram_key(FRONT_END) / digest[:2] / f"{digest}.npy"
    loaded = np.load(file, mmap_mode="r")
    np.testing.assert_array_equal(loaded, cache.mel(digest))
    assert loaded.dtype == np.float16


def test_an_excerpt_of_the_cache_is_an_excerpt_of_the_track(cache: MelCache, pool: InlinePool, tmp_path: Path) -> None:
    """A training excerpt equals the frame of a scan, except for the columns at its ends."""
    path = write_tone(tmp_path / "a.flac", 8)
    logmel = LogMel(FRONT_END)
    mel = cache.mel(fill(cache, [path]).entries[path].digest)
    start, columns = 40, 150
    ((_, wave),) = decode_frames(path, 12_000, FrameRule(NEVER, tail=True))
    samples = torch.from_numpy(wave[start * 256 : (start + columns - 1) * 256])[None]
    scanned = logmel(samples)[0, :, 1:-1]
    trained = logmel.normalise(torch.from_numpy(mel[start : start + columns].T.astype(np.float32))[None])[0, :, 1:-1]
    assert (scanned - trained).abs().max() < 0.05


def test_a_long_track_needs_no_more_memory(tmp_path: Path) -> None:
    """6 minutes in blocks of 5 s: the wave is 17 MB, the mel 3.2 MB, a block 0.24 MB."""
    random = np.random.default_rng(0)
    block = random.normal(0, 0.1, 60_000).astype(np.float32)
    stream, writer = SpectrogramStream(LogMel(FRONT_END)), MelWriter(tmp_path, 96)
    tracemalloc.start()
    for _ in range(72):
        writer.append(stream.push(block))
    writer.append(stream.finish())
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert writer.finish(tmp_path / "mel.npy") == 72 * 60_000 // 256 + 1
    assert peak_bytes < 1.5e6


def test_a_second_fill_reads_no_file(cache: MelCache, pool: InlinePool, tmp_path: Path) -> None:
    paths = tones(tmp_path, 3)
    first = fill(cache, paths)
    pool.jobs.clear()
    recorder = Recorder()
    assert fill(cache, paths, progress=recorder) == first
    assert pool.jobs == []
    assert recorder.lines == [f"mel cache {cache.folder}: 3 tracks cached, none missing"]


def test_a_touched_file_is_inspected_and_not_decoded(cache: MelCache, pool: InlinePool, tmp_path: Path) -> None:
    paths = tones(tmp_path, 2)
    first = fill(cache, paths)
    os.utime(paths[0], ns=(1, 1))
    pool.jobs.clear()
    assert fill(cache, paths) == first
    assert (pool.names(Inspect), pool.names(Decode)) == (["0.flac"], [])


def test_a_damaged_or_missing_index_costs_inspections_only(cache: MelCache, pool: InlinePool, tmp_path: Path) -> None:
    paths = tones(tmp_path, 4)
    first = fill(cache, paths)
    index = cache.folder / "files.jsonl"
    lines = index.read_bytes().splitlines()
    strange = json.dumps(json.loads(lines[1]) | {"digest": "../../x"}).encode()
    index.write_bytes(b"\n".join([lines[0], strange, b"\xff\0[]", b"[1]", lines[3], lines[2][:-5]]))
    pool.jobs.clear()
    assert fill(cache, paths) == first
    assert (pool.names(Inspect), pool.names(Decode)) == (["1.flac", "2.flac"], [])
    pool.jobs.clear()
    assert fill(cache, paths) == first
    assert pool.jobs == []
    index.unlink()
    assert fill(cache, paths) == first
    assert (len(pool.names(Inspect)), pool.names(Decode)) == (4, [])


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def shorten(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 192)


def garble(file: Path) -> None:
    file.write_bytes(bytes(128) + file.read_bytes()[128:])


def other_shape(file: Path) -> None:
    np.save(file, np.load(file).reshape(48, -1))


DAMAGES = [cut, shorten, garble, other_shape, Path.unlink, lambda file: file.write_bytes(b"")]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_recognised_and_replaced(
    cache: MelCache, pool: InlinePool, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    paths = tones(tmp_path, 2)
    first = fill(cache, paths)
    file = mel_file(cache, first.entries[paths[1]].digest)
    whole = file.read_bytes()
    damage(file)
    with pytest.raises(MusictaggerError, match=rf"{file.name}.*run the same command again"):
        cache.mel(first.entries[paths[1]].digest)
    pool.jobs.clear()
    assert fill(cache, paths) == first
    assert pool.names(Decode) == ["1.flac"]
    assert file.read_bytes() == whole
    assert len(cache.mel(first.entries[paths[1]].digest)) == first.entries[paths[1]].columns


def test_copies_are_decoded_once(cache: MelCache, pool: InlinePool, tmp_path: Path) -> None:
    (path,) = tones(tmp_path, 1)
    copies = [Path(shutil.copy(path, tmp_path / f"copy{index}.flac")) for index in range(2)]
    filled = fill(cache, [*copies, path, path])
    assert list(filled.entries) == [*copies, path]
    assert len(set(filled.entries.values())) == 1
    assert pool.names(Decode) == ["copy0.flac"]


def test_a_copy_replaces_a_file_that_fails(cache: MelCache, pool: InlinePool, tmp_path: Path) -> None:
    (path,) = tones(tmp_path, 1)
    copy = Path(shutil.copy(path, tmp_path / "copy.flac"))
    pool.broken = [path]
    filled = fill(cache, [path, copy])
    assert (list(filled.entries), filled.failures) == ([copy], {path: "broken"})


def test_unusable_files_do_not_stop_the_others(cache: MelCache, pool: InlinePool, tmp_path: Path) -> None:
    (good,) = tones(tmp_path, 1)
    bad, missing, empty, silent = (tmp_path / f"{name}.flac" for name in ("bad", "missing", "empty", "silent"))
    bad.write_bytes(good.read_bytes()[:200])
    empty.touch()
    soundfile.write(silent, np.zeros(36_000), 12_000)
    short = write_tone(tmp_path / "short.flac", 0.5)
    twin = Path(shutil.copy(short, tmp_path / "twin.flac"))
    recorder = Recorder()
    filled = fill(cache, [bad, missing, empty, silent, short, twin, good], progress=recorder)
    assert list(filled.entries) == [good]
    assert set(filled.failures) == {bad, missing, empty, silent, short, twin}
    assert all(filled.failures.values())
    assert filled.failures[silent] == "silent"
    assert filled.failures[short] == filled.failures[twin] == "too short: 0.5 s, at least 1 s are needed"
    assert filled.failures[missing] == "cannot be read: No such file or directory"
    assert recorder.stages == [("mel cache", 6, "tracks")]
    assert recorder.done == [1, 2, 3, 4, 5, 6]
    assert len(mel_files(cache)) == 1


def test_samples_that_overflow_cost_one_file(cache: MelCache, pool: InlinePool, tmp_path: Path) -> None:
    loud = tmp_path / "loud.wav"
    wave = np.random.default_rng(1).normal(0, 1e30, 36_000)
    soundfile.write(loud, wave.astype(np.float32), 12_000, subtype="FLOAT")
    (good,) = tones(tmp_path, 1)
    filled = fill(cache, [loud, good])
    assert list(filled.entries) == [good] and "absurdly large" in filled.failures[loud]
    assert len(mel_files(cache)) == 1


def test_a_decoder_that_fails_halfway_leaves_no_trace(cache: MelCache, pool: InlinePool, tmp_path: Path) -> None:
    """The second decoder starts over with index 0."""
    (path,) = tones(tmp_path, 1, seconds=5)
    plain = bytes(mel_file(cache, fill(cache, [path]).entries[path].digest).read_bytes())
    ((_, wave),) = decode_frames(path, 12_000, FrameRule(NEVER, tail=True))
    file = stat_file(path)
    assert isinstance(file, FoundFile)
    digest = "ab" * 32
    blocks = np.split(wave, [20_000, 40_000])
    script: list[Answer] = [
        Inspected(file, digest, None),  # type: ignore[arg-type]
        Frame(file, 0, blocks[1]),
        Frame(file, 1, blocks[1]),
        *(Frame(file, index, block) for index, block in enumerate(blocks)),
        Finished(file, digest, Decoded(5.0, 3, False, "ok")),
    ]
    (cache.folder / "files.jsonl").unlink()
    pool.submit = lambda job: None  # type: ignore[method-assign]
    pool.next_answer = lambda: script.pop(0) if script else None  # type: ignore[method-assign]
    fill(cache, [path])
    np.testing.assert_allclose(
        cache.mel(digest), np.frombuffer(plain[128:], "<f2").reshape(-1, 96), rtol=2**-10, atol=1e-2
    )


def test_stopping_keeps_finished_tracks(cache: MelCache, pool: InlinePool, tmp_path: Path) -> None:
    paths = tones(tmp_path, 4)
    first = fill(cache, paths, progress=StopAt(2))
    assert first.interrupted
    assert list(first.entries) == paths[:2]
    assert len(mel_files(cache)) == 2
    pool.jobs.clear()
    second = fill(cache, paths)
    assert not second.interrupted
    assert list(second.entries) == paths
    assert pool.names(Decode) == ["2.flac", "3.flac"]


def test_stopping_after_the_last_track_interrupts_nothing(cache: MelCache, pool: InlinePool, tmp_path: Path) -> None:
    paths = tones(tmp_path, 2)
    assert not fill(cache, paths, progress=StopAt(2)).interrupted
    assert not fill(cache, paths, progress=Stopped()).interrupted


def test_an_unfinished_track_is_dropped_with_the_run(cache: MelCache, pool: InlinePool, tmp_path: Path) -> None:
    paths = tones(tmp_path, 1, seconds=70)

    class Interrupted(Progress):
        @property
        def stopping(self) -> bool:  # type: ignore[override]
            if pool.jobs and mel_files(cache):
                raise KeyboardInterrupt
            return False

    with pytest.raises(KeyboardInterrupt):
        fill(cache, paths, progress=Interrupted())
    assert mel_files(cache) == []


@pytest.mark.parametrize("operation", ["open", "write", "fsync", "replace"])
def test_a_full_disk_is_named_and_leaves_nothing_broken(
    cache: MelCache, pool: InlinePool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    paths = tones(tmp_path, 2)
    first = fill(cache, paths[:1])
    files = mel_files(cache)

    def full(*arguments: object, **options: object) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        if operation == "fsync":
            patch.setattr(os, "fsync", full)
        elif operation == "replace":
            patch.setattr(Path, "replace", full)
        elif operation == "open":
            patch.setattr(Path, "mkdir", full)
        else:
            patch.setattr(MelWriter, "append", _through(full))
        with pytest.raises(MusictaggerError, match=r"/cache(/\w+)?: the disk is full; free some space\. .* again"):
            fill(cache, paths)
    assert mel_files(cache) == files
    assert list(fill(cache, paths).entries) == paths
    assert fill(cache, paths[:1]) == first


def _through(full: Callable[..., Any]) -> Callable[..., None]:
    """MelWriter.append over a file whose disk is full."""
    append = MelWriter.append

    def failing(writer: Any, mel: Any) -> None:
        class Full:
            write = staticmethod(full)
            close = staticmethod(writer._file.close)

        writer._file = Full
        append(writer, mel)

    return failing


def test_too_little_space_is_reported_before_the_start(
    cache: MelCache, pool: InlinePool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = tones(tmp_path, 2, seconds=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=180_000))
    recorder = Recorder()
    with pytest.raises(MusictaggerError, match=r"2 missing, about 0\.0 h and 0\.2 MB of 0\.2 MB free; free some space"):
        fill(cache, paths, progress=recorder)
    assert len(recorder.lines) == 1
    assert pool.jobs == []
    assert not cache.folder.exists()


def test_the_estimate_has_hours_and_bytes(cache: MelCache, pool: InlinePool, tmp_path: Path) -> None:
    paths = tones(tmp_path, 3, seconds=36)
    plan = cache.estimate(paths)
    assert (plan.cached, plan.tracks) == (0, 3)
    assert plan.hours == pytest.approx(0.03)
    assert plan.free_bytes > 1e6
    fill(cache, paths)
    assert plan.needed_bytes == pytest.approx(sum(file.stat().st_size for file in mel_files(cache)), rel=0.01)
    assert cache.estimate(paths).needed_bytes == 0


def test_the_estimate_reads_some_headers_then_labels(
    cache: MelCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = tones(tmp_path, 4, seconds=9)
    assert cache.estimate(paths, dict.fromkeys(paths, 360.0)).hours == pytest.approx(0.01)
    bad = tmp_path / "bad.flac"
    bad.write_bytes(b"fLaC")
    assert cache.estimate([bad, *paths], {bad: 324.0}).hours == pytest.approx(0.1)
    assert cache.estimate([bad, *paths]).hours == pytest.approx(0.0125)
    monkeypatch.setattr(cache_module, "HEADERS_READ", 2)
    asked: list[FoundFile] = []
    stated_s = cache_module._stated_s

    def ask(file: FoundFile) -> float | None:
        asked.append(file)
        return stated_s(file)

    monkeypatch.setattr(cache_module, "_stated_s", ask)
    assert cache.estimate(paths).hours == pytest.approx(0.01)
    assert [file.path for file in asked] == [paths[1], paths[3]]


def test_a_wrong_header_does_not_prevent_the_run(cache: MelCache, tmp_path: Path) -> None:
    path = write_tone(tmp_path / "a.wav", 3)
    head = bytearray(path.read_bytes())
    head[28:32] = (1).to_bytes(4, "little")  # one byte a second
    head[40:44] = (1 << 31).to_bytes(4, "little")
    path.write_bytes(head)
    (tmp_path / "b.mp3").write_bytes(b"ID3" + bytes(500))
    assert cache.estimate([path]).hours < 0.05
    assert cache.estimate([tmp_path / "b.mp3"]).hours > 0


def test_front_ends_share_equal_spectrograms(cache: MelCache, pool: InlinePool, tmp_path: Path) -> None:
    paths = tones(tmp_path, 1)
    fill(cache, paths)
    for later in ({"frame_hops": 60}, {"top_db": None}, {"reference": "max"}, {"standardise": True}, {"gain": 3.0}):
        assert spectrogram_key(replace(FRONT_END, **later)) == spectrogram_key(FRONT_END)
    assert spectrogram_key(replace(FRONT_END, f_max_hz=6_000)) == spectrogram_key(FRONT_END)
    others = [
        {"sample_rate_hz": 16_000}, {"n_fft": 1024}, {"hop_samples": 128}, {"n_mels": 128}, {"f_min_hz": 1.0},
        {"f_max_hz": 5_000.0}, {"mel_scale": "htk"}, {"mel_norm": None}, {"pad_mode": "reflect"},
        {"compression": "log1p"}, {"mel_exponent": 2}, {"amin": 1e-5},
    ]  # fmt: skip
    keys = {spectrogram_key(replace(FRONT_END, **other)) for other in others}  # type: ignore[arg-type]
    assert len(keys | {spectrogram_key(FRONT_END)}) == 13
    pool.jobs.clear()
    other = MelCache(cache.folder, replace(FRONT_END, n_mels=48))
    entry = fill(other, paths).entries[paths[0]]
    assert (pool.names(Inspect), pool.names(Decode)) == ([], ["0.flac"])
    assert other.mel(entry.digest).shape[1] == 48
    assert cache.mel(entry.digest).shape[1] == 96


def test_only_a_few_tracks_are_open_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert OPEN_FILES == 256
    monkeypatch.setattr(cache_module, "OPEN_FILES", 16)
    cache = MelCache(tmp_path, FRONT_END)
    digests = [f"{index:064x}" for index in range(40)]
    for digest in digests:
        writer = MelWriter(cache.folder, 96)
        writer.append(np.full((3, 96), int(digest[-2:], 16), np.float16))
        writer.finish(cache.folder / spectrogram_key(FRONT_END) / digest[:2] / f"{digest}.npy")
    with ThreadPoolExecutor(4) as threads:
        values = [float(mel[2, 95]) for mel in threads.map(cache.mel, digests)]
    assert values == [int(digest[-2:], 16) for digest in digests]
    assert cache._opened.cache_info().currsize == 16
    again = pickle.loads(pickle.dumps(cache))
    assert float(again.mel(digests[7])[0, 0]) == 7


def test_unfinished_files_of_a_killed_run_are_removed(cache: MelCache, pool: InlinePool, tmp_path: Path) -> None:
    paths = tones(tmp_path, 1)
    unfinished = cache.folder / spectrogram_key(FRONT_END) / "unfinished"
    unfinished.mkdir(parents=True)
    old, new = unfinished / "1-00000000.npy", unfinished / "2-00000000.npy"
    for file in (old, new):
        file.write_bytes(b"x")
    now_s = new.stat().st_mtime
    os.utime(old, (now_s, now_s - ABANDONED_S - 10))
    fill(cache, paths)
    assert (old.exists(), new.exists()) == (False, True)


def test_nothing_to_do_starts_no_worker(cache: MelCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(stream_module, "WorkerPool")
    assert fill(cache, []) == Filled({}, {}, False)


def test_digests_need_no_spectrogram_and_are_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / f"{number}.wav" for number in range(3)]
    write_tone(paths[0], 3.0)
    write_tone(paths[1], 4.0)
    shutil.copy(paths[0], paths[2])
    cache = MelCache(tmp_path / "cache", FRONT_END)
    pool = InlinePool()
    monkeypatch.setattr(stream_module, "WorkerPool", pool)
    found = cache.digests([*paths, tmp_path / "gone.wav"], decoding=Decoding(2), progress=SILENT)
    assert set(found) == set(paths) and found[paths[0]] == found[paths[2]] != found[paths[1]]
    assert {type(job) for job in pool.jobs} == {Inspect} and not list((tmp_path / "cache").rglob("*.npy"))
    pool.jobs.clear()
    assert cache.digests(paths, decoding=Decoding(2), progress=SILENT) == found and not pool.jobs
