"""Measure how fast a rescan of unchanged files and queries are on a large library.

    uv run python -m benchmarks.library [FILES]

Makes FILES (10,000) small files and a library in which the default model has analysed each of them with seven frames,
then times the work that a user waits for, and reports the best of three times. Start-up (Python, torch, the model) is
not included.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from musictagger.audio.walk import FoundFile
from musictagger.config import load_settings
from musictagger.library.query import Query, parse
from musictagger.library.store import Store
from musictagger.library.view import View, search
from musictagger.models.card import Card
from musictagger.models.inference import load_predictor
from musictagger.pipeline.scan import Scan, ScanOptions
from musictagger.pipeline.writing import TagWriter
from musictagger.progress import SILENT
from musictagger.records import Analysed
from musictagger.tags.fields import FileTags
from musictagger.tags.journal import Journal

FRAMES = 7
"""The frames of a track of three and a half minutes."""


def main() -> None:
    """Make the library, then time and print each task."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="?", type=int, default=10_000)
    count = parser.parse_args().files
    settings = load_settings({"device": "cpu"})
    predictor = load_predictor(settings)
    with (
        tempfile.TemporaryDirectory() as folder,
        Store(f"{folder}/library.db", create=True) as store,
        Journal(Path(folder) / "journal.db") as journal,
    ):
        music = Path(folder) / "music"
        _fill(store, music, count, predictor.card)
        size_mb = sum(path.stat().st_size for path in Path(folder).glob("library.db*")) / 1e6
        print(f"{count} files, database {size_mb:.0f} MB")

        def rescan() -> str:
            report = Scan(TagWriter(journal, store), predictor, settings, ScanOptions(), SILENT).run([music])
            return f"{report.unchanged} unchanged"

        _time("rescan, nothing changed", rescan)
        model_id, view = store.model_id(predictor.card), View(predictor.card)
        genre = next(tag.name for tag in predictor.card.tags if tag.category == "genre")
        for text in (f'genre:"{genre}"', f'score."{genre}":0.5.. sort:score."{genre}"-', "artist:7"):
            query = parse(text, predictor.card)
            _time(f"query {text}", partial(_found, store, model_id, view, query))


def _found(store: Store, model_id: int, view: View, query: Query) -> str:
    return f"{len(search(store, model_id, view, query))} found"


def _fill(store: Store, music: Path, count: int, card: Card) -> None:
    random = np.random.default_rng(0)
    model_id = store.model_id(card)
    outputs = len(card.outputs)
    for index in range(count):
        path = music / f"{index // 100:05}" / f"{index:07}.mp3"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
        status = path.stat()
        digest = hashlib.sha256(str(index).encode()).hexdigest()
        file = FoundFile(path, status.st_size, status.st_mtime_ns)
        tags = FileTags(
            "mp3", "ID3v2.4", f"Artist {index % 1000}", f"Title {index}", "Album", ("Rock",), {"genre": ("Rock",)}
        )
        store.record_file(file, digest, tags)
        scores = random.random((FRAMES, outputs), np.float32) ** 3
        embedding = np.zeros(200, np.float32)
        store.record_analysis(
            model_id, "edges 5 s, all frames", Analysed(file, digest, "ok", 210.0, False, scores, embedding)
        )
    store.commit()


def _time(name: str, task: Callable[[], str]) -> None:
    best_s = float("inf")
    for _ in range(3):
        started_s = time.perf_counter()
        result = task()
        best_s = min(best_s, time.perf_counter() - started_s)
    print(f"{name}: {best_s:.2f} s ({result})")


if __name__ == "__main__":
    main()
