"""Path to frames: two decoders behind one face, streamed in blocks, mixed to mono, resampled and sliced.

libsndfile (through soundfile) is tried first, FFmpeg (through PyAV, which bundles it) takes what that refuses:
m4a, ALAC, wma, an ID3 tag in front of Ogg, a damaged stream. Peak memory is a few frames, whatever a track's length.
This module runs in worker processes and must not import torch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np
import numpy.typing as npt
import soundfile
import soxr
from av.audio.stream import AudioStream
from mutagen import MutagenError
from mutagen.mp3 import MP3, BitrateMode

from musictagger.audio.frames import FrameRule, Slicer, Status, Wave, frame_starts
from musictagger.errors import AudioError

BLOCK_SAMPLES = 1 << 16
"""Samples read at a time: 1.5 s at 44.1 kHz, small against one frame."""

SHORTEST_S = 1.0
"""Below this a track holds no evidence: it is recorded as too short."""

SILENT_PEAK = 1e-4
"""-80 dB full scale: above the dither of 16-bit silence (3e-5), below any music."""

SEEK_MARGIN_S = 0.25
"""Read before and after a sought frame, so that the resampler's filter and a codec's overlap have settled."""

MISSING_SHARE, MISSING_S = 0.05, 2.0
"""A file is truncated when it holds this share and this many seconds less than its header promises; headers of
whole files are off by an encoder's delay and padding, under 0.1 s."""

BAD_PACKETS_SHARE = 0.05
"""Damaged packets beyond this share make a file broken; FFmpeg's own players skip single ones silently too."""

_ESTIMATED = frozenset({"mp3", "aac", "ac3", "loas"})
"""FFmpeg formats without a length in the header: it is guessed from the bit rate."""


@dataclass(frozen=True)
class Decoded:
    """What is known of a track once its frames are out."""

    duration_s: float
    frames: int
    padded: bool
    status: Status


class AudioReader(Protocol):
    """An open file of one decoder."""

    rate_hz: int
    promised_samples: int | None
    """Length at `rate_hz` that the header states, None where there is no trustworthy statement."""

    def blocks(self, start_sample: int = 0) -> Iterator[Wave]:
        """Mono float32 blocks from `start_sample` at `rate_hz` to the end. Raises `BrokenAudio`."""
        ...


class BrokenAudio(Exception):  # noqa: N818 - an internal signal; what leaves this module is an AudioError
    """One decoder's refusal, with its reason."""


class Truncated(BrokenAudio):
    """The file holds less than its header promises; the next decoder is held to the same promise."""

    def __init__(self, duration_s: float, promised_s: float) -> None:
        super().__init__(f"truncated: ends after {duration_s:.1f} s of {promised_s:.1f} s")
        self.promised_s = promised_s


def decode_frames(
    path: Path, rate_hz: int, rule: FrameRule, beat: Callable[[], None] = lambda: None
) -> Generator[tuple[int, Wave], None, Decoded]:
    """Yield `(index, frame)`, frame float32 [rule.frame_samples] mono at `rate_hz`; return a `Decoded`.

    An index of 0 starts the track over: the first decoder broke and the second began again from the start.
    `beat` is called for every block read, so that a watchdog can tell slow from hung.

    Raises AudioError with both decoders' reasons when neither gets through.
    """
    reasons: dict[str, None] = {}
    promised_s = 0.0
    for opener in _openers(path):
        try:
            with opener(path) as reader:
                return (yield from _frames_of(reader, rate_hz, rule, promised_s, beat))
        except BrokenAudio as refusal:
            reasons[str(refusal)] = None
            promised_s = getattr(refusal, "promised_s", promised_s)
    raise AudioError(path, "; ".join(reasons))


def _openers(path: Path) -> list[Any]:
    """Both decoders in the order to try them."""
    return [open_ffmpeg, open_soundfile] if _mp3_of_unknown_length(path) else [open_soundfile, open_ffmpeg]


def _mp3_of_unknown_length(path: Path) -> bool:
    """Whether this is an MP3 without a Xing, Info or VBRI header.

    libsndfile guesses its length from the first frame's bit rate and stops there: of a 60 s VBR file whose start
    is quiet, 14 s were read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(3)
        mpeg = head == b"ID3" or (len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0)
        return mpeg and MP3(path).info.bitrate_mode == BitrateMode.UNKNOWN
    except (MutagenError, OSError):
        return False


def _frames_of(
    reader: AudioReader, rate_hz: int, rule: FrameRule, promised_s: float, beat: Callable[[], None]
) -> Generator[tuple[int, Wave], None, Decoded]:
    if reader.promised_samples is not None:
        promised_s = max(promised_s, reader.promised_samples / reader.rate_hz)
    if rule.most is not None:
        total = _length(reader, beat) * rate_hz // reader.rate_hz
        starts = frame_starts(total, rule)
        if len(starts) < len(frame_starts(total, FrameRule(rule.frame_samples, rule.edge_samples))):
            _check_whole(total / rate_hz, promised_s)
            return (yield from _sought(reader, rate_hz, rule.frame_samples, starts, total, beat))
    return (yield from _streamed(reader, rate_hz, rule, promised_s, beat))


def _streamed(
    reader: AudioReader, rate_hz: int, rule: FrameRule, promised_s: float, beat: Callable[[], None]
) -> Generator[tuple[int, Wave], None, Decoded]:
    slicer = Slicer(rule)
    index = 0
    for block in _resampled(reader, 0, rate_hz, beat):
        for frame in slicer.push(block):
            yield index, frame
            index += 1
    duration_s = slicer.total_samples / rate_hz
    _check_whole(duration_s, promised_s)
    if duration_s < SHORTEST_S:
        return Decoded(duration_s, 0, False, "too short")
    if slicer.peak < SILENT_PEAK:
        return Decoded(duration_s, 0, False, "silent")
    for frame in slicer.finish():
        yield index, frame
        index += 1
    return Decoded(duration_s, index, slicer.padded, "ok")


def _sought(
    reader: AudioReader, rate_hz: int, frame_samples: int, starts: list[int], total: int, beat: Callable[[], None]
) -> Generator[tuple[int, Wave], None, Decoded]:
    peak = 0.0
    for index, start in enumerate(starts):
        frame = _frame_at(reader, start, frame_samples, rate_hz, beat)
        if len(frame) < frame_samples:
            raise Truncated((start + len(frame)) / rate_hz, total / rate_hz)
        peak = max(peak, float(np.max(np.abs(frame))))
        yield index, frame
    status: Status = "ok" if peak >= SILENT_PEAK else "silent"
    return Decoded(total / rate_hz, len(starts) if status == "ok" else 0, False, status)


def _frame_at(reader: AudioReader, start: int, samples: int, rate_hz: int, beat: Callable[[], None]) -> Wave:
    """One frame from `start` on, both counted at `rate_hz`; shorter where the file ends before its header says."""
    margin = min(start, round(SEEK_MARGIN_S * rate_hz))
    # Rounding to the source's rate moves a frame by less than one of its samples.
    source_start = (start - margin) * reader.rate_hz // rate_hz
    wanted = margin + samples
    got = [np.zeros(0, np.float32)]
    for block in _resampled(reader, source_start, rate_hz, beat):
        got.append(block)
        wanted -= len(block)
        if wanted <= 0:
            break
    return np.concatenate(got)[margin : margin + samples]


def _length(reader: AudioReader, beat: Callable[[], None]) -> int:
    """The file's length in its own samples: promised by the header or, failing that, counted."""
    if reader.promised_samples is not None:
        return reader.promised_samples
    total = 0
    for block in reader.blocks():
        beat()
        total += len(block)
    return total


def _check_whole(duration_s: float, promised_s: float) -> None:
    missing_s = promised_s - duration_s
    if missing_s > MISSING_S and missing_s > MISSING_SHARE * promised_s:
        raise Truncated(duration_s, promised_s)


def _resampled(reader: AudioReader, start: int, rate_hz: int, beat: Callable[[], None]) -> Iterator[Wave]:
    """Blocks at `rate_hz` from `start` (counted at the reader's rate) on, with no NaN and no infinity."""
    stream = None
    if reader.rate_hz != rate_hz:
        stream = soxr.ResampleStream(reader.rate_hz, rate_hz, 1, dtype="float32", quality="HQ")
    for block in reader.blocks(start):
        beat()
        finite = np.nan_to_num(block, nan=0.0, posinf=0.0, neginf=0.0)
        yield stream.resample_chunk(finite) if stream else finite
    if stream:
        yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


@contextmanager
def open_soundfile(path: Path) -> Iterator[AudioReader]:
    """libsndfile's view of a file: wav, flac, ogg, opus, mp3, aiff."""
    try:
        # As bytes: soundfile encodes text strictly and would refuse an undecodable name.
        with soundfile.SoundFile(os.fsencode(path) if os.name == "posix" else str(path)) as file:
            yield _SoundFileReader(file, _wav_share(path))
    except (soundfile.SoundFileError, OSError) as error:
        raise BrokenAudio(_sndfile_reason(error)) from error


def _sndfile_reason(error: Exception) -> str:
    text = str(getattr(error, "error_string", None) or getattr(error, "strerror", None) or error).strip().rstrip(".")
    # What libsndfile says of an .mp3 in which it finds no MPEG frame, though the file does exist.
    return f"libsndfile: {'format not recognised' if 'does not exist' in text else text}"


def _wav_share(path: Path) -> float:
    """The share of the samples promised by a WAV file's header that the file is long enough to hold; 1 elsewhere.

    Both decoders silently believe the length of the file instead.
    """
    with path.open("rb") as file:
        if file.read(4) != b"RIFF":
            return 1.0
        file.seek(12)
        while len(head := file.read(8)) == 8:
            stated = int.from_bytes(head[4:], "little")
            if head[:4] == b"data":
                there = path.stat().st_size - file.tell()
                # A writer that could not go back to state the length leaves all ones or nothing.
                return min(1.0, there / stated) if 0 < stated < 0xFFFFFFFF else 1.0
            file.seek(stated + stated % 2, os.SEEK_CUR)
    return 1.0


class _SoundFileReader:
    def __init__(self, file: soundfile.SoundFile, share: float) -> None:
        self._file = file
        self.rate_hz = file.samplerate
        # A stream whose length was never written states a nearly infinite one.
        self.promised_samples = round(file.frames / share) if share and file.frames < 1 << 62 else None

    def blocks(self, start_sample: int = 0) -> Iterator[Wave]:
        if self._file.tell() != start_sample:
            self._file.seek(start_sample)
        while True:
            block = self._file.read(BLOCK_SAMPLES, dtype="float32", always_2d=True)
            if not len(block):
                return
            yield block.mean(axis=1, dtype=np.float32)


@contextmanager
def open_ffmpeg(path: Path) -> Iterator[AudioReader]:
    """FFmpeg's view of a file: its first audio stream."""
    try:
        # Through Python's own file: PyAV encodes names strictly and would refuse an undecodable one.
        with path.open("rb") as file, av.open(file, mode="r", metadata_errors="ignore") as container:
            if not container.streams.audio:
                raise BrokenAudio("no audio in it")
            yield _FFmpegReader(container, container.streams.audio[0])
    except (av.error.FFmpegError, OSError, ValueError, EOFError) as error:
        raise BrokenAudio(f"FFmpeg: {getattr(error, 'strerror', None) or error}") from error


class _FFmpegReader:
    def __init__(self, container: av.container.InputContainer, stream: AudioStream) -> None:
        self._container = container
        self._stream = stream
        self._fresh = True
        self.rate_hz = stream.rate
        if not self.rate_hz:
            raise BrokenAudio("FFmpeg: states no sample rate")
        self.promised_samples = None
        if stream.duration and stream.time_base and container.format.name not in _ESTIMATED:
            self.promised_samples = round(stream.duration * stream.time_base * self.rate_hz)

    def blocks(self, start_sample: int = 0) -> Iterator[Wave]:
        if not self._fresh or start_sample:
            self._container.seek(int(start_sample / self.rate_hz * av.time_base))
        self._fresh = False
        # Seeking lands on a packet before the place asked for; what comes too early is cut off here.
        skip: int | None = None if start_sample else 0
        for frame in self._decoded():
            if frame.sample_rate != self.rate_hz:
                raise BrokenAudio(f"FFmpeg: the sample rate changes from {self.rate_hz} to {frame.sample_rate} Hz")
            wave = mono(frame)
            if skip is None:
                skip = max(0, start_sample - self._position(frame))
            if skip < len(wave):
                yield wave[skip:]
            skip = max(0, skip - len(wave))

    def _position(self, frame: av.AudioFrame) -> int:
        if frame.pts is None or frame.time_base is None:
            raise BrokenAudio("FFmpeg: has no time stamps to seek by; scan without --frames")
        return round((frame.pts - (self._stream.start_time or 0)) * frame.time_base * self.rate_hz)

    def _decoded(self) -> Iterator[av.AudioFrame]:
        packets = bad = 0
        last_reason = ""
        for packet in self._container.demux(self._stream):
            packets += 1
            try:
                yield from packet.decode()
            except av.error.InvalidDataError as error:
                bad += 1
                last_reason = str(error.strerror)
        if bad > max(1, BAD_PACKETS_SHARE * packets):
            raise BrokenAudio(f"FFmpeg: {bad} of {packets} packets are damaged ({last_reason})")


def mono(frame: av.AudioFrame) -> Wave:
    """The channels of a decoded frame averaged: float32 [samples], integers scaled to -1..1."""
    samples: npt.NDArray[Any] = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, len(frame.layout.channels)).T
    mixed: Wave = samples.mean(axis=0, dtype=np.float32)
    if samples.dtype.kind == "f":
        return mixed
    half_range = np.float32(1 << (8 * samples.dtype.itemsize - 1))
    return mixed / half_range - np.float32(samples.dtype.kind == "u")
