"""Make mixes of two tracks, or altered copies of one, for teachers to score and a student to learn from.

    uv run python -m tools.mixes LISTING.jsonl OUT [--passes 2] [--seconds 60] [--seed 0]

Draws the split of LISTING (tools/corpus.py) as dataset `music` does and writes OUT/listing.jsonl: the same tracks
with their split and, for training only, one mix for each training track and pass. A mix adds excerpts of two training
tracks, each with another speed, bass and treble; a quarter have one track only. A mix is a file like any other, so the
teachers score the mix itself instead of an average of its components.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import torch
from torchaudio.functional import bass_biquad, treble_biquad

from musictagger.audio.decode import decode_frames
from musictagger.audio.frames import FrameRule, Wave
from musictagger.datasets import read_dataset
from musictagger.datasets.base import Example
from musictagger.errors import AudioError, MusictaggerError
from tools.corpus import listing_lines

RATE_HZ = 16_000
"""The highest sample rate of the teachers; students use a lower one."""
SPEED = 0.12
"""The largest change of speed, which changes tempo and pitch together, as a share."""
EQ_DB = 8.0
SECOND_DB = (-9.0, 3.0)
"""Level of the second track relative to the first."""
ALONE = 0.25
"""Share of mixes of one track only."""
PEAK = 0.9


def main() -> None:
    """Write the mixes and the listing."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("listing", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--passes", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    try:
        dataset = read_dataset("music", arguments.listing)
        listed = listing_lines(arguments.listing)
    except MusictaggerError as error:
        parser.error(str(error))
    folder = arguments.out / "audio"
    folder.mkdir(parents=True, exist_ok=True)
    splits = {example.path: example.split for example in dataset.examples}
    lines = [
        _without_file(listed[path]) | {"path": str(path), "split": splits[path]} for path in listed if path in splits
    ]
    for number in range(arguments.passes):
        made = mixes(dataset.split("train"), folder, arguments.seconds, (arguments.seed, number))
        lines += [{"path": str(path.resolve()), "album": "mixes", "split": "train"} for path in made]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (arguments.out / "listing.jsonl").write_text(text, encoding="ascii")
    wanted = arguments.passes * len(dataset.split("train"))
    print(
        f"{len(splits):,} tracks and {len(lines) - len(splits):,} mixes of {wanted:,}; the others could not be decoded"
    )


def _without_file(line: Mapping[str, Any]) -> dict[str, Any]:
    """A line of the listing without `file`, which is relative to the folder of the listing."""
    return {key: value for key, value in line.items() if key != "file"}


def mixes(tracks: Sequence[Example], folder: Path, seconds: float, seed: tuple[int, int]) -> Iterator[Path]:
    """Write one file for each track, mixed with the one before it in a random order; each is decoded once."""
    before: Wave | None = None
    for number, track in enumerate(np.random.default_rng(seed).permutation(len(tracks))):
        wave = _decoded(tracks[track])
        if wave is None:
            continue
        random = np.random.default_rng((*seed, number))
        made = altered(excerpt(wave, seconds, random), random)
        if before is not None and random.random() > ALONE:
            made = mixed(made, altered(excerpt(before, seconds, random), random), random)
        path = folder / f"{seed[0]}-{seed[1]}-{number:04d}.flac"
        soundfile.write(path, made * (PEAK / max(float(np.abs(made).max()), 1e-9)), RATE_HZ)
        before = wave
        yield path


def _decoded(track: Example) -> Wave | None:
    rule = FrameRule(RATE_HZ, tail=True)
    try:
        return np.concatenate([wave for _, wave in decode_frames(track.path, RATE_HZ, rule)])
    except (AudioError, ValueError):
        return None


def excerpt(wave: Wave, seconds: float, random: np.random.Generator) -> Wave:
    """An excerpt that lasts at least `seconds` at any speed, or all of a short track."""
    wanted = int(seconds * (1 + SPEED) * RATE_HZ) + 1
    start = int(random.random() * max(0, len(wave) - wanted))
    return wave[start : start + wanted]


def altered(wave: Wave, random: np.random.Generator) -> Wave:
    """Change the speed, which changes the pitch too, and the bass and treble."""
    speed = 1 + random.uniform(-SPEED, SPEED)
    played = soxr.resample(wave, RATE_HZ * speed, RATE_HZ)
    # Each filter clips at full scale, and the level is set later, so loud music is distorted here as by cheap
    # equipment. The teachers score the distorted audio too, so the targets fit it.
    bass_db, treble_db = random.uniform(-EQ_DB, EQ_DB, 2)
    wave = bass_biquad(torch.from_numpy(played), RATE_HZ, bass_db, central_freq=200.0)
    return np.asarray(treble_biquad(wave, RATE_HZ, treble_db, central_freq=3000.0).numpy())


def mixed(first: Wave, second: Wave, random: np.random.Generator) -> Wave:
    """The sum of both, with the length of the shorter one."""
    length = min(len(first), len(second))
    one, other = first[:length], second[:length]
    loudness = [float(np.sqrt(np.mean(each**2))) for each in (one, other)]
    level = 10 ** (random.uniform(*SECOND_DB) / 20) * loudness[0] / max(loudness[1], 1e-9)
    return np.asarray(one + level * other, np.float32)


if __name__ == "__main__":
    main()
