"""Render a labelled set of music of any size from Debian packages: mma's styles, random chord charts, fluidsynth.

    apt-get install mma fluidsynth timgm6mb-soundfont csound-soundfont fluid-soundfont-gm
    uv run python -m tools.stylebank OUT --tracks 1000 --seconds 45 --seed 0

Writes OUT/audio, OUT/genre.csv (one genre for each track; OUT/manifest.csv is a copy), OUT/tags.csv (genre,
instruments, tempo, mood, level) and OUT/tracks.csv (all facts about each track). Test tracks are played in other styles
(a style file is in one split only, in every set), with another soundfont and from other charts. Each track depends on
the seed and its number alone, so an interrupted run continues where it stopped and a longer one keeps the tracks that
exist.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from random import Random

import numpy as np

from musictagger.datasets.base import SPLITS, Split
from musictagger.errors import BadRequestError, MusictaggerError
from tools import stylebank_render as rendering
from tools.stylebank_bank import SOUNDFONTS, Bank, Slot, deal, load_bank
from tools.stylebank_charts import draw_chart
from tools.stylebank_render import Arrangement, Note, SilentError, StyleError, parse_grooves

_TRIES = 8
_RARE = 3
"""A tag that any split has on fewer tracks is left out, because it could not be measured."""
_ENERGETIC, _CALM = 32.0, 16.0
"""Notes per second, counting each note of a chord. Of 240 arrangements a quarter are above and a quarter below."""


@dataclass(frozen=True)
class Options:
    """The options that identify a set; the number of tracks does not."""

    seed: int
    seconds: float
    test_seconds: float
    genres: int


@dataclass(frozen=True)
class Drawn:
    """An arrangement with its MIDI file, before it is rendered."""

    arrangement: Arrangement
    midi: bytes
    notes: tuple[Note, ...]


def draw(random: Random, bank: Bank, slot: Slot, style: str, seconds: float, folder: Path) -> Drawn:
    """Draw an arrangement in a style and compose it with mma. Raises StyleError."""
    try:
        text = (rendering.STYLES / f"{style}.mma").read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise StyleError(f"cannot be read: {error.strerror}") from error
    grooves = parse_grooves(text)
    if not grooves.main:
        raise StyleError("defines no groove")
    low, high = bank.tempo.get(style, slot.genre.tempo)
    arrangement = Arrangement(
        style=style,
        grooves=grooves,
        chart=draw_chart(random, random.choice(slot.genre.chords)),
        tempo=random.randint(low, high),
        seconds=seconds,
        lead=random.choice(slot.genre.lead) if random.random() < 0.6 else None,
        backing=bank.backing[slot.genre.name] if style.startswith("zoom/") else None,
    )
    midi = rendering.compose(rendering.script(random, arrangement), folder)
    if random.random() < 0.35:
        midi = rendering.substituted(midi, _relatives(random, bank.instruments.values()))
    played = tuple(note for note in rendering.notes(midi, arrangement.tempo) if note.second < seconds)
    return Drawn(arrangement, midi, played)


def _relatives(random: Random, families: Iterable[frozenset[int]]) -> dict[int, int]:
    """For every program a random one of the same family."""
    return {program: random.choice(sorted(family)) for family in families for program in sorted(family)}


def describe(bank: Bank, drawn: Drawn, seconds: float, level_db: float) -> list[str]:
    """The tags of a track besides its genre: instruments, drums, tempo, mode, energy, and level (RMS in dB)."""
    predicted = Counter(note.program for note in drawn.notes if not note.drum and note.velocity >= 20)
    tags = [name for name, programs in bank.instruments.items() if sum(predicted[program] for program in programs) >= 6]
    drums = sum(note.drum for note in drawn.notes) >= seconds / 2
    felt = drawn.arrangement.tempo / (1.5 if drawn.arrangement.grooves.beats == 6 else 1)
    busy = len(drawn.notes) / seconds
    tags += ["drums"] if drums else ["no drums"]
    tags += ["slow" if felt < 88 else "fast" if felt > 136 else "medium tempo"]
    tags += [drawn.arrangement.chart.mode] if drawn.arrangement.chart.mode != "blues" else []
    tags += ["energetic"] if busy > _ENERGETIC else ["calm"] if busy < _CALM else []
    tags += ["loud"] if level_db > -17 else ["quiet"] if level_db < -25 else []
    return tags


@dataclass(frozen=True)
class Track:
    """The facts about a rendered track, which are also written beside it. A track that failed has no path."""

    index: int
    path: str
    genre: str
    split: Split
    style: str
    soundfont: str
    tempo: int
    key: str
    duration_s: float
    level_db: float
    tags: tuple[str, ...]
    silent: int
    """Number of renderings that were rejected before this one."""
    failed: Mapping[str, str]
    """Styles that failed before this one, with the reasons."""


def make_track(out: Path, options: Options, index: int) -> Track:
    """Draw, render and write track `index` of the set with its facts, unless it exists."""
    facts = out / "facts" / f"{index:06}.json"
    if (known := _known(out, facts)) is not None:
        return known
    bank = load_bank(options.genres)
    slot = deal(bank, options.seed, index)
    with tempfile.TemporaryDirectory(prefix="stylebank") as scratch:
        track = _render(bank, slot, options, index, out, Path(scratch))
    _write_text(facts, json.dumps(asdict(track), indent=1, sort_keys=True))
    return track


def _known(out: Path, facts: Path) -> Track | None:
    try:
        data = json.loads(facts.read_text(encoding="utf-8"))
        track = Track(**{**data, "tags": tuple(data["tags"])})
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None
    return track if not track.path or (out / track.path).is_file() else None


def _render(bank: Bank, slot: Slot, options: Options, index: int, out: Path, scratch: Path) -> Track:
    seconds = options.test_seconds if slot.split == "test" else options.seconds
    failed: dict[str, str] = {}
    silent = 0
    for attempt in range(_TRIES):
        random = Random(f"{options.seed} {index} {attempt}")
        style = slot.styles[len(failed) % len(slot.styles)]
        soundfont = random.choice(SOUNDFONTS[slot.split])
        try:
            drawn = draw(random, bank, slot, style, seconds, scratch)
            wave = rendering.render(random, drawn.midi, soundfont, seconds, scratch)
        except StyleError as error:
            failed[style] = str(error)
            continue
        except SilentError:
            silent += 1
            continue
        path = f"audio/{index // 1000:03}/{index:06}.ogg"
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        rendering.write(wave, out / path)
        level_db = round(20 * float(np.log10(np.sqrt(np.mean(np.square(wave))))), 1)
        chart = drawn.arrangement.chart
        facts = (style, soundfont, drawn.arrangement.tempo, chart.spelled((((0), ""),))[0], seconds, level_db)
        tags = tuple(describe(bank, drawn, seconds, level_db))
        return Track(index, path, slot.genre.name, slot.split, *facts, tags, silent, failed)
    return Track(index, "", slot.genre.name, slot.split, "", "", 0, "", 0.0, 0.0, (), silent, failed)


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8", newline="")
    part.replace(path)


def write_manifests(out: Path, tracks: Sequence[Track]) -> list[str]:
    """Write genre.csv, manifest.csv, tags.csv and tracks.csv. Return the tags that are too rare for tags.csv."""
    kept, rare = common_tags(tracks)
    rows = [(track.path, track.split, f"mma {track.style}", f"{track.duration_s:g}") for track in tracks]
    header = ("path", "tags", "split", "artist", "duration_s")
    genre = _csv([header, *((row[0], track.genre, *row[1:]) for row, track in zip(rows, tracks, strict=True))])
    tags = [";".join([track.genre, *(tag for tag in track.tags if tag in kept)]) for track in tracks]
    _write_text(out / "genre.csv", genre)
    _write_text(out / "manifest.csv", genre)
    _write_text(
        out / "tags.csv", _csv([header, *((row[0], text, *row[1:]) for row, text in zip(rows, tags, strict=True))])
    )
    names = ("path", "genre", "split", "style", "soundfont", "tempo", "key", "duration_s", "level_db")
    lines = [[*(str(getattr(track, name)) for name in names), ";".join(track.tags)] for track in tracks]
    _write_text(out / "tracks.csv", _csv([(*names, "tags"), *lines]))
    return rare


def common_tags(tracks: Sequence[Track]) -> tuple[frozenset[str], list[str]]:
    """The tags (besides the genres) that every split with tracks has often enough, and the others, sorted."""
    counts = {split: Counter(tag for track in tracks if track.split == split for tag in track.tags) for split in SPLITS}
    used = {track.split for track in tracks}
    every = {tag for track in tracks for tag in track.tags}
    kept = frozenset(tag for tag in every if all(counts[split][tag] >= _RARE for split in used))
    return kept, sorted(every - kept)


def _csv(rows: Iterable[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def require_same(out: Path, options: Options) -> None:
    """Record the options in `out`. Raises BadRequestError if it holds a set with other options or other files."""
    path, wanted = out / "stylebank.json", {"format": 1, **asdict(options)}
    if not path.is_file():
        if out.is_dir() and any(out.iterdir()):
            raise BadRequestError(f"{out}: is neither empty nor a set of this kind; name another folder")
        _write_text(path, json.dumps(wanted))
        return
    there = json.loads(path.read_text(encoding="utf-8"))
    for name, value in wanted.items():
        if there.get(name) != value:
            raise BadRequestError(f"{out}: was begun with {name} {there.get(name)}, not {value}; name another folder")


def make_set(out: Path, options: Options, count: int, jobs: int) -> Iterator[Track]:
    """Make the first `count` tracks of the set and yield each when it is ready."""
    if jobs == 1:
        yield from (make_track(out, options, index) for index in range(count))
        return
    pool, left = ProcessPoolExecutor(jobs), iter(range(count))
    try:
        waiting = {pool.submit(make_track, out, options, index) for index in islice(left, 4 * jobs)}
        while waiting:
            done = next(as_completed(waiting))
            waiting.remove(done)
            waiting |= {pool.submit(make_track, out, options, index) for index in islice(left, 1)}
            yield done.result()
    finally:
        pool.shutdown(cancel_futures=True)


def summary(tracks: Sequence[Track]) -> Iterator[str]:
    """Lines with the number of tracks by genre and split, and what failed and why."""
    counts = Counter((track.genre, track.split) for track in tracks if track.path)
    yield f"{'genre':12} " + " ".join(f"{split:>6}" for split in SPLITS)
    for genre in dict.fromkeys(track.genre for track in tracks):
        yield f"{genre:12} " + " ".join(f"{counts[genre, split]:6}" for split in SPLITS)
    yield f"{'all':12} " + " ".join(f"{sum(counts[g, s] for g, s in counts if s == split):6}" for split in SPLITS)
    failed = {style: reason for track in tracks for style, reason in track.failed.items()}
    yield f"silent or too short, and drawn again: {sum(track.silent for track in tracks)}"
    yield f"failed: {sum(not track.path for track in tracks)} tracks; styles on which mma fails: {len(failed)}"
    yield from (f"  {style}: {failed[style]}" for style in sorted(failed))


def main(arguments: Sequence[str] | None = None) -> int:
    """Render the set, then print a summary and the speed."""
    parser = argparse.ArgumentParser(prog="python -m tools.stylebank", description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--tracks", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=45, help="length of a training or validation track")
    parser.add_argument("--test-seconds", type=float, default=120, help="length of a test track")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--genres", type=int, default=12)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    given = parser.parse_args(arguments)
    options = Options(given.seed, given.seconds, given.test_seconds, given.genres)
    try:
        if given.tracks < 1 or given.jobs < 1 or min(given.seconds, given.test_seconds) < 1:
            raise BadRequestError("--tracks, --jobs, --seconds and --test-seconds must be at least 1")
        load_bank(options.genres)
        rendering.require_tools()
        require_same(given.out, options)
        _run(given.out, options, given.tracks, given.jobs)
    except MusictaggerError as error:
        print(f"stylebank: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"stylebank: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stylebank: stopped; the same command continues from here", file=sys.stderr)
        return 130
    return 0


def _run(out: Path, options: Options, count: int, jobs: int) -> None:
    before = {path.name for path in (out / "facts").glob("*.json")}
    began, cpu, new = time.monotonic(), sum(os.times()[:4]), list[Track]()
    tracks = []
    for done, track in enumerate(make_set(out, options, count, jobs), 1):
        tracks.append(track)
        new += [] if f"{track.index:06}.json" in before else [track]
        if done % 50 == 0 or done == count:
            print(f"{done:,} of {count:,}, {time.monotonic() - began:.0f} s", flush=True)
    tracks.sort(key=lambda track: track.index)
    rare = write_manifests(out, [track for track in tracks if track.path])
    print("\n".join(summary(tracks)))
    print(f"tags too rare to keep: {', '.join(rare) or 'none'}")
    if seconds := sum(track.duration_s for track in new):
        took, used = time.monotonic() - began, sum(os.times()[:4]) - cpu
        print(
            f"{seconds:,.0f} track-seconds in {took:,.0f} s with {jobs} jobs: {60 * seconds / took:,.0f} a minute; ",
            end="",
        )
        print(f"{60 * seconds / used:,.0f} a minute of one core's time")


if __name__ == "__main__":
    sys.exit(main())
