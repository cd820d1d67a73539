"""Windows of an epoch: equally many from each track, read at their offsets, short tracks repeated."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from training_material import FRONT_END

from musictagger.training.windows import (
    Material,
    ReadMel,
    Target,
    Track,
    WindowLoader,
    plan_epoch,
    steps_per_epoch,
    window,
)

COLUMNS = FRONT_END.columns
MELS = {
    name: (np.arange(columns * 12).reshape(columns, 12) % 1009).astype(np.float16)
    for name, columns in (("long", 4 * COLUMNS), ("exact", COLUMNS), ("short", 9))
}
TRACKS = [Track(Path(name), name, len(mel)) for name, mel in MELS.items()]


def _loader(excerpts: list[tuple[str, float, float]] | None = None, rank: int = 0, world: int = 1) -> WindowLoader:
    def target(track: Track, start_s: float, length_s: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        if excerpts is not None:
            excerpts.append((track.digest, start_s, length_s))
        return np.array([start_s], np.float32)

    return WindowLoader(_material(MELS.__getitem__, target), rank, world)


def _material(read_mel: ReadMel, target: Target) -> Material:
    return Material("tags", ("a",), FRONT_END, TRACKS, [], read_mel, target, np.zeros((0, 1), np.bool_))


@pytest.mark.parametrize(("windows", "batch", "steps"), [(100, 32, 3), (112, 32, 4), (5, 32, 1), (64, 32, 2)])
def test_steps_have_almost_equal_sizes(windows: int, batch: int, steps: int) -> None:
    assert steps_per_epoch(windows, batch) == steps
    plan = plan_epoch(5, windows, batch, 0, 0)
    parts = [plan.step(step) for step in range(steps)]
    sizes = [part.stop - part.start for part in parts]
    assert sum(sizes) == windows and max(sizes) - min(sizes) <= 1
    assert [part.start for part in parts[1:]] == [part.stop for part in parts[:-1]]


def test_every_epoch_takes_equally_many_windows_from_each_track_in_its_own_order() -> None:
    first, again, other = (plan_epoch(7, 21, 4, 3, epoch) for epoch in (0, 0, 1))
    assert set(Counter(first.track.tolist()).values()) == {3}
    assert first.track.tolist() == again.track.tolist() != other.track.tolist()
    assert first.offset.tolist() == again.offset.tolist() != other.offset.tolist()


def test_window_has_the_right_columns() -> None:
    np.testing.assert_array_equal(window(MELS["long"], 5, 20), MELS["long"][5:25].T.astype(np.float32))
    np.testing.assert_array_equal(
        window(MELS["short"], 0, 20), np.concatenate([MELS["short"]] * 3)[:20].T.astype(np.float32)
    )


def test_windows_cover_a_track_and_targets_belong_to_their_offset() -> None:
    excerpts: list[tuple[str, float, float]] = []
    loader = _loader(excerpts)
    column_s = FRONT_END.hop_samples / FRONT_END.sample_rate_hz
    starts = set()
    for epoch in range(60):
        plan = plan_epoch(3, 30, 30, 0, epoch)
        batch = loader.batch(plan, 0)
        for row, track in enumerate(batch.tracks):
            digest, start_s, length_s = excerpts.pop(0)
            start = round(start_s / column_s)
            assert digest == track.digest and length_s == FRONT_END.frame_s
            np.testing.assert_array_equal(batch.mel[row].numpy(), window(MELS[digest], start, COLUMNS))
            assert batch.target[row].item() == pytest.approx(start_s)
            starts.add((digest, start))
    assert {start for digest, start in starts if digest != "long"} == {0}
    assert {start for digest, start in starts if digest == "long"} == set(range(3 * COLUMNS + 1))


def test_processes_share_a_step() -> None:
    plan = plan_epoch(3, 21, 7, 0, 0)
    for step in range(plan.steps):
        whole = _loader().batch(plan, step)
        parts = [_loader(rank=rank, world=3).batch(plan, step) for rank in range(3)]
        np.testing.assert_array_equal(whole.mel, np.concatenate([part.mel for part in parts]))
        assert [part.rows.start for part in parts] == [0, 2, 4] and {part.windows for part in parts} == {7}


def test_an_epoch_can_start_at_any_step() -> None:
    plan = plan_epoch(3, 30, 6, 0, 0)
    whole, rest = list(_loader().epoch(plan)), list(_loader().epoch(plan, 3))
    assert len(whole) == 5
    for one, other in zip(whole[3:], rest, strict=True):
        np.testing.assert_array_equal(one.mel, other.mel)


def test_frames_are_adjacent_or_evenly_spaced() -> None:
    hops = FRONT_END.frame_hops
    material = _material(MELS.__getitem__, lambda *excerpt: np.zeros(1, np.float32))
    found = dict(material.spaced_frames(TRACKS, 100))
    assert [len(found[number]) for number in range(3)] == [4, 1, 1]
    for number, frame in enumerate(found[0]):
        np.testing.assert_array_equal(frame, window(MELS["long"], number * hops, COLUMNS))
    some = dict(material.spaced_frames(TRACKS, 2))
    for number, frame in zip((0, 3), some[0], strict=True):
        np.testing.assert_array_equal(frame, window(MELS["long"], number * hops, COLUMNS))


def test_errors_of_the_prefetching_thread_are_raised() -> None:
    plan = plan_epoch(3, 30, 6, 0, 0)
    readable = iter(range(6))

    def read_mel(digest: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float16]]:
        if next(readable, None) is None:
            raise OSError("gone")
        return MELS[digest]

    loader = WindowLoader(_material(read_mel, lambda *excerpt: np.zeros(1, np.float32)), 0, 1)
    batches = loader.epoch(plan)
    assert len(next(batches).tracks) == 6
    with pytest.raises(OSError, match="gone"):
        next(batches)
