"""The mel cache: it holds what LogMel hears, is made once, and survives whatever disks and files do to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import write_tone

from musictagger.audio.decode import decode_frames
from musictagger.audio.frames import FrameRule
from musictagger.audio.frontend import FrontEnd
from musictagger.audio.logmel import LogMel
from musictagger.training.melcache import Filled, MelCache
from musictagger.training.melfill import LevelStream

FRONT_END = FrontEnd()
NEVER = 1 << 40


class Told:
    """What the cache says of its progress."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.total = 0
        self.done: list[int] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def start(self, what: str, total: int, unit: str) -> None:
        self.total = total

    def advance(self, done: int, **figures: float) -> None:
        self.done.append(done)

    def epoch(self, record: Mapping[str, Any]) -> None:
        raise AssertionError(record)


def fill(cache: MelCache, paths: Sequence[Path], **options: Any) -> Filled:
    settings: dict[str, Any] = {"workers": 1, "timeout_s": 30, "progress": Told()} | options
    return cache.fill(paths, **settings)


def whole_level(path: Path, front_end: FrontEnd = FRONT_END) -> Any:
    """`level` of the whole track at once, float32 [columns, n_mels]."""
    rule = FrameRule(NEVER, tail=True)
    ((_, wave),) = decode_frames(path, front_end.sample_rate_hz, rule)
    with torch.inference_mode():
        return LogMel(front_end).level(torch.from_numpy(wave)[None])[0].T.numpy()


def test_a_track_is_what_logmel_hears(tmp_path: Path) -> None:
    path = write_tone(tmp_path / "a.flac", 70, rate_hz=22_050)
    cache = MelCache(tmp_path / "cache", FRONT_END)
    filled = fill(cache, [path])
    entry = filled.entries[path]
    mel = cache.mel(entry.digest)
    expected = whole_level(path)
    assert mel.dtype == np.float16
    assert mel.shape == expected.shape == (entry.columns, 96)
    assert not mel.flags.writeable
    assert (filled.failures, filled.interrupted) == ({}, False)
    assert entry.duration_s == pytest.approx(70, abs=0.03)
    np.testing.assert_allclose(mel, expected, rtol=2**-10, atol=1e-3)


@pytest.mark.parametrize("pad_mode", ["constant", "reflect"])
@pytest.mark.parametrize(("n_fft", "hop"), [(512, 256), (512, 200), (400, 512), (513, 100)])
def test_blocks_give_what_the_whole_wave_gives(pad_mode: Any, n_fft: int, hop: int) -> None:
    front_end = replace(FRONT_END, n_fft=n_fft, hop_samples=hop, pad_mode=pad_mode)
    random = np.random.default_rng(0)
    logmel = LogMel(front_end)
    for total in (12_000, 12_031, 20_480):
        wave = random.normal(0, 0.1, total).astype(np.float32)
        expected = logmel.level(torch.from_numpy(wave)[None])[0].T.numpy()
        for size in (1, 257, 3_000, total):
            stream = LevelStream(logmel)
            blocks = np.split(wave, range(size, total, size)) if size > 1 else [wave[:1], wave[1:]]
            got = np.concatenate([*(stream.push(block) for block in blocks), stream.finish()])
            assert got.shape == expected.shape
            np.testing.assert_allclose(got, expected, rtol=2**-10, atol=1e-2)
