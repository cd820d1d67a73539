"""Render an arrangement for stylebank.py: a script for mma, its MIDI file, and audio by fluidsynth."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random

import numpy as np
import soundfile
from numpy.typing import NDArray

from musictagger.errors import BadRequestError
from tools.stylebank_charts import Bar, Chart, melody

STYLES = Path("/usr/share/mma/lib")
RATE_HZ = 22_050
SOUNDFONTS: Mapping[str, tuple[str, str]] = {
    "TimGM6mb": ("/usr/share/sounds/sf2/TimGM6mb.sf2", "timgm6mb-soundfont"),
    "GMbank": ("/usr/share/sounds/sf2/sf_GMbank.sf2", "csound-soundfont"),
    "FluidR3": ("/usr/share/sounds/sf2/FluidR3_GM.sf2", "fluid-soundfont-gm"),
}
"""Name: file and its Debian package. MuseScore's soundfonts are left out, because they were made from FluidR3."""
_PATIENCE_S = 300
_FADE_S = 0.05
_SILENT_RMS = 1e-4
_DRUMS = 9
"""The channel of the drums in General MIDI, counted from 0."""


class StyleError(Exception):
    """mma could not compose in a style."""


class SilentError(Exception):
    """The rendered audio is silent, mostly silent or too short."""


def require_tools() -> None:
    """Raise BadRequestError naming the Debian packages that are missing."""
    missing = [name for name in ("mma", "fluidsynth") if shutil.which(name) is None]
    missing += [package for path, package in SOUNDFONTS.values() if not Path(path).is_file()]
    if not missing and not STYLES.is_dir():
        missing = ["mma"]
    if missing:
        raise BadRequestError(f"not installed: {', '.join(missing)}; run: apt-get install {' '.join(missing)}")


@dataclass(frozen=True)
class Grooves:
    """The grooves of a style file by their use, and the quarters in a bar."""

    beats: int
    main: tuple[str, ...]
    intro: tuple[str, ...]
    fill: tuple[str, ...]


def parse_grooves(text: str) -> Grooves:
    """The grooves of a style file, without those for endings, counting in and metronomes."""
    names = re.findall(r"^\s*DefGroove\s+(\S+)", text, re.IGNORECASE | re.MULTILINE)
    time = re.search(r"^\s*Time\s+(\d+)", text, re.IGNORECASE | re.MULTILINE)
    uses: dict[str, list[str]] = {"main": [], "intro": [], "fill": []}
    for name in dict.fromkeys(names):
        if re.search(r"End(ing)?(Sus)?\w?$|[a-z\d]E$|Metronome|Break", name):
            continue
        word = re.search(r"Intro|intro|Fill|fill|[a-z\d]F[AB]$", name)
        uses["main" if word is None else "intro" if word[0].lower() == "intro" else "fill"].append(name)
    return Grooves(int(time[1]) if time else 4, tuple(uses["main"]), tuple(uses["intro"]), tuple(uses["fill"]))


@dataclass(frozen=True)
class Backing:
    """The accompaniment of drum-only styles; see [backing] in stylebank.toml."""

    bass: float
    bass_voice: tuple[str, ...]
    chords: tuple[str, ...]
    voice: tuple[str, ...]


@dataclass(frozen=True)
class Arrangement:
    """Everything that determines a script for mma."""

    style: str
    grooves: Grooves
    chart: Chart
    tempo: int
    """Quarters a minute."""
    seconds: float
    lead: str | None
    """The voice of the melody; None for no melody."""
    backing: Backing | None


def script(random: Random, arrangement: Arrangement) -> str:
    """The arrangement as a script for mma, at least as long as required."""
    beats, name = arrangement.grooves.beats, _chooser(random, arrangement)
    count = int((arrangement.seconds + 6) * arrangement.tempo / 60 / beats) + 2
    lines = [f"Tempo {arrangement.tempo}", f"RndSeed {random.randrange(1, 10**6)}"]
    if arrangement.backing is not None:
        lines += [
            line
            for groove in arrangement.grooves.main[:8]
            for line in _backed(random, arrangement, groove, arrangement.backing)
        ]
    if arrangement.lead is not None:
        volume = random.choice(("mf", "f", "ff"))
        lines += [
            "Begin Solo",
            f"  Voice {arrangement.lead}",
            "  Octave 5",
            f"  Volume {volume}",
            "  Articulate 90",
            "End",
        ]
    bars = list(islice(_sections(arrangement, name, random), count))
    silent = random.choice((0, 4, 8))
    tunes = melody(random, arrangement.chart, [bar for _, bar in bars], beats)
    last = ""
    for number, ((groove, bar), tune) in enumerate(zip(bars, tunes, strict=True), 1):
        if groove != last:
            lines.append(f"Groove {groove}")
            last = groove
        solo = f" {{{tune}}}" if arrangement.lead is not None and tune and number > silent else ""
        lines.append(f"{number} {_on_beats(arrangement.chart.spelled(bar), beats)}{solo}")
    return "\n".join(lines) + "\n"


def _chooser(random: Random, arrangement: Arrangement) -> Mapping[str, tuple[str, ...]]:
    """Choose a few of the style's grooves for this arrangement."""

    def some(names: tuple[str, ...], most: int) -> tuple[str, ...]:
        return tuple(f"{arrangement.style}:{name}" for name in random.sample(names, min(len(names), most)))

    if arrangement.backing is not None:
        return {"main": tuple(f"Backed{name}" for name in arrangement.grooves.main[:8]), "intro": (), "fill": ()}
    use_intro = random.random() < 0.5
    return {
        "main": some(arrangement.grooves.main, random.choice((1, 2, 3))),
        "intro": some(arrangement.grooves.intro, 1) if use_intro else (),
        "fill": some(arrangement.grooves.fill, 2),
    }


def _sections(
    arrangement: Arrangement, names: Mapping[str, tuple[str, ...]], random: Random
) -> Iterator[tuple[str, Bar]]:
    """Groove and chords of each bar, endlessly: sometimes an introduction, then the form repeatedly."""
    chart = arrangement.chart
    if names["intro"]:
        for bar in chart.sections[chart.form[0]][-4:]:
            yield names["intro"][0], bar
    grooves = [random.choice(names["main"]) for _ in chart.sections]
    while True:
        for part in chart.form:
            section = chart.sections[part]
            for number, bar in enumerate(section):
                fill = number == len(section) - 1 and names["fill"] and random.random() < 0.6
                yield random.choice(names["fill"]) if fill else grooves[part], bar


def _on_beats(chords: Sequence[str], beats: int) -> str:
    if len(chords) == 1 or beats < 2:
        return chords[0]
    half = (beats + 1) // 2
    return " ".join([chords[0], *["/"] * (half - 1), chords[1], *["/"] * (beats - half - 1)])


def _backed(random: Random, arrangement: Arrangement, groove: str, backing: Backing) -> Iterator[str]:
    """Lines that add a bass and chords to a groove of drums, under a new name."""
    beats = arrangement.grooves.beats
    yield f"Groove {arrangement.style}:{groove}"
    yield from ("Begin Bass-Backing", f"  Voice {random.choice(backing.bass_voice)}", "  Octave 3", "  Volume mf")
    yield from (f"  Sequence {_bass(random, beats, backing.bass)} {_bass(random, beats, backing.bass)}", "End")
    kind = random.choice(backing.chords)
    yield from ("Begin Chord-Backing", f"  Voice {random.choice(backing.voice)}", "  Octave 5", "  Volume mf")
    yield from ("  Voicing Mode=Optimal", f"  Sequence {_chords(random, beats, kind)}", "End")
    yield f"DefGroove Backed{groove}"


def _bass(random: Random, beats: int, likely: float) -> str:
    places = [1.0, *(1 + eighth / 2 for eighth in range(1, 2 * beats) if random.random() < likely)]
    degrees = ["1", *random.choices(("1", "1", "1", "5", "1+", "3"), k=len(places) - 1)]
    notes = [f"{at:g} 8 {degree} {random.randint(75, 100)}" for at, degree in zip(places, degrees, strict=True)]
    return "{" + "; ".join(notes) + "}"


def _chords(random: Random, beats: int, kind: str) -> str:
    eighths = [(1 + k / 2, "8") for k in range(2 * beats)]
    hits: Mapping[str, list[tuple[float, str]]] = {
        "held": [(1, "1" if beats == 4 else "2.")],
        "beats": [(1 + k, "4") for k in range(beats)],
        "offbeats": [(beat, "8") for beat, _ in eighths if beat % 1] if random.random() < 0.5 else [(2, "8"), (4, "8")],
        "eighths": eighths,
        "stabs": sorted(random.sample(eighths, random.choice((2, 3, 4)))),
        "gallop": [hit for k in range(beats) for hit in ((1 + k, "8"), (1.5 + k, "16"), (1.75 + k, "16"))],
    }
    return "{" + "; ".join(f"{beat:g} {length} {random.randint(75, 95)}" for beat, length in hits[kind]) + "}"


def compose(text: str, folder: Path) -> bytes:
    """The MIDI file that mma composes from a script, with its files in `folder`. Raises StyleError with its message."""
    source, target = folder / "arrangement.mma", folder / "arrangement.mid"
    target.unlink(missing_ok=True)
    source.write_text(text, encoding="utf-8")
    done = _run(["mma", "-w", "-xNOCREDIT", "-f", str(target), str(source)])
    if done.returncode or not target.is_file():
        words = [line for line in (done.stdout + done.stderr).splitlines() if "Error" in line] or ["wrote no file"]
        raise StyleError(words[0].replace(str(source), "script").strip())
    return target.read_bytes()


@dataclass(frozen=True)
class Note:
    """One note: its start, its channel and program, and its velocity (1 to 127)."""

    second: float
    channel: int
    program: int
    velocity: int

    @property
    def drum(self) -> bool:
        """True for a note on the drum channel."""
        return self.channel == _DRUMS


def notes(midi: bytes, tempo: int) -> list[Note]:
    """All notes of a MIDI file with one tempo, in order of time."""
    division = int.from_bytes(midi[12:14], "big")
    events = sorted(_events(midi), key=lambda event: event[0])
    programs: Counter[int] = Counter()
    found = []
    for tick, status, first, second, _ in events:
        if status >> 4 == 0xC:
            programs[status & 15] = first
        elif status >> 4 == 9 and second > 0:
            when = tick / division * 60 / tempo
            found.append(Note(when, status & 15, programs[status & 15], second))
    return found


def substituted(midi: bytes, programs: Mapping[int, int]) -> bytes:
    """The file with programs replaced as `programs` maps them; the drums stay."""
    altered = bytearray(midi)
    for _, status, first, _, place in _events(midi):
        if status >> 4 == 0xC and status & 15 != _DRUMS:
            altered[place] = programs.get(first, first)
    return bytes(altered)


def _events(midi: bytes) -> Iterator[tuple[int, int, int, int, int]]:
    """Tick, status, two data bytes (the second 0 if there is none) and the offset of the first, track after track."""
    at = 14
    while at + 8 <= len(midi):
        end = at + 8 + int.from_bytes(midi[at + 4 : at + 8], "big")
        if midi[at : at + 4] == b"MTrk":
            yield from _track(midi, at + 8, end)
        at = end


def _track(midi: bytes, at: int, end: int) -> Iterator[tuple[int, int, int, int, int]]:
    tick = status = 0
    while at < end:
        delta, at = _number(midi, at)
        tick += delta
        if midi[at] & 0x80:
            status, at = midi[at], at + 1
        if status in (0xF0, 0xF7, 0xFF):
            length, at = _number(midi, at + (status == 0xFF))
            at += length
            continue
        pair = status >> 4 not in (0xC, 0xD)
        yield tick, status, midi[at], midi[at + 1] if pair else 0, at
        at += 1 + pair


def _number(midi: bytes, at: int) -> tuple[int, int]:
    """A variable-length number, and the offset after it."""
    value = 0
    while True:
        value = value << 7 | midi[at] & 0x7F
        at += 1
        if not midi[at - 1] & 0x80:
            return value, at


def render(random: Random, midi: bytes, soundfont: str, seconds: float, folder: Path) -> NDArray[np.float32]:
    """Render a MIDI file as float32 [samples] at RATE_HZ, mono: trimmed, `seconds` long, at a random level.

    Raises SilentError.
    """
    source, target = folder / "arrangement.mid", folder / "arrangement.wav"
    source.write_bytes(midi)
    target.unlink(missing_ok=True)
    command = ["fluidsynth", "-ni", "-q", "-g", "0.4", "-O", "float", "-r", str(RATE_HZ), "-F", str(target)]
    done = _run([*command, *_effects(random), SOUNDFONTS[soundfont][0], str(source)])
    if done.returncode or not target.is_file():
        raise SilentError(f"fluidsynth: {(done.stderr or done.stdout).strip()[-200:] or done.returncode}")
    wave, _ = soundfile.read(target, dtype="float32", always_2d=True)
    target.unlink()
    return levelled(random, wave.mean(axis=1, dtype=np.float32), seconds)


def _effects(random: Random) -> Iterator[str]:
    reverb, chorus = random.random() < 0.6, random.random() < 0.4
    yield from ("-R", str(int(reverb)), "-C", str(int(chorus)), "-o", "synth.dynamic-sample-loading=1")
    if reverb:
        yield from ("-o", f"synth.reverb.room-size={random.uniform(0.2, 0.9):.3f}")
        yield from ("-o", f"synth.reverb.level={random.uniform(0.2, 0.9):.3f}")
        yield from ("-o", f"synth.reverb.damp={random.uniform(0, 0.8):.3f}")
    if chorus:
        yield from ("-o", f"synth.chorus.level={random.uniform(0.3, 2.5):.3f}")


def levelled(random: Random, wave: NDArray[np.float32], seconds: float) -> NDArray[np.float32]:
    """The wave without leading silence, cut, faded out, at a level of -28 to -14 dB. Raises SilentError."""
    samples, fade = round(seconds * RATE_HZ), round(_FADE_S * RATE_HZ)
    peak = float(np.abs(wave).max(initial=0))
    loud = np.flatnonzero(np.abs(wave) > 0.003 * peak)
    wave = wave[loud[0] if len(loud) else 0 :][:samples]
    if len(wave) < samples:
        raise SilentError(f"{len(wave) / RATE_HZ:.1f} s long, wanted {seconds:g} s")
    blocks = np.sqrt(np.mean(np.square(wave[: samples // RATE_HZ * RATE_HZ].reshape(-1, RATE_HZ)), axis=1))
    if peak < 10 * _SILENT_RMS or np.mean(blocks < max(_SILENT_RMS, 0.003 * peak)) > 0.25:
        raise SilentError("silent")
    wanted = 10 ** (random.uniform(-28, -14) / 20) / float(np.sqrt(np.mean(np.square(wave))))
    wave = wave * np.float32(min(wanted, 0.95 / float(np.abs(wave).max())))
    wave[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
    return wave


def write(wave: NDArray[np.float32], path: Path) -> None:
    """Write Ogg Vorbis atomically. In blocks, because libsndfile overruns its stack on a whole track at once."""
    part = path.with_name(f".{path.name}.part")
    with soundfile.SoundFile(part, "w", RATE_HZ, 1, format="OGG", subtype="VORBIS") as file:
        for start in range(0, len(wave), RATE_HZ):
            file.write(wave[start : start + RATE_HZ])
    part.replace(path)


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_PATIENCE_S, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"Error: no answer in {_PATIENCE_S} s")
