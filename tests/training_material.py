"""Small training data: three genres of random mels, and three of audio files.

Run as a program, it writes the files: `python tests/training_material.py FOLDER`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

from musictagger.audio.frontend import FrontEnd
from musictagger.training.options import TrainOptions
from musictagger.training.trainer import LOG
from musictagger.training.windows import Material, Track

FRONT_END = FrontEnd(n_mels=12, frame_hops=31)
CONFIG: dict[str, Any] = {"n_mels": 12, "channels": [8, 8], "pools": [[2, 4], [3, 4]]}
GENRES = ("high", "low", "middle")

RATE_HZ = 8_000
BANDS_HZ = {"Blues": (150, 400), "Folk": (900, 1300), "Techno": (2200, 3500)}


def material(tracks: int) -> Material:
    """`tracks` to learn from and half as many to validate on, 20 to 90 columns long."""
    random = np.random.default_rng(5)
    mels: dict[str, npt.NDArray[np.float16]] = {}
    all_tracks = []
    for number in range(tracks + tracks // 2):
        genre = number % 3
        mel = random.normal(-40, 5, (int(random.integers(20, 90)), 12))
        mel[:, 4 * genre : 4 * genre + 4] += 12
        mels[f"digest{number}"] = mel.astype(np.float16)
        all_tracks.append(Track(Path(f"{number}.wav"), f"digest{number}", len(mel), (GENRES[genre],)))
    truth = np.stack([_one_hot(track) for track in all_tracks[tracks:]]).astype(bool)
    return Material(
        "genre",
        GENRES,
        FRONT_END,
        all_tracks[:tracks],
        all_tracks[tracks:],
        mels.__getitem__,
        lambda track, start_s, length_s: _one_hot(track),
        truth,
    )


def small_options(**changes: Any) -> TrainOptions:
    """Options under which a few epochs are enough."""
    values = {
        "epochs": 2,
        "batch_size": 8,
        "lr": 1e-2,
        "windows_per_track": 1,
        "patience": None,
        "precision": "float32",
        **changes,
    }
    return TrainOptions(**values)


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The records in the log of a training."""
    return [json.loads(line) for line in (folder / LOG).read_text(encoding="utf-8").splitlines()]


def _one_hot(track: Track) -> npt.NDArray[np.float32]:
    return np.array([genre in track.tags for genre in GENRES], np.float32)


def write_genres(root: Path, tracks: int = 10) -> Path:
    """A folder for each of BANDS_HZ with tracks of 2 to 4 seconds, noisy tones from that band."""
    random = np.random.default_rng(3)
    for genre, (low, high) in BANDS_HZ.items():
        (root / genre).mkdir(parents=True)
        for number in range(tracks):
            seconds = np.arange(int(RATE_HZ * random.uniform(2, 4))) / RATE_HZ
            tones = [np.sin(2 * np.pi * random.uniform(low, high) * seconds) for _ in range(4)]
            wave = 0.15 * np.sum(tones, axis=0) + random.normal(0, 0.02, len(seconds))
            soundfile.write(root / genre / f"{number}.wav", wave.astype(np.float32), RATE_HZ)
    return root


if __name__ == "__main__":
    write_genres(Path(sys.argv[1]))
