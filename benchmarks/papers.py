"""Test the papers' claims on stylebank: train the networks that they compare and write the results.

    uv run python -m benchmarks.papers STYLEBANK OUT [--parts a,b,c,d] [--seeds 0,1,2] [--scans 1,2,4,8] [--epochs N]

STYLEBANK is a folder made by tools/stylebank.py. Each run has a folder in OUT. A finished run is not trained again, and
an interrupted one continues. OUT/a.md to OUT/d.md have the tables, OUT/a.json to OUT/d.json all metrics. Another value
of --epochs needs another OUT.

a  CRNN-TF, CRNN and FCN from scratch (Wang et al. 2019, tables I and II)
b  genre by frame and by song (Roy et al. 2020: 77.89 % and 82 %), from the runs of a
c  three transfer strategies, scratch, and MFCC + SVM (Wang et al. 2019, table III)
d  CRNN-TF with one to eight scans (Wang et al. 2019, figure 5)
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from musictagger.cli.progress import reporter
from musictagger.config import load_settings
from musictagger.datasets.splitting import shuffled
from musictagger.models.card import Card
from musictagger.models.registry import build
from musictagger.training.options import options_from
from musictagger.training.run import RunRequest, run_training
from musictagger.training.trainer import LOG
from tools.tables import Table, markdown

COMMON: Mapping[str, Any] = {
    "dataset": "manifest",
    "batch_size": 8,
    "windows_per_track": 1,
    "lr": 2e-3,
    "schedule": "onecycle",
    "patience": None,
    "gain_db": 6.0,
    "time_masks": 1,
    "band_masks": 1,
}
"""The same for every network, chosen once and not tuned, so that only the networks differ."""

NETWORKS = ("crnn_tf", "crnn", "fcn")
TARGET_TRACKS = 12
"""Training tracks of each genre in the small target dataset of the transfer; GTZAN has a few dozen."""

Results = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """The folders of the labelled set and of the runs, and the epochs, seeds and scans of the runs."""

    data: Path
    out: Path
    epochs: int
    seeds: tuple[int, ...]
    scans: tuple[int, ...]

    def run(self, name: str, data: Path, changes: Mapping[str, Any]) -> Results:
        """The test metrics of the run of this name, which is trained unless it is finished."""
        folder = self.out / name
        card = folder / f"{name}.json"
        values = {**COMMON, "epochs": self.epochs, **changes}
        if not (card.exists() and _is_finished(Card.load(card), values)):
            self._train(name, folder, data, values)
        loaded = Card.load(card)
        results = loaded.metrics["manifest/test"]
        log = folder / LOG
        records = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        return {**results, "speed": _median(records, "windows_per_s"), "loader_share": _median(records, "loader_share")}

    def _train(self, name: str, folder: Path, data: Path, values: Mapping[str, Any]) -> None:
        options = options_from(values)
        command = " ".join(["python -m benchmarks.papers", *map(str, sys.argv[1:])])
        settings = load_settings({})
        request = RunRequest(
            options=options,
            data=data,
            out=folder,
            name=name,
            settings=settings,
            cache_folder=self.out / "mels",
            resume=True,
            command=command,
        )
        print(f"== {name}", flush=True)
        with reporter(quiet=False) as progress:
            run_training(request, progress)


def _is_finished(card: Card, values: Mapping[str, Any]) -> bool:
    """Return whether the model was measured and its run had these options."""
    options = card.training.get("options", {})
    return bool(card.metrics) and all(options.get(name) == value for name, value in values.items())


def main() -> None:
    """Train the missing runs and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--parts", default="a,b,c,d")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--scans", default="1,2,3,4,5,6,7,8")
    parser.add_argument("--epochs", type=int, default=20)
    arguments = parser.parse_args()
    seeds, scan_counts = (tuple(int(text) for text in texts.split(",")) for texts in (arguments.seeds, arguments.scans))
    bench = Bench(arguments.data.resolve(), arguments.out.resolve(), arguments.epochs, seeds, scan_counts)
    bench.out.mkdir(parents=True, exist_ok=True)
    for part in arguments.parts.split(","):
        began_s = time.monotonic()
        title, table, results = PARTS[part](bench)
        text = f"## {title}\n\n{markdown(table)}\n"
        (bench.out / f"{part}.md").write_text(text, encoding="utf-8")
        (bench.out / f"{part}.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        print(f"{text}\n{(time.monotonic() - began_s) / 60:.1f} min\n", flush=True)


def from_scratch(bench: Bench) -> tuple[str, Table, Results]:
    """Part a: each network with each seed."""
    found = {
        network: [
            bench.run(f"{network}-seed{seed}", bench.data / "genre.csv", {"backbone": network, "seed": seed})
            for seed in bench.seeds
        ]
        for network in NETWORKS
    }
    table = [["network", "accuracy, each seed", "mean", "macro AUC, each seed", "mean", "windows/s", "data loader"]]
    for network, runs in found.items():
        accuracies, aucs = ([run[name]["value"] for run in runs] for name in ("accuracy", "auc"))
        table.append(
            [
                network,
                ", ".join(_with_interval(run["accuracy"]) for run in runs),
                _mean_and_deviation(accuracies),
                ", ".join(_with_interval(run["auc"]) for run in runs),
                _mean_and_deviation(aucs),
                f"{statistics.mean(run['speed'] for run in runs):.1f}",
                f"{statistics.mean(run['loader_share'] for run in runs):.1%}",
            ]
        )
    return "a. From scratch", table, dict(found)


def frames_and_songs(bench: Bench) -> tuple[str, Table, Results]:
    """Part b: the runs of part a, by frame and by song."""
    _, _, found = from_scratch(bench)
    table = [["network", "seed", "frame accuracy", "song accuracy", "difference"]]
    for network, runs in found.items():
        for seed, run in zip(bench.seeds, runs, strict=True):
            gain = run["accuracy"]["value"] - run["frame_accuracy"]["value"]
            frame, song = _with_interval(run["frame_accuracy"]), _with_interval(run["accuracy"])
            table.append([network, str(seed), frame, song, f"{gain:+.3f}"])
    return "b. Frames and songs", table, dict(found)


def transfer(bench: Bench) -> tuple[str, Table, Results]:
    """Part c: transfer of a model of half of the genres to a few tracks of the other half."""
    source, target = split_genres(bench)
    bench.run("transfer-source", source, {"backbone": "crnn_tf"})
    model = {"init": str(bench.out / "transfer-source" / "transfer-source.safetensors"), "lr": 1e-3}
    # The target is small, so the same number of steps needs more epochs.
    long = {"epochs": 3 * bench.epochs}
    rows: dict[str, dict[str, Any]] = {
        "MFCC + SVM": {"backbone": "mfcc", "head": "svm"},
        "CRNN-TF from scratch": {"backbone": "crnn_tf", **long},
        "freeze all, new dense layer": {**model, "freeze": "all", **long},
        "freeze all, SVM": {**model, "head": "svm"},
        "freeze the CNN": {**model, "freeze": "cnn", **long},
        "fine-tune all": {**model, **long},
    }
    table = [["what", "accuracy, each seed", "mean", "macro F1, mean", "macro AUC, mean"]]
    found: Results = {}
    for title, changes in rows.items():
        slug = "transfer-" + "".join(c if c.isalnum() else "-" for c in title.lower()).replace("--", "-")
        runs = [bench.run(f"{slug}-seed{seed}", target, {**changes, "seed": seed}) for seed in bench.seeds]
        found[title] = runs
        accuracies, scores, aucs = ([run[name]["value"] for run in runs] for name in ("accuracy", "f1", "auc"))
        each = ", ".join(_with_interval(run["accuracy"]) for run in runs)
        table.append([title, each, *(_mean_and_deviation(values) for values in (accuracies, scores, aucs))])
    return "c. Transfer", table, found


def split_genres(bench: Bench) -> tuple[Path, Path]:
    """Write two manifests: every second genre with all tracks, and the others with few training tracks each."""
    with (bench.data / "genre.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    genres = sorted({row["tags"] for row in rows})
    kept: dict[str, int] = {}
    small = []
    by_path = {row["path"]: row for row in rows}
    for path in shuffled(by_path, 0):
        row = {**by_path[path], "path": str(bench.data / path)}
        if row["tags"] in genres[1::2]:
            kept[row["tags"]] = kept.get(row["tags"], 0) + (row["split"] == "train")
            if row["split"] != "train" or kept[row["tags"]] <= TARGET_TRACKS:
                small.append(row)
    large = [{**row, "path": str(bench.data / row["path"])} for row in rows if row["tags"] in genres[::2]]
    return _manifest(bench.out / "source.csv", large), _manifest(bench.out / "target.csv", small)


def scans(bench: Bench) -> tuple[str, Table, Results]:
    """Part d: CRNN-TF with its first one to eight scans."""
    names = build("crnn_tf", 2, {}).scans
    assert isinstance(names, tuple)
    table = [["scans", "macro AUC", "accuracy", "windows/s"]]
    found: Results = {}
    for count in bench.scans:
        if count == len(names):
            run = bench.run("crnn_tf-seed0", bench.data / "genre.csv", {"backbone": "crnn_tf", "seed": 0})
        else:
            changes = {"backbone": "crnn_tf", "config": {"scans": list(names[:count])}}
            run = bench.run(f"scans-{count}", bench.data / "genre.csv", changes)
        found[str(count)] = run
        speed = f"{run['speed']:.1f}"
        table.append([str(count), _with_interval(run["auc"]), _with_interval(run["accuracy"]), speed])
    return "d. Scans of CRNN-TF", table, found


PARTS: Mapping[str, Callable[[Bench], tuple[str, Table, Results]]] = {
    "a": from_scratch,
    "b": frames_and_songs,
    "c": transfer,
    "d": scans,
}


def _manifest(path: Path, rows: Sequence[Mapping[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def _median(records: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """The median over epochs, which other work on the machine in some of them hardly changes."""
    return statistics.median(record[name] for record in records) if records else None


def _with_interval(figure: Mapping[str, float]) -> str:
    return f"{figure['value']:.3f} ({figure['low']:.3f}-{figure['high']:.3f})"


def _mean_and_deviation(values: Sequence[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{deviation}"


if __name__ == "__main__":
    main()
