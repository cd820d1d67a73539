"""The slicing rule: edge cases by hand, properties for every length and every division into blocks."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from musictagger.audio.frames import FrameRule, Slicer, Wave, evenly, frame_starts

FRAME, EDGE = 100, 30
PLAIN, TRIMMED = FrameRule(FRAME), FrameRule(FRAME, EDGE)

rules = st.builds(FrameRule, st.integers(1, 40), st.integers(0, 30))
lengths = st.integers(0, 400)


@st.composite
def partitions(draw: st.DrawFn) -> list[Wave]:
    """A track of distinct samples, cut into blocks anywhere, empty ones included."""
    total = draw(lengths)
    cuts = sorted(draw(st.lists(st.integers(0, total), max_size=12)))
    return np.split(np.arange(1, total + 1, dtype=np.float32), cuts)


@pytest.mark.parametrize(
    ("total", "starts"),
    [
        (0, []), (1, []), (99, []), (100, [0]), (101, [0]), (150, [0]), (199, [0]), (200, [0, 100]), (250, [0, 100]),
    ],
)  # fmt: skip
def test_frames_are_adjacent_and_the_last_partial_one_is_dropped(total: int, starts: list[int]) -> None:
    assert frame_starts(total, PLAIN) == starts


@pytest.mark.parametrize(
    ("total", "starts"),
    [
        (0, []), (1, []), (99, []),
        # Too short to lose its edges: whole, as far as frames fit.
        (100, [0]), (150, [0]), (159, [0]),
        (160, [30]), (161, [30]), (259, [30]), (260, [30, 130]),
    ],
)  # fmt: skip
def test_edges_are_trimmed_only_when_a_whole_frame_remains(total: int, starts: list[int]) -> None:
    assert frame_starts(total, TRIMMED) == starts


def test_a_wide_edge_keeps_every_frame_of_a_track_too_short_for_it() -> None:
    assert frame_starts(299, FrameRule(100, 100)) == [0, 100]
    assert frame_starts(300, FrameRule(100, 100)) == [100]


@given(lengths, rules)
def test_frames_of_any_track_are_within_it_and_do_not_overlap(total: int, rule: FrameRule) -> None:
    starts = frame_starts(total, rule)
    assert all(after - before == rule.frame_samples for before, after in pairwise(starts))
    assert bool(starts) == (total >= rule.frame_samples)
    if starts:
        edge = rule.edge_samples if total >= rule.frame_samples + 2 * rule.edge_samples else 0
        assert starts[0] == edge
        behind = total - (starts[-1] + rule.frame_samples)
        assert edge <= behind < edge + rule.frame_samples


@given(partitions(), rules)
def test_the_division_into_blocks_does_not_change_the_frames(blocks: list[Wave], rule: FrameRule) -> None:
    wave = np.concatenate(blocks)
    expected = [wave[start : start + rule.frame_samples] for start in frame_starts(len(wave), rule)]
    if 0 < len(wave) < rule.frame_samples:
        expected = [np.resize(wave, rule.frame_samples)]
    got = sliced(blocks, rule)
    assert len(got) == len(expected)
    assert all(np.array_equal(one, other) for one, other in zip(got, expected, strict=True))


@given(partitions(), rules)
def test_a_stream_reports_its_length_peak_and_padding(blocks: list[Wave], rule: FrameRule) -> None:
    slicer = Slicer(rule)
    for block in blocks:
        list(slicer.push(block))
    list(slicer.finish())
    total = sum(map(len, blocks))
    assert (slicer.total_samples, slicer.peak) == (total, float(total))
    assert slicer.padded == (0 < total < rule.frame_samples)


@given(partitions(), rules)
def test_memory_is_bounded(blocks: list[Wave], rule: FrameRule) -> None:
    slicer = Slicer(rule)
    limit = rule.frame_samples + 2 * rule.edge_samples + max(map(len, blocks))
    for block in blocks:
        for _ in slicer.push(block):
            assert held(slicer) <= limit
        assert held(slicer) <= limit


def sliced(blocks: list[Wave], rule: FrameRule) -> list[Wave]:
    slicer = Slicer(rule)
    frames = [frame for block in blocks for frame in slicer.push(block)]
    return frames + list(slicer.finish())


def held(slicer: Slicer) -> int:
    return sum(map(len, slicer._held))


def test_held_samples_keep_no_larger_array_alive() -> None:
    slicer = Slicer(FrameRule(FRAME))
    assert len(list(slicer.push(np.ones(10 * FRAME + 1, np.float32)))) == 10
    assert [(len(held), held.base) for held in slicer._held] == [(1, None)]


def test_a_frame_does_not_change_after_it_was_returned() -> None:
    slicer = Slicer(FrameRule(2))
    block = np.arange(6, dtype=np.float32)
    frames = list(slicer.push(block))
    assert [frame.tolist() for frame in frames] == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize(("total", "padded", "frames"), [(0, False, 0), (1, True, 1), (99, True, 1), (100, False, 1)])
def test_a_short_track_is_repeated_to_fill_one_frame(total: int, padded: bool, frames: int) -> None:
    slicer = Slicer(TRIMMED)
    wave = np.linspace(0, 1, total, dtype=np.float32)
    got = [*slicer.push(wave), *slicer.finish()]
    assert (slicer.padded, len(got)) == (padded, frames)
    for frame in got:
        assert frame.shape == (FRAME,)
        assert np.array_equal(frame, np.tile(wave, FRAME)[:FRAME])


def test_an_empty_track_has_no_frames() -> None:
    assert sliced([], PLAIN) == []
    assert sliced([np.zeros(0, np.float32)] * 3, PLAIN) == []


@given(st.integers(0, 300), st.integers(1, 40))
def test_evenly_takes_distinct_items_in_order_at_even_distances(count: int, limit: int) -> None:
    taken = evenly(list(range(count)), limit)
    assert len(taken) == min(count, limit)
    gaps = [after - before for before, after in pairwise(taken)]
    assert all(gap > 0 for gap in gaps)
    assert max(gaps, default=0) - min(gaps, default=0) <= 1
    if taken and count > limit:
        # As much is left out before the first as after the last, except for rounding.
        assert abs(taken[0] - (count - 1 - taken[-1])) <= 1


@pytest.mark.parametrize(
    ("count", "limit", "taken"), [(9, 1, [4]), (1, 1, [0]), (9, 3, [1, 4, 7]), (4, 2, [1, 3]), (3, 5, [0, 1, 2])]
)
def test_evenly_by_hand(count: int, limit: int, taken: list[int]) -> None:
    assert evenly(list(range(count)), limit) == taken


def test_max_frames_limits_the_frames_of_a_track() -> None:
    assert frame_starts(1000, FrameRule(FRAME, EDGE, max_frames=1)) == [430]
    assert frame_starts(1000, FrameRule(FRAME, EDGE, max_frames=3)) == [130, 430, 730]
    assert frame_starts(1000, FrameRule(FRAME, EDGE, max_frames=99)) == frame_starts(1000, TRIMMED)


@pytest.mark.parametrize("values", [(0,), (-1,), (1, -1), (1, 0, 0), (1, 0, -3)])
def test_an_impossible_rule_is_refused(values: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="impossible frame rule"):
        FrameRule(*values)


@given(partitions(), st.integers(1, 40))
def test_a_rule_with_a_tail_gives_the_whole_track(blocks: list[Wave], frame_samples: int) -> None:
    slicer = Slicer(FrameRule(frame_samples, tail=True))
    frames = [frame for block in blocks for frame in slicer.push(block)] + list(slicer.finish())
    total = sum(map(len, blocks))
    assert [*map(len, frames)] == [min(frame_samples, total - start) for start in range(0, total, frame_samples)]
    assert not slicer.padded
    if frames:
        np.testing.assert_array_equal(np.concatenate(frames), np.arange(1, total + 1))


@pytest.mark.parametrize("other", [{"edge_samples": 1}, {"max_frames": 1}])
def test_a_tail_excludes_edges_and_max_frames(other: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="whole track"):
        FrameRule(10, tail=True, **other)
