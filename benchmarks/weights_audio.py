"""Recordings of known content, and the scores of models on them, for benchmarks/weights.py.

The recordings are single instruments, and the same music in several encodings.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any

import av
import mido
import numpy as np
import soundfile
import soxr

from musictagger.audio.decode import decode_frames
from musictagger.audio.frames import FrameRule, Wave
from musictagger.audio.walk import absolute
from musictagger.errors import AudioError, BadRequestError, printable
from musictagger.evaluation.scoring import score_tracks
from musictagger.models.calibration import calibrated
from musictagger.models.card import Card
from musictagger.models.inference import Predictor
from musictagger.paths import replacing
from musictagger.records import FloatArray
from musictagger.scores.aggregate import aggregate, merge_outputs
from tools.stylebank_render import render, write

INSTRUMENTS: Mapping[str, tuple[int, ...]] = {
    "Guitar": (24, 25, 26, 27),
    "Piano": (0, 1),
    "Violin": (40,),
    "Flute": (73,),
    "Harpsichord": (6,),
    "Choir": (52, 53),
    "Drums": (0,),
    "Strings": (48, 49),
    "Sitar": (104,),
    "Harp": (46,),
    "Cello": (42,),
    "Synthesizer": (81, 90),
}
"""Tags, and the General MIDI programs of these instruments, counted from 0."""
RECORDINGS = 4
"""Recordings of each instrument with each soundfont."""
RECORDING_S = 40.0
_FONTS = ("FluidR3", "TimGM6mb")
"""Two of SOUNDFONTS, made by different people."""
_DRUMS = 9
_MELODIC = {"Violin": (55, 88), "Flute": (60, 90), "Cello": (36, 64), "Sitar": (48, 72)}
"""Instruments that play one note at a time, and their range."""

RATE_HZ = 44_100
EXCERPT_S = 60.0
SAVE_AFTER = 64
"""Tracks that an interrupted run has to score again at most."""


def render_instruments(folder: Path) -> dict[Path, str]:
    """Render the missing recordings and return all: the instrument by path. Needs fluidsynth and the soundfonts."""
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[Path, str] = {}
    for name, programs in INSTRUMENTS.items():
        for font in _FONTS:
            for number in range(RECORDINGS):
                path = folder / f"{name.lower()}-{font}-{number}.ogg"
                if not path.exists():
                    random = Random(f"{name.lower()} {font} {number}")
                    midi = _midi_file(random, name, programs[number % len(programs)])
                    with tempfile.TemporaryDirectory() as scratch:
                        write(render(random, midi, font, RECORDING_S, Path(scratch)), path)
                found[path] = name
    return found


def _midi_file(random: Random, name: str, program: int) -> bytes:
    """A MIDI file longer than RECORDING_S: broken chords, a melody or drums."""
    track = mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(random.randint(80, 132)))])
    if name != "Drums":
        track.append(mido.Message("program_change", program=program, channel=0))
    key = random.randrange(12)
    play = _drummer if name == "Drums" else _melody if name in _MELODIC else _chords
    for _ in range(40):
        for pitches, eighths in play(random, key, name):
            _strike(track, pitches, eighths, random, _DRUMS if name == "Drums" else 0)
    file = mido.MidiFile(type=0, ticks_per_beat=480)
    file.tracks.append(track)
    written = BytesIO()
    file.save(file=written)
    return written.getvalue()


Beat = tuple[tuple[int, ...], int]
"""Pitches played at once, and their length in eighths."""


def _chords(random: Random, key: int, name: str) -> Iterator[Beat]:
    root = 48 + (key + random.choice((0, 5, 7, 9))) % 12
    third = random.choice((3, 4))
    chord = (root, root + third, root + 7, root + 12)
    if name in {"Choir", "Strings", "Synthesizer"} or random.random() < 0.3:
        yield chord, 8
    else:
        yield from (((pitch,), 1) for pitch in (*chord, *reversed(chord)))


def _melody(random: Random, key: int, name: str) -> Iterator[Beat]:
    low, high = _MELODIC[name]
    scale = [pitch for pitch in range(low, high) if (pitch - key) % 12 in {0, 2, 4, 5, 7, 9, 11}]
    place = random.randrange(len(scale))
    for _ in range(4):
        place = min(max(place + random.randint(-3, 3), 0), len(scale) - 1)
        yield (scale[place],), random.choice((1, 2, 3))


def _drummer(random: Random, key: int, name: str) -> Iterator[Beat]:
    for eighth in range(8):
        hits = [42, *([36] if eighth % 4 == 0 or random.random() < 0.15 else []), *([38] if eighth % 4 == 2 else [])]
        yield tuple(hits), 1


def _strike(track: mido.MidiTrack, pitches: Sequence[int], eighths: int, random: Random, channel: int) -> None:
    velocity = random.randint(64, 112)
    for pitch in pitches:
        track.append(mido.Message("note_on", note=pitch, velocity=velocity, channel=channel, time=0))
    for index, pitch in enumerate(pitches):
        time = 0 if index else eighths * 240
        track.append(mido.Message("note_off", note=pitch, velocity=0, channel=channel, time=time))


def write_variants(tracks: Sequence[Path], folder: Path) -> dict[str, list[Path]]:
    """The middle minute of each decodable track, unchanged and in every variant; existing files are kept.

    Raises BadRequestError with a reason where no track can be decoded.
    """
    written: dict[str, list[Path]] = {}
    reason = "there are none"
    for track in tracks:
        try:
            wave = _middle(track)
        except AudioError as error:
            reason = str(error)
            continue
        for variant, save in {"plain": _wav, **VARIANTS}.items():
            name = hashlib.sha256(str(track).encode()).hexdigest()[:12] + _SUFFIX.get(variant, ".wav")
            path = folder / variant.replace(" ", "-").replace("/", "-") / name
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                unfinished = path.with_name(f"unfinished{path.suffix}")
                save(unfinished, wave)
                unfinished.replace(path)
            written.setdefault(variant, []).append(path)
    if not written:
        raise BadRequestError(f"none of {len(tracks):,} tracks can be written in other encodings: {reason}")
    return written


def _middle(track: Path) -> Wave:
    rule = FrameRule(RATE_HZ, tail=True)
    frames = [frame for _, frame in decode_frames(track, RATE_HZ, rule)]
    if not frames:
        raise AudioError(track, "contains no audio")
    wave = np.concatenate(frames)
    samples = int(EXCERPT_S * RATE_HZ)
    start = max(0, (len(wave) - samples) // 2)
    return wave[start : start + samples]


def _wav(path: Path, wave: Wave) -> None:
    soundfile.write(path, wave, RATE_HZ, subtype="FLOAT")


def _resampled(rate_hz: int) -> Callable[[Path, Wave], None]:
    return lambda path, wave: soundfile.write(path, soxr.resample(wave, RATE_HZ, rate_hz), rate_hz, subtype="FLOAT")


def _with_gain(change_db: float) -> Callable[[Path, Wave], None]:
    return lambda path, wave: _wav(path, wave * np.float32(10 ** (change_db / 20)))


def _with_noise(below_db: float) -> Callable[[Path, Wave], None]:
    def save(path: Path, wave: Wave) -> None:
        noise = np.random.default_rng(len(wave)).standard_normal(len(wave)).astype(np.float32)
        _wav(path, wave + noise * np.float32(np.sqrt(np.mean(wave**2)) * 10 ** (-below_db / 20)))

    return save


def _with_codec(codec: str, rate_hz: int, bits: int) -> Callable[[Path, Wave], None]:
    def save(path: Path, wave: Wave) -> None:
        wave = np.clip(soxr.resample(wave, RATE_HZ, rate_hz), -1, 1)[None].astype(np.float32)
        frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
        frame.sample_rate = rate_hz
        with av.open(str(path), "w") as file:
            stream: Any = file.add_stream(codec, rate=rate_hz, layout="mono", bit_rate=bits)
            coder = stream.codec_context
            coder.open()
            cut = av.AudioResampler(coder.format, "mono", rate_hz, coder.frame_size)
            for part in (*cut.resample(frame), *cut.resample(None), None):
                file.mux(stream.encode(part))

    return save


VARIANTS: Mapping[str, Callable[[Path, Wave], None]] = {
    "MP3 64 kbit/s": _with_codec("libmp3lame", 44_100, 64_000),
    "Opus 32 kbit/s": _with_codec("libopus", 48_000, 32_000),
    "22.05 kHz": _resampled(22_050),
    "8 kHz": _resampled(8_000),
    "6 dB louder": _with_gain(6.0),
    "6 dB softer": _with_gain(-6.0),
    "noise 5 dB below": _with_noise(5.0),
    "noise 20 dB below": _with_noise(20.0),
}
_SUFFIX = {"MP3 64 kbit/s": ".mp3", "Opus 32 kbit/s": ".opus"}


@dataclass(frozen=True, eq=False)
class Predictions:
    """Calibrated scores float32 [tracks, tags] in the card's order, and embeddings float32 [tracks, dim]."""

    paths: tuple[Path, ...]
    scores: FloatArray
    embeddings: FloatArray

    def of(self, path: Path) -> FloatArray:
        """The scores of one track. Raises BadRequestError if it could not be scored."""
        if path not in self.paths:
            raise BadRequestError(f"{path}: could not be scored")
        row: FloatArray = self.scores[self.paths.index(path)]
        return row


@dataclass(frozen=True, eq=False)
class Contender:
    """One model; `folder` keeps its scores."""

    predictor: Predictor
    folder: Path

    @property
    def card(self) -> Card:
        """The model's card."""
        return self.predictor.card

    @cached_property
    def tags(self) -> tuple[str, ...]:
        """Names of the model's tags."""
        return tuple(tag.name for tag in self.card.tags)

    def predict(self, paths: Sequence[Path]) -> Predictions:
        """Score tracks, each only once; tracks that cannot be scored are left out.

        Raises BadRequestError with a reason if none can be scored.
        """
        keys = {path: _key(path) for path in paths}
        missing = [path for path, key in keys.items() if key not in self._known]
        failures: dict[Path, str] = {}
        for start in range(0, len(missing), SAVE_AFTER):
            track_scores = score_tracks(self.predictor, missing[start : start + SAVE_AFTER])
            failures |= track_scores.failures
            for path, frames, embedding in zip(
                track_scores.paths, track_scores.frame_scores, track_scores.embeddings, strict=True
            ):
                self._known[keys[path]] = (aggregate(merge_outputs(frames, self.card)), embedding)
            self._save()
        known = {path: self._known[key] for path, key in keys.items() if key in self._known}
        if not known:
            first = next((f"{printable(path)}: {why}" for path, why in failures.items()), "there are none")
            raise BadRequestError(f"{self.card.name} can score none of {len(keys):,} tracks: {first}")
        scores, embeddings = (np.stack(rows) for rows in zip(*known.values(), strict=True))
        return Predictions(tuple(known), calibrated(scores, self.card.curves, self.tags), embeddings)

    @cached_property
    def _file(self) -> Path:
        # Scores are kept by tag, so the same weights with other tags need a file of their own.
        made_of = [self.card.key, [(tag.name, tag.outputs) for tag in self.card.tags]]
        return self.folder / f"{hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16]}.npz"

    @cached_property
    def _known(self) -> dict[str, tuple[FloatArray, FloatArray]]:
        """The scores before calibration and the embedding of each file scored so far."""
        if not self._file.exists():
            return {}
        with np.load(self._file) as kept:
            return dict(zip(kept["files"].tolist(), zip(kept["scores"], kept["embeddings"], strict=True), strict=True))

    def _save(self) -> None:
        if not self._known:
            return
        scores, embeddings = (np.stack(rows) for rows in zip(*self._known.values(), strict=True))
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self._file) as temporary, temporary.open("wb") as file:
            np.savez(file, files=np.array(list(self._known)), scores=scores, embeddings=embeddings)


def _key(path: Path) -> str:
    """The identity of a file in its present state; empty if it does not exist."""
    try:
        status = path.stat()
    except OSError:
        return ""
    return f"{status.st_size} {status.st_mtime_ns} {absolute(path)}"
