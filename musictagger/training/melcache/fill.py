"""Fills the mel cache: whole tracks from the decode workers, block by block, to mel files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from musictagger.audio.decode import MIN_TRACK_S, Decoded
from musictagger.audio.frames import FrameRule, Wave
from musictagger.audio.logmel import LogMel
from musictagger.pipeline.pool import Decoding
from musictagger.pipeline.stream import Event, Known, SourceFile, stream
from musictagger.pipeline.worker import Failed, Finished, Frame, Inspected
from musictagger.progress import Progress
from musictagger.training.melcache.files import MelColumns, MelFolder, MelWriter, track_file
from musictagger.training.melcache.index import FileIndex

BLOCK_S = 30
"""Length of the blocks that workers send: about a frame of a scan, and a typical clip of a dataset."""


def whole_track(rate_hz: int) -> FrameRule:
    """Return the rule whose frames, in order, are the whole track in blocks, the last one shorter."""
    return FrameRule(BLOCK_S * rate_hz, tail=True)


class SpectrogramStream:
    """`LogMel.spectrogram` of a wave that comes in blocks. It holds one block and one window.

    The results of `push` and `finish` in order are the spectrogram of the whole wave.
    """

    def __init__(self, logmel: LogMel) -> None:
        front_end = logmel.front_end
        self._logmel = logmel
        self._hop = front_end.hop_samples
        self._half = (front_end.n_fft + 1) // 2
        # A hop more than half a window: at the end, the padding may reflect samples from before.
        self._before_hops = -(-self._half // self._hop) + 1
        self._held = np.zeros(0, np.float32)
        self._held_hops = 0
        self._columns = 0

    def push(self, block: Wave) -> MelColumns:
        """Take a block, float32 [samples]; return the columns that it completes, float16 [columns, n_mels]."""
        self._held = np.concatenate([self._held, block])
        # A column is complete when its whole window has been seen.
        complete = self._held_hops + (len(self._held) - self._half) // self._hop + 1
        if complete <= self._columns or len(self._held) <= self._half:
            return np.zeros((0, self._logmel.front_end.n_mels), np.float16)
        return self._until(complete)

    def finish(self) -> MelColumns:
        """Return the remaining columns, float16 [columns, n_mels]."""
        return self._until(None)

    def _until(self, complete: int | None) -> MelColumns:
        with torch.inference_mode():
            mel = self._logmel.spectrogram(torch.from_numpy(self._held)[None])[0].T.half().contiguous().numpy()
        fresh: MelColumns = mel[
            self._columns - self._held_hops : None if complete is None else complete - self._held_hops
        ]
        self._columns += len(fresh)
        begin_hops = max(0, self._columns - self._before_hops)
        self._held = self._held[(begin_hops - self._held_hops) * self._hop :].copy()
        self._held_hops = begin_hops
        return fresh


def fill_mels(
    sources: Sequence[SourceFile],
    mels: MelFolder,
    logmel: LogMel,
    index: FileIndex,
    *,
    decoding: Decoding,
    progress: Progress,
) -> tuple[dict[Path, str], dict[Path, str]]:
    """Write the mel files of `sources`; digests found on the way go into `index`.

    Returns the digests of the files whose tracks are cached, and why the others cannot be used. Ends early once
    `progress.stopping`, dropping unfinished tracks.
    """
    if sources:
        progress.start("mel cache", len(sources), "tracks")
    rate_hz = logmel.front_end.sample_rate_hz
    filling = _Filling(mels, logmel, index)
    done, cached_s = 0, 0.0
    with (
        _fewer_threads(min(decoding.workers, len(sources))),
        stream(
            sources,
            rate_hz=rate_hz,
            rule=whole_track(rate_hz),
            decoding=decoding,
            progress=progress,
            known=lambda digest: mels.columns(digest) is not None,
        ) as events,
        contextlib.closing(filling),
    ):
        for event in events:
            if progress.stopping:
                break
            filling.take(event)
            if not isinstance(event, Inspected | Frame):
                done += 1
                cached_s += event.decoded.duration_s if isinstance(event, Finished) else 0.0
                progress.advance(done, audio_s=cached_s)
    return filling.digests, filling.failures


class _Filling:
    def __init__(self, mels: MelFolder, logmel: LogMel, index: FileIndex) -> None:
        self._mels, self._logmel, self._index = mels, logmel, index
        self._tracks: dict[Path, tuple[SpectrogramStream, MelWriter]] = {}
        """Tracks begun."""
        self._unusable: dict[str, str] = {}
        """Reasons by digest."""
        self.digests: dict[Path, str] = {}
        self.failures: dict[Path, str] = {}

    def take(self, event: Event) -> None:
        path = event.file.path
        match event:
            case Inspected():
                self._index.record(event.file, event.digest)
            case Frame():
                if event.index == 0:
                    self._drop(path)
                    writer = MelWriter(self._mels.folder, self._mels.n_mels)
                    self._tracks[path] = SpectrogramStream(self._logmel), writer
                spectrogram, writer = self._tracks[path]
                writer.append(spectrogram.push(event.wave))
            case Failed():
                self._drop(path)
                self.failures[path] = event.reason
            case Finished() | Known():
                if isinstance(event, Finished):
                    self._finish(event)
                if reason := self._unusable.get(event.digest):
                    self.failures[path] = reason
                else:
                    self.digests[path] = event.digest

    def close(self) -> None:
        """Remove the files of unfinished tracks."""
        for path in list(self._tracks):
            self._drop(path)

    def _finish(self, event: Finished) -> None:
        path, digest = event.file.path, event.digest
        reason = _unusable(event.decoded)
        if not reason:
            spectrogram, writer = self._tracks[path]
            writer.append(spectrogram.finish())
            if writer.finite:
                writer.finish(track_file(self._mels.folder, digest))
            else:
                reason = "its spectrogram is not finite; are its samples absurdly large?"
        if reason:
            self._unusable[digest] = reason
        self._drop(path)

    def _drop(self, path: Path) -> None:
        if path in self._tracks:
            _, writer = self._tracks.pop(path)
            writer.discard()


@contextlib.contextmanager
def _fewer_threads(workers: int) -> Iterator[None]:
    """Leave the workers' cores to them: with both of two cores busy, 7 ms a block became 110."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads - workers))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _unusable(decoded: Decoded) -> str:
    """Return why a track cannot be used, "" when it can."""
    if decoded.status == "too short":
        return f"too short: {decoded.duration_s:.1f} s, at least {MIN_TRACK_S:g} s are needed"
    return "" if decoded.status == "ok" else decoded.status
