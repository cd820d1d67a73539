"""From files of every container to frames: results, errors and memory."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import media
import numpy as np
import pytest
import soundfile

from musictagger.audio import decode
from musictagger.audio.decode import BrokenAudio, Decoded, decode_frames, mono, open_ffmpeg, open_soundfile
from musictagger.audio.frames import FrameRule, Wave
from musictagger.errors import AudioError

RATE_HZ = 12_000
CORPUS = Path(__file__).with_name("corpus")
DECODABLE = sorted(set(media.EXTENSIONS) - media.MADE_UP)
LOSSLESS = ("wav", "flac", "aiff", "oggflac", "alac", "wavpack")
EXAMPLES = sorted(path for path in (Path(__file__).parents[1] / "examples").iterdir() if path.name[0].isdigit())


def decoded(path: Path, rule: FrameRule, rate_hz: int = RATE_HZ) -> tuple[list[Wave], Decoded]:
    """The final frames of a track, and its properties."""
    frames: dict[int, Wave] = {}
    steps = decode_frames(path, rate_hz, rule)
    while True:
        try:
            index, wave = next(steps)
        except StopIteration as end:
            return [frames[index] for index in sorted(frames)], end.value
        if index == 0:
            frames.clear()
        frames[index] = wave


def whole(path: Path, rate_hz: int = RATE_HZ, seconds: float = 2.0) -> Wave:
    """One frame of the first `seconds`."""
    return decoded(path, FrameRule(round(seconds * rate_hz)), rate_hz)[0][0]


def read_by(opener: Callable[[Path], Any], path: Path, start: int = 0) -> tuple[int, Wave]:
    """Sample rate and samples from `start` on, by one decoder."""
    with opener(path) as reader:
        return reader.rate_hz, np.concatenate([np.zeros(0, np.float32), *reader.blocks(start)])


def write(path: Path, samples: np.ndarray[Any, Any], rate_hz: int = RATE_HZ, **options: Any) -> Path:
    soundfile.write(path, samples, rate_hz, **options)
    return path


def noise(seconds: float, rate_hz: int = RATE_HZ, channels: int = 1, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (round(seconds * rate_hz), channels)).astype(np.float32)


def correlation(one: Wave, other: Wave) -> float:
    return float(np.corrcoef(one, other)[0, 1])


# --- results


@pytest.mark.parametrize("container", DECODABLE)
def test_every_container_is_decoded(container: str, tmp_path: Path) -> None:
    path = media.make(container, tmp_path, seconds=2.5, frequency=440.0)
    frames, outcome = decoded(path, FrameRule(2 * RATE_HZ))
    assert outcome.status == "ok"
    # A codec's delay and padding may lengthen a track by some tenths of a second.
    assert -0.1 < outcome.duration_s - 2.5 < 0.2
    spectrum = np.abs(np.fft.rfft(frames[0] * np.hanning(2 * RATE_HZ)))
    loudest_hz = np.argsort(spectrum)[-6:] / 2
    assert all(min(abs(hz - 440), abs(hz - 660)) <= 2 for hz in loudest_hz)
    # Two tones at half of full scale, averaged.
    assert np.std(frames[0]) == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("channels", [1, 2, 3, 8])
def test_channels_are_averaged(channels: int, tmp_path: Path) -> None:
    samples = noise(2, channels=channels)
    path = write(tmp_path / "a.wav", samples, subtype="FLOAT")
    expected = samples.mean(axis=1)
    np.testing.assert_allclose(whole(path), expected, atol=1e-6)
    np.testing.assert_allclose(read_by(open_ffmpeg, path)[1], expected, atol=1e-6)


def test_opposite_channels_are_silent(tmp_path: Path) -> None:
    left = noise(2)
    assert decoded(write(tmp_path / "a.wav", np.hstack([left, -left])), FrameRule(RATE_HZ))[1].status == "silent"


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_both_decoders_scale_every_sample_type_alike(subtype: str, tmp_path: Path) -> None:
    samples = noise(1, channels=2)
    path = write(tmp_path / "a.wav", samples, subtype=subtype)
    for opener in (open_soundfile, open_ffmpeg):
        np.testing.assert_allclose(read_by(opener, path)[1], samples.mean(axis=1), atol=1 / 120)


@pytest.mark.parametrize("kind", ["u8", "s16", "s32", "flt", "dbl", "u8p", "s16p", "s32p", "fltp", "dblp"])
def test_frames_of_ffmpeg_become_mono(kind: str) -> None:
    wanted = np.array([[-1.0, -0.5, 0.0, 0.25], [0.0, 0.5, 0.0, 0.25]])
    dtype = {"u": np.uint8, "s": np.int16 if "16" in kind else np.int32, "f": np.float32, "d": np.float64}[kind[0]]
    scale = {"u": 128, "s": 2 ** (15 if "16" in kind else 31), "f": 1, "d": 1}[kind[0]]
    values = (wanted * scale + (128 if kind[0] == "u" else 0)).astype(dtype)
    laid_out = values if kind.endswith("p") else values.T.reshape(1, -1)
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(laid_out), format=kind, layout="stereo")
    got = mono(frame)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, wanted.mean(axis=0), atol=1e-6)


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 12_000, 22_050, 44_100, 48_000, 96_000])
def test_resampling_keeps_length_pitch_and_level(rate_hz: int, tmp_path: Path) -> None:
    tone = media.tone(3.0, 1_000.0, rate_hz)[:, :1]
    path = write(tmp_path / "a.wav", tone, rate_hz, subtype="FLOAT")
    frames, outcome = decoded(path, FrameRule(RATE_HZ))
    assert outcome.duration_s == pytest.approx(3.0, abs=2 / RATE_HZ)
    assert len(frames) == 3 if rate_hz == RATE_HZ else len(frames) in {2, 3}
    expected = media.tone(3.0, 1_000.0, RATE_HZ)[RATE_HZ : 2 * RATE_HZ, 0]
    np.testing.assert_allclose(frames[1], expected, atol=2e-3)


def test_frames_follow_the_rule(tmp_path: Path) -> None:
    samples = noise(10.5)
    path = write(tmp_path / "a.wav", samples, subtype="FLOAT")
    frames, outcome = decoded(path, FrameRule(2 * RATE_HZ, RATE_HZ))
    assert outcome == Decoded(10.5, 4, False, "ok")
    for index, frame in enumerate(frames):
        start = (1 + 2 * index) * RATE_HZ
        np.testing.assert_array_equal(frame, samples[start : start + 2 * RATE_HZ, 0])


def test_a_short_track_is_repeated(tmp_path: Path) -> None:
    samples = noise(1.5)
    path = write(tmp_path / "a.wav", samples, subtype="FLOAT")
    for max_frames in (None, 1, 5):
        frames, outcome = decoded(path, FrameRule(4 * RATE_HZ, RATE_HZ, max_frames))
        assert outcome == Decoded(1.5, 1, True, "ok")
        np.testing.assert_array_equal(frames[0], np.resize(samples[:, 0], 4 * RATE_HZ))


@pytest.mark.parametrize("max_frames", [None, 2])
@pytest.mark.parametrize(
    ("seconds", "level", "status"),
    [(0.0, 1.0, "too short"), (0.999, 1.0, "too short"), (1.0, 1.0, "ok"), (9.0, 1e-5, "silent"), (9.0, 1e-3, "ok")],
)
def test_short_and_silent_tracks_have_no_frames(
    seconds: float, level: float, status: str, max_frames: int | None, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.wav", noise(seconds) * level, subtype="FLOAT")
    outcome = decoded(path, FrameRule(2 * RATE_HZ, 0, max_frames))[1]
    assert outcome.status == status
    assert bool(outcome.frames) == (status == "ok")
    assert outcome.duration_s == pytest.approx(seconds)


def test_samples_that_are_not_finite_count_as_zero(tmp_path: Path) -> None:
    samples = noise(2)
    samples[100:200] = np.nan
    samples[300] = np.inf
    got = whole(write(tmp_path / "a.wav", samples, subtype="FLOAT"))
    assert np.isfinite(got).all()
    assert not got[100:200].any()


def test_beat_is_called_for_every_block(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", noise(60))
    beats: list[None] = []
    list(decode_frames(path, RATE_HZ, FrameRule(RATE_HZ), lambda: beats.append(None)))
    assert len(beats) == -(-60 * RATE_HZ // decode.BLOCK_SAMPLES)


# --- two decoders


@pytest.mark.parametrize("container", ["wav", "flac", "aiff", "vorbis", "mp3", "opus"])
def test_both_decoders_agree(container: str, tmp_path: Path) -> None:
    path = media.make(container, tmp_path, seconds=2.0)
    (rate_hz, one), (other_rate_hz, other) = read_by(open_soundfile, path), read_by(open_ffmpeg, path)
    assert rate_hz == other_rate_hz
    assert abs(len(one) - len(other)) < 0.06 * rate_hz
    length = min(len(one), len(other)) - rate_hz // 10
    shifts = range(0, 1400) if container == "mp3" else (0,)
    assert max(correlation(one[:length], other[s : s + length]) for s in shifts if s + length <= len(other)) > 0.999


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.suffix)
def test_both_decoders_agree_on_real_music_in_time(path: Path) -> None:
    frames, outcome = decoded(path, FrameRule(10 * RATE_HZ, 5 * RATE_HZ))
    assert outcome.status == "ok"
    assert outcome.frames == len(frames) >= 2
    rate_hz, samples = read_by(open_ffmpeg, path)
    assert outcome.duration_s == pytest.approx(len(samples) / rate_hz, abs=0.1)


def test_frames_start_over_with_the_second_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first decoder fails half-way, and its frames are dropped."""
    path = write(tmp_path / "a.wav", noise(30))

    @contextmanager
    def breaking(path: Path) -> Iterator[decode.AudioReader]:
        with open_soundfile(path) as reader:
            whole = reader.blocks
            monkeypatch.setattr(reader, "blocks", lambda start=0: fail_after(whole(start), 3))
            yield reader

    monkeypatch.setattr(decode, "_openers", lambda path: [breaking, open_ffmpeg])
    indices = [index for index, _ in decode_frames(path, RATE_HZ, FrameRule(5 * RATE_HZ))]
    assert indices == [0, 1, 2, 0, 1, 2, 3, 4, 5]


def fail_after(blocks: Iterator[Wave], count: int) -> Iterator[Wave]:
    yield from itertools.islice(blocks, count)
    raise BrokenAudio("the stream is damaged")


def test_the_reasons_of_both_decoders_are_given_once_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def refusing(path: Path) -> Iterator[decode.AudioReader]:
        raise BrokenAudio("does not like it")
        yield

    monkeypatch.setattr(decode, "_openers", lambda path: [refusing, refusing, open_ffmpeg])
    with pytest.raises(AudioError, match=r"does not like it; FFmpeg: [^;]*$"):
        list(decode_frames(CORPUS / "text-renamed.mp3", RATE_HZ, FrameRule(RATE_HZ)))


def vbr_mp3(path: Path, *, header: bool) -> Path:
    """A quiet start at a low bit rate, then loud noise; `header` keeps its Xing header."""
    quiet, loud = media.tone(20, 440, 22_050)[:, :1] * 1e-3, noise(20, 22_050)
    write(path, np.vstack([quiet, loud]), 22_050, format="MP3", bitrate_mode="VARIABLE", compression_level=0.5)
    if not header:
        data = path.read_bytes()
        assert b"Xing" in data[:400]
        path.write_bytes(data.replace(b"Xing", b"\0\0\0\0", 1))
    return path


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("max_frames", [None, 2])
def test_a_variable_bit_rate_mp3_is_decoded_completely(header: bool, max_frames: int | None, tmp_path: Path) -> None:
    path = vbr_mp3(tmp_path / "a.mp3", header=header)
    frames, outcome = decoded(path, FrameRule(4 * RATE_HZ, 0, max_frames))
    assert outcome.duration_s == pytest.approx(40, abs=0.2)
    assert len(frames) == outcome.frames == (max_frames or 10)
    assert np.abs(frames[-1]).max() > 0.1


# --- seeking


LAG_MS = {"wma": 100.0, "matroska": 1.0}
"""Errors of seeking. wma: the first packets after a seek decode to nothing; matroska: time stamps in ms."""


@pytest.mark.parametrize(
    "container", [*LOSSLESS, "mp3", "vorbis", "opus", "m4a", "m4a-fragmented", "aac", "wma", "matroska"]
)
def test_frames_found_by_seeking_are_those_of_the_whole_track(container: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{media.EXTENSIONS[container]}"
    _write_noise(path, container)
    all_frames, outcome = decoded(path, FrameRule(2 * RATE_HZ, RATE_HZ))
    assert outcome.frames == 14
    for max_frames, chosen in ((1, [7]), (3, [2, 7, 11])):
        frames, sought = decoded(path, FrameRule(2 * RATE_HZ, RATE_HZ, max_frames))
        assert (sought.frames, sought.status) == (max_frames, "ok")
        assert sought.duration_s == pytest.approx(outcome.duration_s, abs=0.1)
        for frame, index in zip(frames, chosen, strict=True):
            if container in LAG_MS:
                assert abs(lag_ms(frame, all_frames[index])) <= LAG_MS[container]
            else:
                assert correlation(frame, all_frames[index]) > (0.999 if container in LOSSLESS else 0.98)


def lag_ms(one: Wave, other: Wave) -> float:
    size = 2 * len(one)
    match = np.fft.irfft(np.fft.rfft(one, size) * np.conj(np.fft.rfft(other, size)))
    at = int(np.argmax(match))
    return (at - size * (at > len(one))) * 1000 / RATE_HZ


def _write_noise(path: Path, container: str) -> None:
    """30.5 s of noise below 3 kHz, so that every moment differs and codecs keep it."""
    rate_hz = 48_000 if container == "opus" else media.RATE_HZ
    spectrum = np.fft.rfft(noise(30.5, rate_hz)[:, 0])
    spectrum[round(3_000 * 30.5) :] = 0
    wave = np.fft.irfft(spectrum).astype(np.float32)
    stereo = np.stack([wave, wave], axis=1)
    subtype = {"vorbis": "VORBIS", "opus": "OPUS"}.get(container)
    if container in {"wav", "flac", "aiff", "mp3", "vorbis", "opus"}:
        format_ = {"vorbis": "OGG", "opus": "OGG"}.get(container, container.upper())
        soundfile.write(path, stereo, rate_hz, format=format_, subtype=subtype)
        return
    kinds = {
        "oggflac": ("ogg", "flac"), "alac": ("ipod", "alac"), "wavpack": ("wv", "wavpack"),
        "m4a": ("ipod", "aac"), "wma": ("asf", "wmav2"),
        "aac": ("adts", "aac"), "m4a-fragmented": ("mp4", "aac"), "matroska": ("matroska", "aac"),
    }  # fmt: skip
    media._encode(path, *kinds[container], {}, stereo.T)


def test_seeking_reads_little(tmp_path: Path) -> None:
    path = write(tmp_path / "a.flac", noise(300))
    beats: list[None] = []
    list(decode_frames(path, RATE_HZ, FrameRule(10 * RATE_HZ, 0, 2), lambda: beats.append(None)))
    assert len(beats) <= 8


# --- errors


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("empty.mp3", "libsndfile: .*; FFmpeg: "),
        ("text-renamed.mp3", "libsndfile: .*; FFmpeg: "),
        ("video.ogg", "the file contains no audio"),
        ("truncated.flac", r"truncated: ends after 1\d\.\d s of 35\.0 s"),
        ("truncated.mp3", r"truncated: ends after 1\d\.\d s of 35\.\d s"),
        ("truncated-after-index.m4a", r"truncated: ends after 1\d\.\d s of 35\.\d s"),
        ("corrupt-throughout.flac", "packets are damaged|truncated"),
        ("zero-rate.wav", "libsndfile: .*; FFmpeg: "),
    ],
)
@pytest.mark.parametrize("max_frames", [None, 1])
def test_broken_files_fail_with_a_reason(name: str, reason: str, max_frames: int | None) -> None:
    path = CORPUS / name
    with pytest.raises(AudioError, match=reason) as caught:
        decoded(path, FrameRule(5 * RATE_HZ, 0, max_frames))
    assert caught.value.path == str(path)
    assert "\n" not in caught.value.reason


@pytest.mark.parametrize("container", ["wav", "flac", "mp3", "vorbis", "opus", "m4a", "alac", "wma", "wavpack"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_a_cut_file_fails_or_is_a_shorter_track(container: str, share: float, tmp_path: Path) -> None:
    data = media.payload(container, 8.0)
    path = tmp_path / f"a{media.EXTENSIONS[container]}"
    path.write_bytes(data[: round(len(data) * share)])
    try:
        _, outcome = decoded(path, FrameRule(RATE_HZ))
    except AudioError as error:
        assert error.reason
    else:
        assert outcome.duration_s <= 8.2


def test_a_missing_file_a_folder_and_a_pipe_fail(tmp_path: Path) -> None:
    (tmp_path / "folder.mp3").mkdir()
    for name, reason in (("gone.mp3", "No such file"), ("folder.mp3", "directory")):
        with pytest.raises(AudioError, match=reason):
            decoded(tmp_path / name, FrameRule(RATE_HZ))


@pytest.mark.skipif(os.name != "posix", reason="file names are text there")
@pytest.mark.parametrize("container", ["wav", "mp3", "m4a", "vorbis"])
@pytest.mark.parametrize("name", [b"caf\xe9", b"a\nb", b"x" * 250, "日本".encode(), b"-", b"file:a", b"pipe:0", b"a%d"])
def test_any_file_name_is_opened(container: str, name: bytes, tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name + media.EXTENSIONS[container].encode()))
    path.write_bytes(media.payload(container, 1.5))
    for opener in (open_soundfile, open_ffmpeg):
        if container == "m4a" and opener is open_soundfile:
            with pytest.raises(BrokenAudio):
                read_by(opener, path)
        else:
            assert len(read_by(opener, path)[1]) >= 60_000
    assert decoded(path, FrameRule(RATE_HZ))[1].frames == 1


# --- memory

MEASURE = """
import sys
from pathlib import Path
from musictagger.audio import decode
from musictagger.audio.frames import FrameRule
decode._openers = lambda path: [getattr(decode, sys.argv[2])]
frames = sum(1 for _ in decode.decode_frames(Path(sys.argv[1]), 12_000, FrameRule(349_440, 60_000)))
status = Path("/proc/self/status").read_text().split()
print(frames, status[status.index("VmHWM:") + 1])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process is read from /proc")
@pytest.mark.parametrize(("opener", "long_s"), [("open_soundfile", 7_200), ("open_ffmpeg", 1_800)])
def test_memory_does_not_grow_with_the_track(opener: str, long_s: int, tmp_path: Path) -> None:
    peaks_kb = []
    for seconds in (60, long_s):
        path = tmp_path / f"{seconds}.wav"
        # Zeros in unsigned 8 bits are a loud constant, and a hole in the file costs no disk.
        soundfile.write(path, np.zeros(8_000), 8_000, subtype="PCM_U8")
        head = bytearray(path.read_bytes()[:44])
        head[4:8], head[40:44] = ((36 + seconds * 8_000).to_bytes(4, "little"), (seconds * 8_000).to_bytes(4, "little"))
        path.write_bytes(head)
        os.truncate(path, 44 + seconds * 8_000)
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, str(path), opener], capture_output=True, text=True, check=True
        )
        got, peak_kb = map(int, done.stdout.split())
        assert got == (seconds - 10) * 12_000 // 349_440
        peaks_kb.append(peak_kb)
    assert peaks_kb[1] - peaks_kb[0] < 12_000


def test_decoding_imports_no_torch() -> None:
    code = "import sys, musictagger.audio.decode; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
