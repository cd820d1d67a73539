"""Make the example tracks from the Debian packages that they come from.

    uv run python examples/make_examples.py PACKAGES [OUT]

PACKAGES has one folder for each package, unpacked with `dpkg -x PACKAGE.deb PACKAGES/PACKAGE`. OUT is this folder
unless given. The audio is the same in every run. The bytes are the same only with the same encoders, so checksums
differ between machines.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import mutagen
import numpy as np
import numpy.typing as npt
import soundfile
import soxr

Wave = npt.NDArray[np.float32]

LENGTH_S = 45
FADE_IN_S = 0.25
FADE_OUT_S = 1.5
# The same level for all six, low enough that the overshoot of a lossy encoder clips none.
TARGET_RMS = 10 ** (-18 / 20)
PEAK = 0.85


@dataclass(frozen=True)
class Source:
    """One excerpt: its source and its tags; an empty `genre` writes no genre tag."""

    file: str
    package: str
    path: str
    start_s: float
    artist: str
    title: str
    licence: str
    genre: str = ""
    sample_rate_hz: int = 44_100
    channels: int = 2
    mixed_with: str = ""


SOURCES = (
    Source(
        file="01-muldjord-armygeddon.mp3",
        package="fretsonfire-songs-muldjord",
        path="usr/share/games/fretsonfire/data/songs/muldjord/armygeddon/song.ogg",
        # The game has the lead guitar in a file of its own; the sum of both is the song.
        mixed_with="usr/share/games/fretsonfire/data/songs/muldjord/armygeddon/guitar.ogg",
        start_s=100.0,
        artist="Muldjord",
        title="Armygeddon (excerpt)",
        licence="CC-BY-SA-3.0",
        genre="Death Metal",
    ),
    Source(
        file="02-john-michel-ave-maria.flac",
        package="freedink-data",
        path="usr/share/games/dink/dink/Sound/1.ogg",
        start_s=16.2,
        artist="John Michel",
        title="Ave Maria, Bach and Gounod (excerpt)",
        licence="CC-BY-SA-3.0",
        genre="Classical",
        # The channels partly cancel when mixed (their correlation is -0.39), so only the left one is used.
        sample_rate_hz=22_050,
        channels=1,
    ),
    Source(
        file="03-gachopin-lovin.m4a",
        package="freedink-data",
        path="usr/share/games/dink/dink/Sound/lovin.ogg",
        start_s=74.4,
        artist="Gachopin",
        title="Lovin' (excerpt)",
        licence="CC-BY-3.0",
    ),
    Source(
        file="04-dj-sjors-adventure.opus",
        package="blobwars-data",
        path="usr/share/games/blobwars/music/cave",
        start_s=166.6,
        artist="DJ Sjors",
        title="Adventure (excerpt)",
        licence="CC-BY-SA-3.0",
        sample_rate_hz=48_000,
    ),
    Source(
        file="05-sinq-tryout-desperate.opus",
        package="blobwars-data",
        path="usr/share/games/blobwars/music/credits",
        start_s=131.1,
        artist="SinQ",
        title="Tryout - desperate (excerpt)",
        licence="CC-BY-3.0",
        genre="Ambient",
        sample_rate_hz=48_000,
    ),
    Source(
        file="06-el-hombre-sin-remedio-city.ogg",
        package="hedgewars-data",
        path="usr/share/games/hedgewars/Data/Music/City.ogg",
        start_s=193.4,
        artist="El Hombre Sin Remedio",
        title="City (excerpt)",
        licence="GPL-2.0",
    ),
)

# Formats that PyAV writes: container, encoder, bits per second. libsndfile writes the other two.
ENCODERS = {
    ".mp3": ("mp3", "libmp3lame", 128_000),
    ".m4a": ("ipod", "aac", 96_000),
    ".opus": ("opus", "libopus", 64_000),
}


def excerpt(source: Source, packages: Path) -> Wave:
    """The excerpt of `source` at its final level, faded: float32 [samples, channels] at `source.sample_rate_hz`."""
    wave, rate_hz = read(packages / source.package / source.path, source.start_s)
    if source.mixed_with:
        wave = wave + read(packages / source.package / source.mixed_with, source.start_s)[0]
    resampled: Wave = soxr.resample(wave[:, : source.channels], rate_hz, source.sample_rate_hz, quality="VHQ")
    return faded(levelled(resampled), source.sample_rate_hz)


def read(path: Path, start_s: float) -> tuple[Wave, int]:
    """LENGTH_S seconds of `path` from `start_s`, float32 [samples, channels], and their sample rate in Hz."""
    with soundfile.SoundFile(path) as sound:
        sound.seek(round(start_s * sound.samplerate))
        return sound.read(round(LENGTH_S * sound.samplerate), dtype="float32", always_2d=True), sound.samplerate


def levelled(wave: Wave) -> Wave:
    """`wave` at TARGET_RMS, or lower where its peaks would pass PEAK."""
    rms, peak = float(np.sqrt(np.mean(np.square(wave)))), float(np.max(np.abs(wave)))
    scaled: Wave = wave * np.float32(min(TARGET_RMS / rms, PEAK / peak))
    return scaled


def faded(wave: Wave, rate_hz: int) -> Wave:
    """`wave` with a short fade at both ends. Neither end reaches zero, so there is no digital silence."""
    gain = np.ones(len(wave), dtype=np.float32)
    n_in, n_out = round(FADE_IN_S * rate_hz), round(FADE_OUT_S * rate_hz)
    gain[:n_in] = np.sin(np.linspace(0.05, np.pi / 2, n_in))
    gain[-n_out:] = np.cos(np.linspace(0, np.pi / 2 - 0.05, n_out))
    result: Wave = wave * gain[:, None]
    return result


def write_audio(path: Path, wave: Wave, rate_hz: int) -> None:
    """Encode `wave`, float32 [samples, channels], in the format of the suffix of `path`."""
    if path.suffix in ENCODERS:
        write_with_av(path, wave, rate_hz)
    elif path.suffix == ".flac":
        soundfile.write(path, wave, rate_hz, format="FLAC", subtype="PCM_16", compression_level=1.0)
    else:
        write_vorbis(path, wave, rate_hz)


def write_vorbis(path: Path, wave: Wave, rate_hz: int) -> None:
    """Write Vorbis in blocks, because libsndfile's encoder overruns its stack when given many seconds at once."""
    with soundfile.SoundFile(
        path, "w", rate_hz, wave.shape[1], format="OGG", subtype="VORBIS", compression_level=0.7
    ) as out:
        for start in range(0, len(wave), 4096):
            out.write(wave[start : start + 4096])


def write_with_av(path: Path, wave: Wave, rate_hz: int) -> None:
    """Encode `wave` with PyAV, in blocks of 20 ms at 48 kHz."""
    container, codec, bit_rate = ENCODERS[path.suffix]
    layout = "mono" if wave.shape[1] == 1 else "stereo"
    with av.open(str(path), "w", format=container) as out:
        stream = cast(av.AudioStream, out.add_stream(codec, rate=rate_hz, layout=layout))
        stream.bit_rate = bit_rate
        for start in range(0, len(wave), 960):
            block = np.ascontiguousarray(wave[start : start + 960].T)
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = rate_hz, start, Fraction(1, rate_hz)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def write_tags(path: Path, source: Source) -> None:
    """Replace the tags of `path` by artist, title, licence and, if `source` has one, genre."""
    audio = mutagen.File(path, easy=True)
    if audio.tags is None:
        audio.add_tags()
    audio.tags.clear()
    audio["artist"], audio["title"], audio["copyright"] = source.artist, source.title, source.licence
    if source.genre:
        audio["genre"] = source.genre
    audio.save()


def main(arguments: list[str]) -> None:
    """Make every example and print its size."""
    if len(arguments) not in (1, 2):
        sys.exit(__doc__)
    packages = Path(arguments[0])
    out = Path(arguments[1]) if len(arguments) == 2 else Path(__file__).parent
    for source in SOURCES:
        path = out / source.file
        write_audio(path, excerpt(source, packages), source.sample_rate_hz)
        write_tags(path, source)
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
