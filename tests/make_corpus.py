"""Make the corpus of broken files: small files of synthetic audio, each named after its defect.

    uv run python tests/make_corpus.py [OUT]

OUT is `tests/corpus` unless given. `expected.json` is written by hand: it holds the result that a scan must give.
Files marked `exact` have the same bytes everywhere. The others pass through an encoder, whose next version may write
other bytes.
"""

from __future__ import annotations

import hashlib
import io
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import av
import numpy as np
import numpy.typing as npt
import soundfile

Samples = npt.NDArray[np.int16]

CORPUS = Path(__file__).parent / "corpus"
RATE_HZ = 12_000
LONG_S = 35
SHORT_S = 3
CUT_AT = 0.4
MELODY_HZ = (262, 330, 392, 523, 440, 349, 294, 247)


@dataclass(frozen=True)
class Defect:
    """One file of the corpus: its name, its maker, and whether its bytes are the same everywhere."""

    name: str
    make: Callable[[], bytes]
    exact: bool = False


# --- audio, in integers only, so that it is the same on every machine


def triangle(length: int, frequency_hz: int, rate_hz: int, peak: int) -> npt.NDArray[np.int64]:
    """A triangle wave, int64 [length] within -peak..peak."""
    phase = np.arange(length, dtype=np.int64) * frequency_hz * 4 * peak // rate_hz % (4 * peak)
    return np.abs(phase - 2 * peak) - peak


def song(seconds: float, rate_hz: int = RATE_HZ, peak: int = 6000) -> Samples:
    """Two voices with a note each half second: int16 [samples], peak about `peak` of 32768."""
    note = rate_hz // 2
    total = round(seconds * rate_hz)
    notes = []
    for index in range(total // note + 1):
        high, low = MELODY_HZ[index % 8], MELODY_HZ[index // 4 % 8] // 2
        notes.append(triangle(note, high, rate_hz, peak // 2) + triangle(note, low, rate_hz, peak // 2))
    return np.concatenate(notes)[:total].astype(np.int16)


def noise(size: int, seed: bytes) -> bytes:
    """`size` random bytes, always the same for the same `seed`."""
    return hashlib.shake_256(seed).digest(size)


# --- wav, written by hand because the headers are broken


def riff(fmt: bytes, data: bytes, data_size: int | None = None) -> bytes:
    """A WAV file; `data_size` is the length of `data` that the header states, if not the true one."""
    size = len(data) if data_size is None else data_size
    chunks = b"WAVEfmt " + struct.pack("<I", len(fmt)) + fmt + b"data" + struct.pack("<I", size) + data
    return b"RIFF" + struct.pack("<I", min(0xFFFFFFFF, len(chunks) - len(data) + size)) + chunks


def pcm(rate_hz: int, channels: int = 1, bits: int = 16, tag: int = 1) -> bytes:
    """The `fmt ` chunk; `tag` 1 is integer, 3 is float."""
    width = channels * bits // 8
    return struct.pack("<HHIIHH", tag, channels, rate_hz, rate_hz * width, width, bits)


def wav(samples: Samples, rate_hz: int = RATE_HZ) -> bytes:
    return riff(pcm(rate_hz), samples.astype("<i2").tobytes())


def wav_of_zero_rate() -> bytes:
    return riff(pcm(0), song(SHORT_S / 2).astype("<i2").tobytes())


def wav_of_huge_length() -> bytes:
    return riff(pcm(RATE_HZ), song(SHORT_S / 2).astype("<i2").tobytes(), 0xFFFFFFFF)


def wav_cut_short() -> bytes:
    data = song(10, 8000).astype("<i2").tobytes()
    return riff(pcm(8000), data[: len(data) // 3], len(data))


def wav_with_nan_and_inf() -> bytes:
    samples = song(SHORT_S / 2, 8000).astype("<f4") / np.float32(32768)
    samples[2000:2100] = np.nan
    samples[5000] = np.inf
    samples[5001] = -np.inf
    return riff(pcm(8000, bits=32, tag=3), samples.tobytes())


def wav_of_eight_channels() -> bytes:
    one = (song(1.5, 4000) // 256 + 128).astype(np.uint8)
    seven_one_speakers, pcm_guid = 0x63F, bytes.fromhex("0100000000001000800000aa00389b71")
    extensible = pcm(4000, channels=8, bits=8, tag=0xFFFE) + struct.pack("<HHI", 22, 8, seven_one_speakers) + pcm_guid
    return riff(extensible, np.repeat(one[:, None], 8, axis=1).tobytes())


def wav_of_eight_bits() -> bytes:
    return riff(pcm(8000, bits=8), (song(SHORT_S, 8000) // 256 + 128).astype(np.uint8).tobytes())


# --- encoded audio


def encoded(samples: npt.NDArray[np.int16 | np.int32], rate_hz: int, container: str, subtype: str) -> bytes:
    """`samples` encoded by libsndfile, in blocks because its Vorbis encoder overruns on longer input."""
    buffer = io.BytesIO()
    level = {"FLAC": 1.0, "OGG": 0.9, "MP3": 0.9}[container]
    with soundfile.SoundFile(
        buffer, "w", rate_hz, 1, format=container, subtype=subtype, compression_level=level
    ) as out:
        for start in range(0, len(samples), 4096):
            out.write(samples[start : start + 4096])
    return buffer.getvalue()


def mp3(seconds: float) -> bytes:
    """An MP3 with an Info header that states the number of frames, as encoders write it."""
    return encoded(song(seconds), RATE_HZ, "MP3", "MPEG_LAYER_III")


def flac(seconds: float, rate_hz: int = 8000) -> bytes:
    return encoded(song(seconds, rate_hz, 200), rate_hz, "FLAC", "PCM_16")


def flac_of_24_bits() -> bytes:
    samples = song(SHORT_S / 2, 8000, 600).astype(np.int32) << 16
    return encoded(samples, 8000, "FLAC", "PCM_24")


def vorbis(seconds: float) -> bytes:
    return renumbered(encoded(song(seconds), RATE_HZ, "OGG", "VORBIS"))


def muxed(container: str, audio: str = "", video: str = "", options: dict[str, str] | None = None) -> bytes:
    """A file by FFmpeg with audio, video or both."""
    options = {"fflags": "+bitexact"} | (options or {})
    # To a real file, because moving the index to the front reads the file back.
    with TemporaryDirectory() as folder, av.open(f"{folder}/x", "w", format=container, options=options) as out:
        # All streams are declared before any of them is written.
        sound = cast(av.AudioStream, out.add_stream(audio, rate=48_000, layout="mono")) if audio else None
        pictures = cast(av.VideoStream, out.add_stream(video, rate=5)) if video else None
        if pictures is not None:
            write_pictures(out, pictures)
        if sound is not None:
            write_sound(out, sound, LONG_S if not video else SHORT_S)
        out.close()
        return Path(folder, "x").read_bytes()


def write_sound(out: av.container.OutputContainer, stream: av.AudioStream, seconds: int) -> None:
    stream.bit_rate = 16_000
    wave = song(seconds, 48_000).astype(np.float32) / np.float32(32768)
    form = stream.format.name
    for start in range(0, len(wave), 960):
        block = wave[None, start : start + 960]
        data = block if form.startswith("flt") else (block * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(data, format=form, layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48_000, start, Fraction(1, 48_000)
        out.mux(stream.encode(frame))
    out.mux(stream.encode(None))


def write_pictures(out: av.container.OutputContainer, stream: av.VideoStream) -> None:
    stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 64, 64, "yuv420p", 20_000
    for index in range(5 * SHORT_S):
        picture = np.full((64, 64, 3), 40 + 10 * index, dtype=np.uint8)
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts, frame.time_base = index, Fraction(1, 5)
        out.mux(stream.encode(frame))
    out.mux(stream.encode(None))


# --- ogg pages


def ogg_crc(page: bytes) -> int:
    """Ogg's checksum: CRC-32 with polynomial 04c11db7, neither reflected nor inverted (RFC 3533)."""
    crc = 0
    for byte in page:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ 0x04C11DB7 if crc & 0x80000000 else crc << 1) & 0xFFFFFFFF
    return crc


def ogg_pages(data: bytes) -> list[bytes]:
    pages = []
    while data:
        segments = data[26]
        size = 27 + segments + sum(data[27 : 27 + segments])
        pages.append(data[:size])
        data = data[size:]
    return pages


def renumbered(data: bytes) -> bytes:
    """The same Ogg file with stream number 1, because the encoder draws a random one."""
    pages = (page[:14] + struct.pack("<I", 1) + page[18:22] + bytes(4) + page[26:] for page in ogg_pages(data))
    return b"".join(page[:22] + struct.pack("<I", ogg_crc(page)) + page[26:] for page in pages)


def wrong_crc() -> bytes:
    """An Ogg file in which a page in the middle has a wrong checksum."""
    pages = ogg_pages(vorbis(10))
    middle = len(pages) // 2
    pages[middle] = pages[middle][:22] + bytes(4) + pages[middle][26:]
    return b"".join(pages)


# --- damage


def cut(data: bytes) -> bytes:
    return data[: round(len(data) * CUT_AT)]


def scratched(data: bytes, size: int) -> bytes:
    """`size` bytes in the middle replaced by noise."""
    start = len(data) // 2
    return data[:start] + noise(size, b"scratch") + data[start + size :]


def scratched_all_over(data: bytes) -> bytes:
    """20 bytes of noise in every 400, except in the header."""
    spoilt = bytearray(data)
    for start in range(400, len(spoilt) - 20, 400):
        spoilt[start : start + 20] = noise(20, str(start).encode())
    return bytes(spoilt)


def id3v2(size: int | bytes | None = None) -> bytes:
    """An ID3v2.3 tag with a title; `size` is the length that its header states, if not the true one."""
    text = b"\x00a title"
    frame = b"TIT2" + struct.pack(">I", len(text)) + b"\x00\x00" + text
    body = frame.ljust(256, b"\x00")
    stated = size if isinstance(size, bytes) else syncsafe(len(body) if size is None else size)
    return b"ID3\x03\x00\x00" + stated + body


def syncsafe(value: int) -> bytes:
    return bytes(value >> shift & 0x7F for shift in (21, 14, 7, 0))


def apple_double() -> bytes:
    """The file that macOS puts beside a file on a foreign volume: Finder information and an empty resource fork."""
    entries = struct.pack(">III", 9, 50, 32) + struct.pack(">III", 2, 82, 286)
    head = struct.pack(">II16sH", 0x00051607, 0x00020000, b"Mac OS X        ", 2)
    return (head + entries).ljust(4096, b"\x00")


TEXT = b"Dear diary, this is a text that somebody gave the name of a song.\n" * 40
PLAYLIST = b"#EXTM3U\n#EXTINF:35,Somebody - Something\nmusic/something.mp3\nmusic/else.mp3\n"

DEFECTS = (
    Defect("empty.mp3", lambda: b"", exact=True),
    Defect("text-renamed.mp3", lambda: TEXT, exact=True),
    Defect("playlist-renamed.mp3", lambda: PLAYLIST, exact=True),
    Defect("random-bytes.opus", lambda: noise(20_000, b"opus"), exact=True),
    Defect("._song.mp3", apple_double, exact=True),
    Defect("truncated.mp3", lambda: cut(mp3(LONG_S))),
    Defect("truncated.flac", lambda: cut(flac(LONG_S, 6000))),
    Defect("truncated.ogg", lambda: cut(vorbis(LONG_S))),
    Defect("truncated.m4a", lambda: cut(muxed("ipod", "aac"))),
    Defect("truncated-after-index.m4a", lambda: cut(muxed("ipod", "aac", options={"movflags": "+faststart"}))),
    Defect("truncated.opus", lambda: cut(muxed("ogg", "libopus"))),
    Defect("truncated.wav", wav_cut_short, exact=True),
    Defect("video.ogg", lambda: muxed("ogg", video="libvpx")),
    Defect("video-with-audio.ogg", lambda: muxed("ogg", "libopus", "libvpx")),
    Defect("mp4-without-audio.mp4", lambda: muxed("mp4", video="mpeg4")),
    Defect("wav-named.mp3", lambda: wav(song(SHORT_S / 2)), exact=True),
    Defect("flac-named.ogg", lambda: flac(SHORT_S)),
    Defect("no-extension", lambda: mp3(SHORT_S)),
    Defect("id3-in-front.ogg", lambda: id3v2() + vorbis(SHORT_S)),
    Defect("id3-in-front.flac", lambda: id3v2() + flac(SHORT_S)),
    Defect("junk-in-front.mp3", lambda: noise(3000, b"junk") + mp3(10)),
    Defect("absurd-id3-size.mp3", lambda: id3v2(0x0FFFFFFF) + mp3(SHORT_S)),
    Defect("negative-id3-size.mp3", lambda: id3v2(b"\xff\xff\xff\xff") + mp3(SHORT_S)),
    Defect("corrupt-frames-in-the-middle.mp3", lambda: scratched(mp3(10), 1500)),
    Defect("corrupt-frames-in-the-middle.flac", lambda: scratched(flac(10), 1500)),
    Defect("corrupt-throughout.flac", lambda: scratched_all_over(flac(10))),
    Defect("wrong-crc.ogg", wrong_crc),
    Defect("zero-samples.wav", lambda: wav(song(0)), exact=True),
    Defect("one-sample.wav", lambda: wav(song(0.0001)), exact=True),
    Defect("half-a-second.flac", lambda: flac(0.5)),
    Defect("digital-silence.flac", lambda: encoded(np.zeros(LONG_S * 8000, np.int16), 8000, "FLAC", "PCM_16")),
    Defect("nan-and-inf.wav", wav_with_nan_and_inf, exact=True),
    Defect("zero-rate.wav", wav_of_zero_rate, exact=True),
    Defect("huge-length-in-header.wav", wav_of_huge_length, exact=True),
    Defect("eight-channels.wav", wav_of_eight_channels, exact=True),
    Defect("24bit.flac", flac_of_24_bits),
    Defect("8bit-8000hz.wav", wav_of_eight_bits, exact=True),
)


def main(arguments: list[str]) -> None:
    out = Path(arguments[0]) if arguments else CORPUS
    out.mkdir(parents=True, exist_ok=True)
    for defect in DEFECTS:
        (out / defect.name).write_bytes(defect.make())


if __name__ == "__main__":
    main(sys.argv[1:])
