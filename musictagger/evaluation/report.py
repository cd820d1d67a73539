"""The report of a training run or an evaluation: one self-contained HTML file without scripts."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from musictagger.audio.decode import decode_frames
from musictagger.audio.frames import FrameRule
from musictagger.audio.logmel import LogMel
from musictagger.datasets.base import Dataset, describe
from musictagger.errors import AudioError, BadRequestError, printable
from musictagger.evaluation import plots
from musictagger.evaluation.bootstrap import Interval
from musictagger.evaluation.evaluate import Evaluation
from musictagger.evaluation.matching import LabelledScores
from musictagger.evaluation.results import GenreLevel, TagMetrics
from musictagger.models.card import Card
from musictagger.paths import replacing
from musictagger.version import __version__

Mel = npt.NDArray[np.float32]
Rows = list[tuple[str, ...]]

MIN_MAPPED = 5
"""Tracks from which a map of their embeddings is drawn."""

_LABELS = {
    "auc": "AUC-ROC, mean over tags",
    "average_precision": "average precision, mean over tags",
    "jaccard": "Jaccard index of the predicted tags",
    "accuracy": "accuracy, song level",
    "frame_accuracy": "accuracy, frame level",
    "f1": "F1, mean over genres",
    "precision": "precision, mean over genres",
    "recall": "recall, mean over genres",
}


@dataclass(frozen=True)
class Report:
    """The content of a report; sections without content are left out."""

    card: Card
    evaluation: Evaluation | None = None
    dataset: Dataset | None = None
    records: Sequence[Mapping[str, Any]] = ()
    """The lines of log.jsonl."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The options of the run (`TrainOptions.to_json`)."""
    command: str = ""
    mels: Sequence[tuple[str, Mel]] = ()
    """Titles with log-mel spectrograms [n_mels, columns] (see `example_mels`)."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """Further lines of the table of the model, as {"Trained on": "NVIDIA H200"}."""
    weights: Path | None = None
    """The model's file, for its size."""


def write_report(path: Path, report: Report) -> Path:
    """Write the report as one HTML file, atomically, and return its path.

    Raises BadRequestError when the file cannot be written.
    """
    text = _render(report)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_bytes(text.encode("utf-8", "replace"))
    except OSError as error:
        raise BadRequestError(f"{printable(path)}: the report cannot be written: {error.strerror}") from error
    return path


def _render(report: Report) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": lambda number: f"{number:,}",
        "number": _number,
        "share": lambda count, total: f"{count / total:.1%}",
        "printable": printable,
    }
    numbers = itertools.count(1)

    def svg(figure: Figure, alt: str) -> Markup:
        return Markup(plots.svg_text(figure, alt, f"f{next(numbers)}"))

    return environment.get_template("report.html.jinja").render(
        report=report,
        card=report.card,
        evaluation=report.evaluation,
        facts=_facts(report),
        epochs=_epochs(report.records),
        data=_counts(report.dataset) if report.dataset else None,
        options=[
            (name, v if isinstance(v, str) else json.dumps(v, ensure_ascii=False)) for name, v in report.options.items()
        ],
        version=__version__,
        describe=describe,
        plots=plots,
        svg=svg,
        **(_measured(report.evaluation) if report.evaluation else {}),
    )


def _measured(evaluation: Evaluation) -> dict[str, Any]:
    """The values of an evaluation that the template shows."""
    genre, tags, labelled = evaluation.genre, evaluation.tags, evaluation.labelled
    return {
        "headline": [(_LABELS.get(name, name), *_interval(each)) for name, each in evaluation.headline().items()],
        "labelled": labelled,
        "genre": genre,
        "auc": tags.auc,
        "aucs": {name: each.value for name, each in tags.auc.per_tag.items() if each.value is not None},
        "map": _embedding_map(labelled),
        "genre_rows": _genre_rows(genre.song, labelled.names) if genre else [],
        "tag_rows": [
            _tag_row(name, float(threshold), tags)
            for name, threshold in zip(labelled.names, labelled.thresholds, strict=True)
        ],
    }


def _facts(report: Report) -> Rows:
    card, evaluation, front_end = report.card, report.evaluation, report.card.front_end
    rows = {
        "Backbone": card.backbone,
        "Task": "one genre" if card.task == "genre" else "tags",
        "Outputs": f"{len(card.outputs):,}, merged into {len(card.tags):,} tags",
        "Front end": f"{front_end.sample_rate_hz:,} Hz, {front_end.n_mels} bands, frames of {front_end.frame_s:.2f} s",
        "Calibration": "none" if card.curves is None else f"curves for {len(card.curves.curves):,} tags",
    }
    if card.head is not None:
        rows["Head"] = str(card.head.get("kind", "yes"))
    if report.weights is not None and report.weights.is_file():
        rows["Size"] = f"{report.weights.stat().st_size / 1e6:,.1f} MB"
    if evaluation is not None and evaluation.track_scores.seconds > 0:
        realtime = evaluation.track_scores.audio_s / evaluation.track_scores.seconds
        rows["Speed"] = f"{realtime:,.0f} x real time during the evaluation, decoding included"
        rows["Aggregation"] = evaluation.aggregator
    rows |= {"Licence": card.licence, "Attribution": card.attribution} | dict(report.facts)
    return [(name, value) for name, value in rows.items() if value]


def _epochs(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    keys = [key for key in (records[0] if records else ()) if any(_is_number(record.get(key)) for record in records)]
    rows = [[f"{record[key]:.4g}" if _is_number(record.get(key)) else "" for key in keys] for record in records]
    return {"header": [key.replace("_", " ") for key in keys], "rows": rows}


def _counts(dataset: Dataset) -> dict[str, Any]:
    counts = dataset.counts()
    rows = [(tag, *(f"{counts[split][tag]:,}" for split in counts)) for tag in dataset.tags]
    return {"header": ("tag", *counts), "rows": rows}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _embedding_map(labelled: LabelledScores) -> dict[str, Any] | None:
    """Positions and labels of a sample of the tracks; None where a map would show nothing."""
    tracks = len(labelled.paths)
    # Equal embeddings (an untrained model) have no map.
    if tracks < MIN_MAPPED or not labelled.embeddings.std(axis=0).any():
        return None
    rows = np.arange(tracks)
    if tracks > plots.MAX_POINTS:
        rows = np.sort(np.random.default_rng(0).choice(tracks, plots.MAX_POINTS, replace=False))
    # A track with several tags is marked by the rarest, which is the most specific.
    truth = labelled.truth[rows]
    rarest = np.where(truth, labelled.truth.sum(axis=0), np.inf).argmin(axis=1)
    labels = [labelled.names[tag] if own.any() else "" for tag, own in zip(rarest, truth, strict=True)]
    return {"positions": plots.tsne(labelled.embeddings[rows]), "labels": labels}


def _genre_rows(song: GenreLevel, names: Sequence[str]) -> Rows:
    return [
        (
            name,
            f"{sum(counts):,}",
            *(_number(of.per_tag[name].value) for of in (song.recall, song.precision, song.f1, song.auc)),
        )
        for name, counts in zip(names, song.confusion, strict=True)
    ]


def _tag_row(name: str, threshold: float, tags: TagMetrics) -> tuple[str, ...]:
    true_positive, false_positive, false_negative, _ = counts = tags.confusion[name]
    predicted, actual = true_positive + false_positive, true_positive + false_negative
    return (
        name,
        f"{actual:,}",
        *_interval(tags.auc.per_tag[name]),
        _number(tags.average_precision.per_tag[name].value),
        f"{threshold:.3f}",
        *(f"{count:,}" for count in counts),
        _number(true_positive / predicted if predicted else None),
        _number(true_positive / actual if actual else None),
    )


def _interval(metric: Interval) -> Iterator[str]:
    return map(_number, (metric.value, metric.low, metric.high))


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def example_mels(card: Card, labelled: LabelledScores, max_tags: int = 6) -> list[tuple[str, Mel]]:
    """The first frame of a track of each of the first `max_tags` tags as the model sees it: (tag, [n_mels, columns]).

    Decodes these tracks and skips one that can no longer be decoded.
    """
    found: list[tuple[str, Mel]] = []
    used: set[Path] = set()
    log_mel = LogMel(card.front_end)
    rule = FrameRule(card.front_end.frame_samples, max_frames=1)
    for column, name in enumerate(labelled.names):
        own = [path for path, has in zip(labelled.paths, labelled.truth[:, column], strict=True) if has]
        path = next((path for path in own if path not in used), None)
        if path is None or len(found) >= max_tags:
            continue
        used.add(path)
        with contextlib.suppress(AudioError, StopIteration):
            _, wave = next(decode_frames(path, card.front_end.sample_rate_hz, rule))
            found.append((name, log_mel(torch.from_numpy(wave)[None])[0].numpy()))
    return found
