"""Random chord charts and melodies for stylebank.py, which mma plays. Pure functions of the given Random.

A chart has sections of bars, and a bar has one or two chords. A chord is a number of semitones above the key note and a
quality in mma's notation, until it is spelled for a key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

Mode = Literal["major", "minor", "blues"]
Chord = tuple[int, str]
Bar = tuple[Chord, ...]

_CHORD_NAMES = ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
_NOTE_NAMES = ("cn", "c#", "dn", "d#", "en", "fn", "f#", "gn", "g#", "an", "a#", "bn")
"""In the notation of mma's solo tracks. Naturals are explicit because an accidental holds until the end of the bar."""
_SCALES: Mapping[Mode, tuple[int, ...]] = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "blues": (0, 3, 5, 6, 7, 10),
}
_CELLS: tuple[tuple[int, tuple[str, ...]], ...] = (
    *[(1, ("4",)), (1, ("8", "8"))] * 2,
    *[(2, ("2",)), (2, ("4.", "8")), (2, ("8", "4", "8")), (1, ("16", "16", "8"))],
)
"""The building blocks of a rhythm: a number of quarters, and the durations that fill them."""
_LOWEST, _HIGHEST = -5, 19
"""The range of a melody, in semitones from middle C."""


@dataclass(frozen=True)
class Chart:
    """The chords of an arrangement. `form` is the order in which the sections are played, repeatedly."""

    key: int
    """Semitones above C."""
    mode: Mode
    sections: tuple[tuple[Bar, ...], ...]
    form: tuple[int, ...]

    def spelled(self, bar: Bar) -> tuple[str, ...]:
        """The chords of a bar in mma's notation."""
        return tuple(_CHORD_NAMES[(self.key + step) % 12] + quality for step, quality in bar)


def draw_chart(random: Random, kind: str) -> Chart:
    """A chart of one of KINDS: key, mode, two or three sections, and their order."""
    mode, sections = KINDS[kind](random)
    forms = [(0,), (0, 0, 1, 0), (0, 1), (0, 0, 1), (0, 1, 0, 2), (0, 0, 1, 1)]
    form = random.choice([form for form in forms if max(form) < len(sections)])
    return Chart(random.randrange(12), mode, sections, form)


_Drawn = tuple[Mode, tuple[tuple[Bar, ...], ...]]


def _blues(random: Random) -> _Drawn:
    """Twelve or eight bars in major or minor; each chorus has its own quick change, turnaround and colours."""
    minor = random.random() < 0.2
    colour = random.choice(("m7", "m") if minor else ("7", "7", "9", "13"))

    def chorus() -> tuple[Bar, ...]:
        one, four, five = (0, colour), (5, colour if minor else random.choice(("7", "9"))), (7, "7")
        quick = four if random.random() < 0.5 else one
        ends: tuple[tuple[Bar, ...], ...] = (((one,), (five,)), ((one, four), (one, five)), ((one,), ((2, "m7"), five)))
        closes: tuple[tuple[Bar, ...], ...] = (((five,), (four,)), (((2, "m7"),), (five,)), (((8, "7"),), (five,)))
        end, close = random.choice(ends), random.choice(closes)
        if random.random() < 0.2:
            return ((one,), (five,), (four,), (four,), (one,), (five,), *end)
        return ((one,), (quick,), (one,), (one,), (four,), (four,), (one,), (one,), *close, *end)

    return "blues", (chorus(), chorus())


def _jazz(random: Random) -> _Drawn:
    """Sections of eight or sixteen bars of cadences to closely related keys."""
    mode: Mode = "minor" if random.random() < 0.3 else "major"
    home = (0, random.choice(("m7", "m6")) if mode == "minor" else random.choice(("M7", "6", "M7")))

    def cadence(target: int, minor: bool) -> list[Bar]:
        two = ((target + 2) % 12, "m7b5" if minor else "m7")
        five = ((target + (1 if random.random() < 0.2 else 7)) % 12, random.choice(("7", "9", "13", "7b9")))
        last = home if target == 0 else (target, "m7" if minor else random.choice(("M7", "7")))
        return [(two, five), (last,)] if random.random() < 0.5 else [(two,), (five,), (last,), (last,)]

    def section() -> tuple[Bar, ...]:
        bars: list[Bar] = [(home,)] if random.random() < 0.6 else []
        while len(bars) < 6:
            target = random.choice((0, 5, 2, 9, 3, 8, 10))
            bars += cadence(target, target in (2, 9) or (target == 0 and mode == "minor"))
        return (*bars, *cadence(0, mode == "minor"))[: random.choice((8, 16))]

    return mode, (section(), section(), section())


def _diatonic(
    random: Random, mode: Mode, weights: Mapping[int, float], colours: Sequence[str], bars: Sequence[int]
) -> _Drawn:
    """Loops over the chords of a key: `weights` by scale degree from 0, `colours` are endings such as "" and "7"."""
    qualities = ("", "m", "m", "", "", "m", "dim") if mode == "major" else ("m", "dim", "", "m", "m", "", "")
    scale = _SCALES[mode]

    def chord(degree: int) -> Chord:
        quality, colour = qualities[degree], random.choice(colours)
        if quality == "dim":
            return scale[degree], "m7b5"
        if colour == "7" and quality == "":
            colour = "7" if degree == 4 else "M7"
        if quality == "m" and degree == 4 and random.random() < 0.6:
            return scale[degree], "7"
        return scale[degree], quality + (colour if colour in ("7", "M7") or quality == "" else "")

    def section() -> tuple[Bar, ...]:
        length = random.choice(bars)
        degrees = [0 if random.random() < 0.6 else _weighted(random, weights)]
        while len(degrees) < length:
            degrees.append(_weighted(random, {degree: w for degree, w in weights.items() if degree != degrees[-1]}))
        seconds = [_weighted(random, weights) if random.random() < 0.15 else None for _ in degrees]
        loop = tuple((chord(a),) if b is None else (chord(a), chord(b)) for a, b in zip(degrees, seconds, strict=True))
        return loop * max(1, 8 // length)

    return mode, (section(), section(), section())


def _pop(random: Random) -> _Drawn:
    mode: Mode = "minor" if random.random() < 0.3 else "major"
    weights = {0: 4.0, 3: 3, 4: 3, 5: 3, 1: 1, 2: 1} if mode == "major" else {0: 4.0, 5: 3, 6: 3, 2: 2, 3: 2, 4: 1}
    return _diatonic(random, mode, weights, random.choice((("",), ("", "sus4", ""), ("", "7"))), (4, 4, 8))


def _folk(random: Random) -> _Drawn:
    mode: Mode = "minor" if random.random() < 0.1 else "major"
    return _diatonic(random, mode, {0: 5, 3: 3, 4: 4, 5: 0.8, 1: 0.5}, random.choice((("",), ("", "", "7"))), (4, 8, 8))


def _soul(random: Random) -> _Drawn:
    mode: Mode = "minor" if random.random() < 0.45 else "major"
    return _diatonic(random, mode, {0: 4, 3: 3, 1: 2, 4: 2, 5: 2, 2: 1}, ("7", "7", ""), (2, 4, 4, 8))


def _vamp(random: Random) -> _Drawn:
    """Few chords, each held for long."""
    home = (0, random.choice(("m", "m7", "m9")))
    others = [(10, ""), (8, "M7"), (5, "m7"), (3, ""), (8, ""), (1, "M7"), (7, "m7")]

    def section() -> tuple[Bar, ...]:
        chords = [home, *random.sample(others, random.choice((0, 1, 1, 2, 3)))]
        held = random.choice((1, 2)) if len(chords) > 1 else 8
        return tuple((chord,) for chord in chords for _ in range(held)) * 2

    return "minor", (section(), section())


def _riffs(random: Random, steps: Sequence[Chord], bars: Sequence[int]) -> tuple[tuple[Bar, ...], ...]:
    def section() -> tuple[Bar, ...]:
        length, loop = random.choice(bars), list[Bar]([(steps[0],)])
        while len(loop) < length:
            loop.append((random.choice(steps),) if random.random() < 0.6 else (steps[0], random.choice(steps)))
        return tuple(loop) * max(1, 8 // len(loop))

    return section(), section(), section()


def _rock(random: Random) -> _Drawn:
    if random.random() < 0.5:
        steps: list[Chord] = [(0, ""), (5, ""), (7, ""), (10, ""), (0, "5"), (9, "m"), (5, "")]
        return "major", _riffs(random, steps, (4, 4, 8))
    return "minor", _riffs(random, [(0, "m"), (0, "5"), (10, ""), (8, ""), (5, "m"), (3, ""), (7, "")], (4, 4, 8))


def _metal(random: Random) -> _Drawn:
    steps: list[Chord] = [(0, "5"), (0, "5"), (1, "5"), (3, "5"), (5, "5"), (6, "5"), (8, "5"), (10, "5"), (0, "m")]
    return "minor", _riffs(random, steps, (2, 4, 4))


def _latin(random: Random) -> _Drawn:
    if random.random() < 0.4:
        return _jazz(random)
    if random.random() < 0.5:
        steps: list[Chord] = [(0, "m"), (7, "7"), (5, "m"), (0, "m7"), (7, "7"), (10, ""), (8, "")]
        return "minor", _riffs(random, steps, (4, 8))
    return "major", _riffs(random, [(0, ""), (7, "7"), (5, ""), (7, "7"), (2, "m7"), (0, "6")], (2, 4, 8))


def _bossa(random: Random) -> _Drawn:
    """Like jazz, with chords that fall by semitones at the start of some sections."""
    mode, sections = _jazz(random)

    def slid(section: tuple[Bar, ...]) -> tuple[Bar, ...]:
        start = random.choice((2, 4, 9))
        fall: list[Bar] = [((start - k, ("m7", "dim7", "m7", "7b5")[k]),) for k in range(random.choice((3, 4)))]
        return (*fall, *section)[:16] if random.random() < 0.5 else section

    return mode, tuple(slid(section) for section in sections)


KINDS: Mapping[str, Callable[[Random], _Drawn]] = {
    "blues": _blues,
    "jazz": _jazz,
    "pop": _pop,
    "folk": _folk,
    "soul": _soul,
    "vamp": _vamp,
    "rock": _rock,
    "metal": _metal,
    "latin": _latin,
    "bossa": _bossa,
}


def _weighted(random: Random, weights: Mapping[int, float]) -> int:
    return random.choices(list(weights), list(weights.values()))[0]


def melody(random: Random, chart: Chart, bars: Sequence[Bar], beats: int) -> Iterator[str]:
    """For each bar of `beats` quarters, the notes of a tune in the notation of mma's solo tracks, or "" for a rest.

    Two-bar rhythms return, as a kind of motif. Notes step along the scale of the key and prefer the notes of the
    chord on the beat.
    """
    motifs = [(_rhythm(random, beats), _rhythm(random, beats)) for _ in range(3)]
    rest = random.uniform(0.05, 0.35)
    pitch = random.randint(0, 12)
    for number, bar in enumerate(bars):
        if number % 2 == 0:
            motif = random.choice(motifs)
            resting = random.random() < rest
        words = []
        for duration in motif[number % 2]:
            if random.random() < 0.12:
                words.append(f"{duration}r;")
                continue
            pitch = _next_pitch(random, pitch, chart, bar)
            words.append(f"{duration}{note_name(pitch)};")
        yield "" if resting else "".join(words)


def _rhythm(random: Random, beats: int) -> tuple[str, ...]:
    """Durations in mma's notation that fill `beats` quarters."""
    left, durations = beats, list[str]()
    while left > 0:
        length, cell = random.choice([cell for cell in _CELLS if cell[0] <= left])
        durations += cell
        left -= length
    return tuple(durations)


def _next_pitch(random: Random, pitch: int, chart: Chart, bar: Bar) -> int:
    """A note of the key near the previous one, in semitones from middle C."""
    in_scale = {(chart.key + step) % 12 for step in _SCALES[chart.mode]}
    root, quality = bar[0]
    third = 3 if quality.startswith(("m", "dim")) else 4
    in_chord = {(chart.key + root + step) % 12 for step in (0, third, 7)}
    wanted = in_chord if random.random() < 0.4 else in_scale
    reach = 12 if random.random() < 0.08 else 5
    low, high = max(_LOWEST, pitch - reach), min(_HIGHEST, pitch + reach)
    near = [p for p in range(low, high + 1) if p % 12 in wanted and (p != pitch or random.random() < 0.3)]
    return random.choice(near) if near else pitch


def note_name(pitch: int) -> str:
    """A note, given in semitones from middle C, in the notation of mma's solo tracks."""
    octave = pitch // 12
    return _NOTE_NAMES[pitch % 12] + ("+" * octave if octave > 0 else "-" * -octave)
