"""Tiny valid audio files of every container, for all tests. The same arguments give the same bytes."""

from __future__ import annotations

import functools
import io
import struct
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import av
import mutagen
import mutagen.id3
import numpy as np
import soundfile
from mutagen.ogg import OggPage

EXTENSIONS = {
    "mp3": ".mp3",
    "flac": ".flac",
    "vorbis": ".ogg",
    "opus": ".opus",
    "speex": ".spx",
    "oggflac": ".oga",
    "m4a": ".m4a",
    "alac": ".m4a",
    "m4a-faststart": ".m4a",
    "m4a-fragmented": ".m4a",
    "wav": ".wav",
    "aiff": ".aiff",
    "wma": ".wma",
    "ape": ".ape",
    "wavpack": ".wv",
    "musepack": ".mpc",
    "aac": ".aac",
    "matroska": ".mka",
}
"""Every container that this module can make, with its usual extension."""

MADE_UP = frozenset({"speex", "ape", "musepack"})
"""Real headers around bytes that do not decode: there is no encoder for these, and tags need none."""

TAGGABLE = tuple(name for name in EXTENSIONS if name not in ("aac", "matroska"))

RATE_HZ = 44_100


def make(
    container: str,
    folder: Path,
    *,
    seconds: float = 1.0,
    frequency: float = 440.0,
    tags: Mapping[str, str] | None = None,
    name: str | None = None,
) -> Path:
    """Write a stereo tone in `container` into `folder`; `tags` may hold artist, title, album and genre."""
    path = folder / (name or f"{container}{EXTENSIONS[container]}")
    if tags and container == "m4a-fragmented":  # mutagen moves the offsets of the first fragment only
        _encode(path, "mp4", "aac", {"fflags": "+bitexact", **_FRAGMENTED}, tone(seconds, frequency).T, tags)
        return path
    path.write_bytes(payload(container, seconds, frequency))
    if tags:
        add_tags(path, tags)
    return path


@functools.cache
def payload(container: str, seconds: float = 1.0, frequency: float = 440.0) -> bytes:
    """The bytes of an untagged file: a stereo tone at 44.1 kHz (Opus: 48 kHz)."""
    return _MAKERS[container](seconds, frequency)


def tone(seconds: float, frequency: float, rate_hz: int = RATE_HZ) -> np.ndarray[Any, np.dtype[np.float32]]:
    """float32 [samples, 2]: a tone at half of full scale, a fifth higher on the right."""
    t = np.arange(round(seconds * rate_hz)) / rate_hz
    return np.stack([np.sin(2 * np.pi * f * t) / 2 for f in (frequency, frequency * 1.5)], axis=1).astype(np.float32)


def add_tags(path: Path, tags: Mapping[str, str]) -> None:
    """Set artist, title, album and genre with mutagen, in the container's tag format."""
    file = mutagen.File(path)
    assert file is not None, path
    if file.tags is None:
        file.add_tags()
    style = type(file.tags).__name__
    for key, value in tags.items():
        if isinstance(file.tags, mutagen.id3.ID3):
            frame = {"artist": "TPE1", "title": "TIT2", "album": "TALB", "genre": "TCON"}[key]
            file.tags.add(getattr(mutagen.id3, frame)(encoding=3, text=[value]))
        elif style == "MP4Tags":
            file.tags[{"artist": "\xa9ART", "title": "\xa9nam", "album": "\xa9alb", "genre": "\xa9gen"}[key]] = [value]
        elif style == "ASFTags":
            names = {"artist": "Author", "title": "Title", "album": "WM/AlbumTitle", "genre": "WM/Genre"}
            file.tags[names[key]] = [value]
        else:
            file.tags[key] = value
    file.save()


def _soundfile(format_: str, subtype: str | None, rate_hz: int = RATE_HZ) -> Callable[[float, float], bytes]:
    def encode(seconds: float, frequency: float) -> bytes:
        buffer = io.BytesIO()
        soundfile.write(buffer, tone(seconds, frequency, rate_hz), rate_hz, format=format_, subtype=subtype)
        data = buffer.getvalue()
        return with_serial(data, 1) if format_ == "OGG" else data

    return encode


def with_serial(data: bytes, serial: int) -> bytes:
    """The Ogg file with a fixed serial number, because libsndfile draws a random one."""
    source, pages = io.BytesIO(data), []
    while source.tell() < len(data):
        page = OggPage(source)
        page.serial = serial
        pages.append(page.write())
    return b"".join(pages)


def _pyav(format_: str, codec: str, **options: str) -> Callable[[float, float], bytes]:
    def encode(seconds: float, frequency: float) -> bytes:
        # A real file, because the mov muxer reads the file back when it moves the index to the front.
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "file"
            _encode(path, format_, codec, {"fflags": "+bitexact", **options}, tone(seconds, frequency).T)
            return path.read_bytes()

    return encode


def _encode(
    path: Path,
    format_: str,
    codec: str,
    options: dict[str, str],
    samples: np.ndarray[Any, Any],
    tags: Mapping[str, str] | None = None,
) -> None:
    with av.open(path, "w", format=format_, options=options) as out:
        out.metadata.update(tags or {})
        stream: Any = out.add_stream(codec, rate=RATE_HZ)
        stream.layout = "stereo"
        stream.bit_rate = 128_000
        if codec == "wavpack":
            stream.format = "s16p"
        stream.codec_context.flags |= 1 << 23  # AV_CODEC_FLAG_BITEXACT
        sample_format = stream.format.name
        step = stream.codec_context.frame_size or 1024
        for start in range(0, samples.shape[1], step):
            part = np.ascontiguousarray(samples[:, start : start + step])
            frame = av.AudioFrame.from_ndarray(_as(sample_format, part), format=sample_format, layout="stereo")
            frame.rate, frame.pts = RATE_HZ, start
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def _as(sample_format: str, samples: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if sample_format.startswith("fl"):
        return samples if sample_format.endswith("p") else np.ascontiguousarray(samples.T.reshape(1, -1))
    bits = int(sample_format.strip("sp"))
    whole = (samples * (2 ** (bits - 1) - 1)).astype(f"int{bits}")
    return whole if sample_format.endswith("p") else np.ascontiguousarray(whole.T.reshape(1, -1))


def _noise(seconds: float, frequency: float, bytes_a_second: int = 4_000) -> bytes:
    return np.random.default_rng(round(frequency)).bytes(round(seconds * bytes_a_second))


def _ape(seconds: float, frequency: float) -> bytes:
    blocks = round(seconds * RATE_HZ)
    descriptor = struct.pack("<4sHHIIIIIII16s", b"MAC ", 3990, 0, 52, 24, 4, 44, 4_000, 0, 0, bytes(16))
    header = struct.pack("<HHIIIHHI", 2000, 0, 73_728, blocks, 1, 16, 2, RATE_HZ)
    return descriptor + header + bytes(4) + _noise(seconds, frequency)


def _musepack(seconds: float, frequency: float) -> bytes:
    frames = max(1, round(seconds * RATE_HZ / 1152))
    return b"MP+\x07" + struct.pack("<II", frames, 0) + bytes(20) + _noise(seconds, frequency)


def _speex(seconds: float, frequency: float) -> bytes:
    head = b"Speex   " + b"1.2".ljust(20, b"\0")
    head += struct.pack("<13i", 1, 80, RATE_HZ, 1, 4, 2, -1, 640, 0, 1, 0, 0, 0)
    vendor = b"tests"
    comment = struct.pack("<I", len(vendor)) + vendor + struct.pack("<I", 0)
    noise = _noise(seconds, frequency)
    packets = [noise[at : at + 70] for at in range(0, len(noise), 70)]
    pages = [_page([head], 0), _page([comment], 1)]
    pages += [_page(packets[at : at + 20], 2 + at // 20) for at in range(0, len(packets), 20)]
    pages[0].first, pages[-1].last = True, True
    return b"".join(page.write() for page in pages)


def _page(packets: list[bytes], sequence: int) -> OggPage:
    page = OggPage()
    page.serial, page.sequence, page.packets = 7, sequence, packets
    page.position = max(0, sequence - 1) * 20 * 640
    return page


_FRAGMENTED = {"movflags": "+frag_keyframe+empty_moov", "frag_duration": "200000"}

_MAKERS: dict[str, Callable[[float, float], bytes]] = {
    "mp3": _soundfile("MP3", None),
    "flac": _soundfile("FLAC", "PCM_16"),
    "vorbis": _soundfile("OGG", "VORBIS"),
    "opus": _soundfile("OGG", "OPUS", 48_000),
    "speex": _speex,
    "oggflac": _pyav("ogg", "flac"),
    "m4a": _pyav("ipod", "aac"),
    "alac": _pyav("ipod", "alac"),
    "m4a-faststart": _pyav("ipod", "aac", movflags="+faststart"),
    "m4a-fragmented": _pyav("mp4", "aac", **_FRAGMENTED),
    "wav": _soundfile("WAV", "PCM_16"),
    "aiff": _soundfile("AIFF", "PCM_16"),
    "wma": _pyav("asf", "wmav2"),
    "ape": _ape,
    "wavpack": _pyav("wv", "wavpack"),
    "musepack": _musepack,
    "aac": _pyav("adts", "aac"),
    "matroska": _pyav("matroska", "aac"),
}
