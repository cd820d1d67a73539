"""The report of a training run or an evaluation: one HTML file that needs nothing else, no network and no script."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from musictagger.audio.decode import decode_frames
from musictagger.audio.frames import FrameRule
from musictagger.audio.logmel import LogMel
from musictagger.datasets.base import Dataset, describe
from musictagger.errors import AudioError, BadRequestError, printable
from musictagger.evaluation import plots
from musictagger.evaluation.evaluate import Evaluation, headline
from musictagger.evaluation.page import Page
from musictagger.evaluation.results import Json
from musictagger.models.card import Card
from musictagger.paths import replacing
from musictagger.version import __version__

Mel = npt.NDArray[np.float32]

LEAST_MAPPED = 5
"""Tracks from which a map of their embeddings is drawn."""

_FIGURES = {
    "auc": "AUC-ROC, mean over tags",
    "average_precision": "average precision, mean over tags",
    "jaccard": "Jaccard index of the tags given",
    "accuracy": "accuracy, song level",
    "frame_accuracy": "accuracy, frame level",
    "f1": "F1, mean over genres",
    "precision": "precision, mean over genres",
    "recall": "recall, mean over genres",
}


def write_report(
    path: Path,
    *,
    card: Card,
    evaluation: Evaluation | None = None,
    dataset: Dataset | None = None,
    records: Sequence[Mapping[str, Any]] = (),
    options: Mapping[str, Any] | None = None,
    command: str = "",
    mels: Sequence[tuple[str, Mel]] = (),
    facts: Mapping[str, str] | None = None,
    weights: Path | None = None,
) -> Path:
    """Write the report as one HTML file, all or nothing, and give its path.

    `records` are the lines of log.jsonl, `options` those of the run (`TrainOptions.to_json`), `command` what was typed,
    `mels` titles with log-mel spectrograms [n_mels, columns] (see `example_mels`), `facts` further lines of the table
    at the top ({"Trained on": "NVIDIA H200"}), `weights` the model's file, whose size is told. Whatever is not given
    is left out of the report. Raises BadRequestError when the file cannot be written.
    """
    page = Page(f"{card.name}: report")
    if evaluation is not None:
        _results(page, evaluation)
    _about(page, card, evaluation, facts or {}, weights)
    if records:
        _training(page, records)
    if evaluation is not None:
        _pictures(page, evaluation)
        _tables(page, evaluation)
    if dataset is not None:
        _dataset(page, dataset)
    if mels:
        page.heading("What the model sees")
        names = "; ".join(title for title, _ in mels)
        page.figure(
            plots.mel_examples(mels, card.front_end.frame_s), f"Log-mel spectrograms of the first frame: {names}"
        )
    if options or command:
        _how(page, options or {}, command)
    measured = f"measured on {evaluation.dataset}, {evaluation.split}" if evaluation else "not measured"
    _write(path, page.document(f"{card.backbone}, {measured}; musictagger {__version__}"))
    return path


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_bytes(text.encode("utf-8", "replace"))
    except OSError as error:
        raise BadRequestError(f"{printable(path)}: the report cannot be written: {error.strerror}") from error


def _results(page: Page, evaluation: Evaluation) -> None:
    page.heading("Results")
    rows = [(_FIGURES.get(name, name), *_figure(each)) for name, each in headline(evaluation.figures).items()]
    caption = (
        f"{len(evaluation.paths):,} tracks, {len(evaluation.names):,} tags; intervals are 95 % bootstrap over tracks"
    )
    page.table(("figure", "value", "from", "to"), rows, caption)
    if (written := evaluation.figures.get("written")) is not None:
        total = sum(written.values())
        page.text(
            f"With its thresholds the model gives {written['right'] / total:.1%} of the tracks their own genre "
            f"(or a kind of it) first, {written['wrong'] / total:.1%} another, and {written['none'] / total:.1%} none."
        )
    left_out = evaluation.figures["tracks_left_out"]
    if left_out:
        page.text("Left out: " + "; ".join(f"{count:,} tracks, {printable(why)}" for why, count in left_out.items()))
    page.text(*evaluation.matching.describe(), soft=True)


def _about(
    page: Page, card: Card, evaluation: Evaluation | None, facts: Mapping[str, str], weights: Path | None
) -> None:
    page.heading("Model")
    front_end = card.front_end
    rows = {
        "Backbone": card.backbone,
        "Task": "one genre" if card.task == "genre" else "tags",
        "Outputs": f"{len(card.outputs):,}, merged into {len(card.tags):,} tags",
        "Front end": f"{front_end.sample_rate_hz:,} Hz, {front_end.n_mels} bands, frames of {front_end.frame_s:.2f} s",
        "Calibration": "none" if card.curves is None else f"curves for {len(card.curves.curves):,} tags",
    }
    if card.head is not None:
        rows["Head"] = str(card.head.get("kind", "yes"))
    if weights is not None and weights.is_file():
        rows["Size"] = f"{weights.stat().st_size / 1e6:,.1f} MB"
    if evaluation is not None and evaluation.track_scores.seconds > 0:
        track_scores = evaluation.track_scores
        rows["Speed"] = (
            f"{track_scores.audio_s / track_scores.seconds:,.0f} x real time while judged, decoding included"
        )
        rows["Frames to track"] = evaluation.aggregator
    rows |= {"Licence": card.licence, "Attribution": card.attribution} | dict(facts)
    page.table((), [(name, value) for name, value in rows.items() if value])


def _training(page: Page, records: Sequence[Mapping[str, Any]]) -> None:
    page.heading("Training")
    last = records[-1]
    alt = f"Loss and validation figures over {len(records)} epochs; at the last: " + ", ".join(
        f"{key} {last[key]:.3f}" for key in ("train_loss", "valid_loss", "auc", "accuracy") if _number(last.get(key))
    )
    page.figure(plots.training_curves(records), alt)
    keys = [key for key in records[0] if any(_number(record.get(key)) for record in records)]
    rows = [[f"{record[key]:.4g}" if _number(record.get(key)) else "" for key in keys] for record in records]
    page.table([key.replace("_", " ") for key in keys], rows, "Epochs")


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _pictures(page: Page, evaluation: Evaluation) -> None:
    figures, names = evaluation.figures, evaluation.names
    if evaluation.task == "genre":
        page.heading("Confusion")
        for level, title in (("song", "Songs"), ("frame", "Frames")):
            matrix = figures[level]["confusion"]
            alt = f"Confusion matrix, {title.lower()}: accuracy {_plain(figures[level]['accuracy']['value'])}"
            page.figure(plots.confusion(matrix, names, title), alt)
    ranking = (figures["tags"] if evaluation.task == "genre" else figures)["auc"]
    aucs = {name: each["value"] for name, each in ranking["per_tag"].items() if each["value"] is not None}
    if aucs:
        page.heading("How well each tag is told from the rest")
        scores = evaluation.scores.astype(np.float64)
        alt = f"ROC curves, mean AUC {_plain(ranking['macro']['value'])}; every value is in the table of tags"
        page.figure(plots.roc_curves(evaluation.truth, scores, names, aucs), alt)
        page.figure(plots.auc_bars(ranking["per_tag"]), "AUC-ROC of each tag with its interval; see the table of tags")
    if evaluation.card.curves is not None:
        page.heading("Calibration")
        raw, calibrated = evaluation.raw_scores.astype(np.float64), evaluation.scores.astype(np.float64)
        alt = "Reliability: the share of true tags over the mean score, before and after calibration"
        page.figure(
            plots.reliability(evaluation.truth, raw, calibrated), alt, "On the diagonal a score is a probability."
        )
    _map(page, evaluation)


def _map(page: Page, evaluation: Evaluation) -> None:
    tracks = len(evaluation.paths)
    # Equal embeddings (a model that learnt nothing) have no map.
    if tracks < LEAST_MAPPED or not evaluation.embeddings.std(axis=0).any():
        return
    rows = np.arange(tracks)
    if tracks > plots.MOST_POINTS:
        rows = np.sort(np.random.default_rng(0).choice(tracks, plots.MOST_POINTS, replace=False))
    page.heading("Map of the tracks")
    common = evaluation.truth.sum(axis=0)
    # A track of several tags is marked by its rarest, which says most.
    truth = evaluation.truth[rows]
    rarest = np.where(truth, common, np.inf).argmin(axis=1)
    labels = [evaluation.names[tag] if own.any() else "" for tag, own in zip(rarest, truth, strict=True)]
    shown = "" if len(rows) == tracks else f" of {tracks:,}"
    page.figure(
        plots.embedding_map(plots.tsne(evaluation.embeddings[rows]), labels),
        f"Map of {len(rows):,}{shown} tracks by what the model hears, marked by tag",
        f"t-SNE of the embeddings of {len(rows):,}{shown} tracks: near ones sound alike to the model, "
        f"other distances mean nothing.{'' if evaluation.task == 'genre' else _MARKED}",
    )


def _tables(page: Page, evaluation: Evaluation) -> None:
    figures = evaluation.figures
    if evaluation.task == "genre":
        page.heading("Genres")
        song = figures["song"]
        songs = [f"{sum(row):,}" for row in song["confusion"]]
        each = [[_plain(song[metric]["per_tag"][name]["value"]) for metric in METRICS] for name in evaluation.names]
        rows = [(name, count, *values) for name, count, values in zip(evaluation.names, songs, each, strict=True)]
        page.table(("genre", "songs", "recall", "precision", "F1", "AUC"), rows, "The best genre of each song")
    page.heading("Tags")
    tags: Json = figures["tags"] if evaluation.task == "genre" else figures
    rows = [
        _tag_row(name, float(limit), tags) for name, limit in zip(evaluation.names, evaluation.thresholds, strict=True)
    ]
    header = ("tag", "tracks", "AUC", "from", "to", "AP", "threshold", "rightly given", "wrongly given",
              "wrongly not", "rightly not", "precision", "recall")  # fmt: skip
    page.table(header, rows, "Every tag by itself, at its threshold")


_MARKED = " A track of several tags is marked by the rarest of them."
METRICS = ("recall", "precision", "f1", "auc")


def _tag_row(name: str, limit: float, tags: Json) -> tuple[str, ...]:
    hit, wrong, missed, rest = tags["confusion"][name]
    return (
        name,
        f"{hit + missed:,}",
        *_figure(tags["auc"]["per_tag"][name]),
        _plain(tags["average_precision"]["per_tag"][name]["value"]),
        f"{limit:.3f}",
        *(f"{count:,}" for count in (hit, wrong, missed, rest)),
        _plain(hit / (hit + wrong) if hit + wrong else None),
        _plain(hit / (hit + missed) if hit + missed else None),
    )


def _dataset(page: Page, dataset: Dataset) -> None:
    page.heading("Data")
    page.text(*describe(dataset))
    alt = "Share of each split's labels that each tag has; the numbers are in the table below"
    counts = dataset.counts()
    page.figure(plots.tag_distribution({split: dict(each) for split, each in counts.items()}, dataset.tags), alt)
    rows = [(tag, *(f"{counts[split][tag]:,}" for split in counts)) for tag in dataset.tags]
    page.table(("tag", *counts), rows, "Tracks of each split")


def _how(page: Page, options: Mapping[str, Any], command: str) -> None:
    page.heading("How it was made")
    if command:
        page.code(command)
    texts = [value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for value in options.values()]
    page.table((), list(zip(options, texts, strict=True)))


def _figure(figure: Mapping[str, float | None]) -> tuple[str, str, str]:
    return _plain(figure["value"]), _plain(figure["low"]), _plain(figure["high"])


def _plain(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def example_mels(card: Card, evaluation: Evaluation, most: int = 6) -> list[tuple[str, Mel]]:
    """The first frame of one track of each of the first `most` tags, as the model sees it: (tag, [n_mels, columns]).

    Decodes these tracks; one that cannot be decoded any more is passed over.
    """
    found: list[tuple[str, Mel]] = []
    used: set[Path] = set()
    log_mel = LogMel(card.front_end)
    rule = FrameRule(card.front_end.frame_samples, most=1)
    for column, name in enumerate(evaluation.names):
        own = [path for path, has in zip(evaluation.paths, evaluation.truth[:, column], strict=True) if has]
        path = next((path for path in own if path not in used), None)
        if path is None or len(found) >= most:
            continue
        used.add(path)
        with contextlib.suppress(AudioError, StopIteration):
            _, wave = next(decode_frames(path, card.front_end.sample_rate_hz, rule))
            found.append((name, log_mel(torch.from_numpy(wave)[None])[0].numpy()))
    return found
