"""File to frames: two decoders behind one interface, streamed in blocks, mixed to mono, resampled and sliced.

libsndfile (through soundfile) is tried first; FFmpeg (through PyAV, which bundles it) decodes what libsndfile cannot:
m4a, ALAC, wma, an ID3 tag in front of Ogg, a damaged stream. Peak memory is a few frames, regardless of the length of a
track. This module runs in worker processes and must not import torch.
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

MIN_TRACK_S = 1.0
"""A shorter track is recorded as too short, without scores."""

SILENT_PEAK = 1e-4
"""-80 dB relative to full scale: above the dither of 16-bit silence (3e-5), below any music."""

SEEK_MARGIN_S = 0.25
"""Read before a frame after seeking, so that the resampler's filter and the codec's overlap have settled."""

MISSING_SHARE, MISSING_S = 0.05, 2.0
"""A file is truncated when it holds this share and this many seconds less than its header states; headers of
complete files are off by an encoder's delay and padding, under 0.1 s."""

BAD_PACKETS_SHARE = 0.05
"""A file with a greater share of damaged packets is broken; players skip single ones silently."""

_ESTIMATED = frozenset({"mp3", "aac", "ac3", "loas"})
"""FFmpeg formats without a length in the header, for which FFmpeg estimates it from the bit rate."""


@dataclass(frozen=True)
class Decoded:
    """A track's properties, known once all its frames have been decoded."""

    duration_s: float
    frames: int
    padded: bool
    status: Status


class AudioReader(Protocol):
    """A file opened by one of the decoders."""

    rate_hz: int
    stated_samples: int | None
    """Length at `rate_hz` as the header states it, None when there is no reliable statement."""

    def blocks(self, start_sample: int = 0) -> Iterator[Wave]:
        """Yield mono float32 blocks at `rate_hz`, from `start_sample` to the end. Raises `BrokenAudio`."""
        ...


class BrokenAudio(Exception):  # noqa: N818 - an internal signal; what leaves this module is an AudioError
    """A decoder cannot decode the file, for this reason."""


class Truncated(BrokenAudio):
    """The file holds less than its header states; the next decoder's result is compared with the same length."""

    def __init__(self, duration_s: float, stated_s: float) -> None:
        super().__init__(f"truncated: ends after {duration_s:.1f} s of {stated_s:.1f} s")
        self.stated_s = stated_s


Frames = Generator[tuple[int, Wave], None, Decoded]


def decode_frames(path: Path, rate_hz: int, rule: FrameRule, beat: Callable[[], None] = lambda: None) -> Frames:
    """Yield `(index, frame)`, frame float32 [rule.frame_samples] mono at `rate_hz`; return a `Decoded`.

    An index of 0 restarts the track: the first decoder failed and the second one began from the start.
    `beat` is called for every block read, so that a watchdog can distinguish slow from hung.

    Raises AudioError with the reasons of both decoders when neither can decode the file.
    """
    reasons: dict[str, None] = {}
    stated_s = 0.0
    for opener in _openers(path):
        try:
            with opener(path) as reader:
                return (yield from _OpenTrack(reader, rate_hz, rule, stated_s, beat).frames())
        except BrokenAudio as error:
            reasons[str(error)] = None
            stated_s = getattr(error, "stated_s", stated_s)
    raise AudioError(path, "; ".join(reasons))


def _openers(path: Path) -> list[Any]:
    """Return both decoders in the order in which to try them."""
    return [open_ffmpeg, open_soundfile] if _mp3_of_unknown_length(path) else [open_soundfile, open_ffmpeg]


def _mp3_of_unknown_length(path: Path) -> bool:
    """Return whether the file is an MP3 without a Xing, Info or VBRI header.

    libsndfile estimates its length from the bit rate of the first frame and stops there: of a VBR file of 60 s with a
    quiet start, 14 s were read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(3)
        mpeg = head == b"ID3" or (len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0)
        return mpeg and MP3(path).info.bitrate_mode == BitrateMode.UNKNOWN
    except (MutagenError, OSError):
        return False


class _OpenTrack:
    """An open file whose frames are wanted at `rate_hz`; `stated_s` is what an earlier decoder read in the header."""

    def __init__(
        self, reader: AudioReader, rate_hz: int, rule: FrameRule, stated_s: float, beat: Callable[[], None]
    ) -> None:
        self._reader, self._rate_hz, self._rule, self._beat = reader, rate_hz, rule, beat
        self._stated_s = max(stated_s, (reader.stated_samples or 0) / reader.rate_hz)

    def frames(self) -> Frames:
        rule = self._rule
        if rule.max_frames is not None:
            total = self._length() * self._rate_hz // self._reader.rate_hz
            starts = frame_starts(total, rule)
            if len(starts) < len(frame_starts(total, FrameRule(rule.frame_samples, rule.edge_samples))):
                self._require_complete(total / self._rate_hz)
                return (yield from self._seek(starts, total))
        return (yield from self._stream())

    def _stream(self) -> Frames:
        slicer = Slicer(self._rule)
        index = 0
        for block in self._resampled(0):
            for frame in slicer.push(block):
                yield index, frame
                index += 1
        duration_s = slicer.total_samples / self._rate_hz
        self._require_complete(duration_s)
        if duration_s < MIN_TRACK_S:
            return Decoded(duration_s, 0, False, "too short")
        if slicer.peak < SILENT_PEAK:
            return Decoded(duration_s, 0, False, "silent")
        for frame in slicer.finish():
            yield index, frame
            index += 1
        return Decoded(duration_s, index, slicer.padded, "ok")

    def _seek(self, starts: list[int], total: int) -> Frames:
        peak = 0.0
        for index, start in enumerate(starts):
            frame = self._frame_at(start)
            if len(frame) < self._rule.frame_samples:
                raise Truncated((start + len(frame)) / self._rate_hz, total / self._rate_hz)
            peak = max(peak, float(np.max(np.abs(frame))))
            yield index, frame
        status: Status = "ok" if peak >= SILENT_PEAK else "silent"
        return Decoded(total / self._rate_hz, len(starts) if status == "ok" else 0, False, status)

    def _frame_at(self, start: int) -> Wave:
        """Return the frame at sample `start`, shorter when the file ends before its stated length."""
        margin = min(start, round(SEEK_MARGIN_S * self._rate_hz))
        # Rounding to the source's rate moves a frame by less than one of its samples.
        source_start = (start - margin) * self._reader.rate_hz // self._rate_hz
        missing = margin + self._rule.frame_samples
        blocks = [np.zeros(0, np.float32)]
        for block in self._resampled(source_start):
            blocks.append(block)
            missing -= len(block)
            if missing <= 0:
                break
        return np.concatenate(blocks)[margin : margin + self._rule.frame_samples]

    def _length(self) -> int:
        """Return the file's length in its own samples: stated by the header or else counted."""
        if self._reader.stated_samples is not None:
            return self._reader.stated_samples
        total = 0
        for block in self._reader.blocks():
            self._beat()
            total += len(block)
        return total

    def _require_complete(self, duration_s: float) -> None:
        missing_s = self._stated_s - duration_s
        if missing_s > MISSING_S and missing_s > MISSING_SHARE * self._stated_s:
            raise Truncated(duration_s, self._stated_s)

    def _resampled(self, start: int) -> Iterator[Wave]:
        """Yield blocks at `rate_hz` from `start` on, in samples of the file, without NaN or infinity."""
        source_hz = self._reader.rate_hz
        stream = None
        if source_hz != self._rate_hz:
            stream = soxr.ResampleStream(source_hz, self._rate_hz, 1, dtype="float32", quality="HQ")
        for block in self._reader.blocks(start):
            self._beat()
            finite = np.nan_to_num(block, nan=0.0, posinf=0.0, neginf=0.0)
            yield stream.resample_chunk(finite) if stream else finite
        if stream:
            yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


@contextmanager
def open_soundfile(path: Path) -> Iterator[AudioReader]:
    """Open a file with libsndfile: wav, flac, ogg, opus, mp3, aiff."""
    try:
        # As bytes: soundfile encodes text strictly and would refuse an undecodable name.
        with soundfile.SoundFile(os.fsencode(path) if os.name == "posix" else str(path)) as file:
            yield _SoundFileReader(file, _wav_share(path))
    except (soundfile.SoundFileError, OSError) as error:
        raise BrokenAudio(_sndfile_reason(error)) from error


def _sndfile_reason(error: Exception) -> str:
    text = str(getattr(error, "error_string", None) or getattr(error, "strerror", None) or error).strip().rstrip(".")
    # libsndfile reports that an .mp3 "does not exist" when it finds no MPEG frame in it.
    return f"libsndfile: {'format not recognised' if 'does not exist' in text else text}"


def _wav_share(path: Path) -> float:
    """Return the share of a WAV file's stated samples that fit into the file; 1 for other formats.

    Both decoders silently use the length of the file instead.
    """
    with path.open("rb") as file:
        if file.read(4) != b"RIFF":
            return 1.0
        file.seek(12)
        while len(head := file.read(8)) == 8:
            stated = int.from_bytes(head[4:], "little")
            if head[:4] == b"data":
                present = path.stat().st_size - file.tell()
                # A program that could not go back to write the length leaves all bits set or zero.
                return min(1.0, present / stated) if 0 < stated < 0xFFFFFFFF else 1.0
            file.seek(stated + stated % 2, os.SEEK_CUR)
    return 1.0


class _SoundFileReader:
    def __init__(self, file: soundfile.SoundFile, share: float) -> None:
        self._file = file
        self.rate_hz = file.samplerate
        # In a stream whose length was never written, it is nearly infinite.
        self.stated_samples = round(file.frames / share) if share and file.frames < 1 << 62 else None

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
    """Open the first audio stream of a file with FFmpeg."""
    try:
        # Through Python's own file: PyAV encodes names strictly and would refuse an undecodable one.
        with path.open("rb") as file, av.open(file, mode="r", metadata_errors="ignore") as container:
            if not container.streams.audio:
                raise BrokenAudio("the file contains no audio")
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
            raise BrokenAudio("FFmpeg: the file states no sample rate")
        self.stated_samples = None
        if stream.duration and stream.time_base and container.format.name not in _ESTIMATED:
            self.stated_samples = round(stream.duration * stream.time_base * self.rate_hz)

    def blocks(self, start_sample: int = 0) -> Iterator[Wave]:
        if not self._fresh or start_sample:
            self._container.seek(int(start_sample / self.rate_hz * av.time_base))
        self._fresh = False
        # Seeking goes to a packet before `start_sample`; what comes before it is dropped here.
        skip: int | None = None if start_sample else 0
        for frame in self._decoded():
            if frame.sample_rate != self.rate_hz:
                raise BrokenAudio(f"FFmpeg: the sample rate changes from {self.rate_hz} to {frame.sample_rate} Hz")
            wave = mono(frame)
            if skip is None:
                skip = max(0, start_sample - self._offset(frame))
            if skip < len(wave):
                yield wave[skip:]
            skip = max(0, skip - len(wave))

    def _offset(self, frame: av.AudioFrame) -> int:
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
    """Return the mean of the channels of a decoded frame: float32 [samples], integers scaled to -1..1."""
    samples: npt.NDArray[Any] = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, len(frame.layout.channels)).T
    mixed: Wave = samples.mean(axis=0, dtype=np.float32)
    if samples.dtype.kind == "f":
        return mixed
    half_range = np.float32(1 << (8 * samples.dtype.itemsize - 1))
    return mixed / half_range - np.float32(samples.dtype.kind == "u")
