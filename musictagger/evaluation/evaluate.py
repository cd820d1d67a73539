"""Evaluation of a model on labelled tracks, scored as a scan scores them, so that users get what was measured."""

from __future__ import annotations

import dataclasses
import stat
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from musictagger.config import Settings
from musictagger.datasets.base import Dataset
from musictagger.errors import BadRequestError, printable
from musictagger.evaluation.bootstrap import DEFAULT_RESAMPLING, Interval, Resampling
from musictagger.evaluation.matching import LabelledScores, Matching, SplitOrAll, examples_of, label_scores, match_tags
from musictagger.evaluation.overlap import count_overlap
from musictagger.evaluation.results import RECALL_AT, GenreMetrics, TagMetrics, genre_metrics, tag_metrics
from musictagger.evaluation.scoring import TrackScores, score_tracks
from musictagger.models.card import Card, Task
from musictagger.models.inference import Predictor
from musictagger.paths import bundled_folder, replacing
from musictagger.progress import SILENT, Progress
from musictagger.records import Aggregator
from musictagger.scores.genres import GenreChoice, chooser
from musictagger.version import __version__

CARD_DIGITS = 5


@dataclass(frozen=True)
class Written:
    """Tracks by the first genre that a scan would write: their own (or a subgenre of it), another, or none."""

    right: int
    wrong: int
    none: int


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A model's metrics on labelled tracks."""

    card: Card
    dataset: str
    split: SplitOrAll
    task: Task
    """The dataset's: "genre" where each track has exactly one."""
    matching: Matching
    labelled: LabelledScores
    tags: TagMetrics
    genre: GenreMetrics | None
    written: Written | None
    """Both only for a genre dataset."""
    tracks_left_out: Mapping[str, int]
    """How many tracks do not count, by reason."""
    track_scores: TrackScores
    aggregator: Aggregator
    overlap: int
    """Tracks that the model was trained on, 0 for the split train: with any, the metrics are too good."""

    def metrics_json(self) -> dict[str, Any]:
        """All metrics as JSON (docs/json.md)."""
        document: dict[str, Any] = {"task": self.task, "tracks_left_out": dict(self.tracks_left_out)}
        if self.genre is None or self.written is None:
            return document | self.tags.to_json()
        genre, written = dataclasses.asdict(self.genre), dataclasses.asdict(self.written)
        return document | genre | {"tags": self.tags.to_json(), "written": written}

    def headline(self) -> dict[str, Interval]:
        """The metrics over all tags by name, the best-known first."""
        tags = self.tags
        if self.genre is None:
            rest = (*(f"recall@{k}" for k in RECALL_AT), "jaccard")
            ranking = {"auc": tags.auc.macro, "average_precision": tags.average_precision.macro}
            return ranking | {name: tags.per_track[name] for name in rest}
        song = self.genre.song
        return {
            "accuracy": song.accuracy,
            "frame_accuracy": self.genre.frame.accuracy,
            "f1": song.f1.macro,
            "precision": song.precision.macro,
            "recall": song.recall.macro,
            "auc": song.auc.macro,
            "average_precision": tags.average_precision.macro,
        }


def evaluate_model(
    predictor: Predictor,
    dataset: Dataset,
    split: SplitOrAll = "test",
    settings: Settings | None = None,
    *,
    resampling: Resampling = DEFAULT_RESAMPLING,
    progress: Progress = SILENT,
) -> Evaluation:
    """Score the tracks of a split (`score_tracks`), then compare the scores with the labels (`evaluate_scores`).

    Raises BadRequestError, before anything is decoded, where model and dataset have too few tags in common.
    """
    settings = settings or Settings()
    match_tags(predictor.card, dataset)
    paths = [example.path for example in examples_of(dataset, split)]
    progress.start(f"{dataset.name}, {split}", len(paths), "tracks")
    track_scores = score_tracks(predictor, paths, settings, progress)
    return evaluate_scores(
        predictor.card, track_scores, dataset, split, aggregator=settings.aggregate, resampling=resampling
    )


def evaluate_scores(
    card: Card,
    track_scores: TrackScores,
    dataset: Dataset,
    split: SplitOrAll = "test",
    *,
    aggregator: Aggregator = "mean",
    resampling: Resampling = DEFAULT_RESAMPLING,
) -> Evaluation:
    """Compare the scores of tracks with their labels.

    On a genre dataset the model's prediction is the best of the genres that it shares with the dataset; tracks of
    other genres are left out. Raises BadRequestError where no tag matches, or fewer than two tracks count.
    """
    matching = match_tags(card, dataset)
    rows = label_scores(card, track_scores, examples_of(dataset, split), matching, aggregator)
    left_out = Counter(track_scores.failures.get(path, "not scored") for path in rows.missing)
    is_genre = dataset.task == "genre"
    if is_genre:
        known = rows.truth.any(axis=1)
        left_out["genre that the model does not know"] = int((~known).sum())
        rows = rows.only(np.flatnonzero(known))
    left_out = +left_out
    if len(rows.paths) < 2:
        reasons = "; ".join(f"{count:,} {reason}" for reason, count in left_out.most_common(3))
        raise BadRequestError(
            f"dataset {dataset.name}: {len(rows.paths)} tracks of split {split} can be measured, at least 2 are needed"
            + (f" ({reasons})" if reasons else "")
        )
    scores = rows.matched_scores
    return Evaluation(
        card=card,
        dataset=dataset.name,
        split=split,
        task=dataset.task,
        matching=matching,
        labelled=rows,
        tags=tag_metrics(rows.truth, scores, rows.names, rows.thresholds, resampling),
        genre=genre_metrics(rows.genres, scores, rows.frame_scores, rows.names, resampling) if is_genre else None,
        written=_written(card, rows) if is_genre else None,
        tracks_left_out=dict(sorted(left_out.items())),
        track_scores=track_scores,
        aggregator=aggregator,
        overlap=count_overlap(card, split, track_scores.digests),
    )


def _written(card: Card, rows: LabelledScores) -> Written:
    choose = chooser(card, GenreChoice(max_genres=1))
    tree = choose.choice.tree
    counts = Counter({"right": 0, "wrong": 0, "none": 0})
    for scores, column in zip(rows.scores, rows.genres, strict=True):
        own = tree.key(tree.canonical(rows.names[column]))
        chosen = choose(scores)
        with_parents = {tree.key(name) for genre in chosen for name in (genre, *tree.ancestors(genre))}
        counts["none" if not chosen else "right" if own in with_parents else "wrong"] += 1
    return Written(**counts)


def card_metrics(evaluation: Evaluation) -> dict[str, Any]:
    """The summary that a card keeps: the data, the model's input, and the metrics over all tags.

    The same evaluation gives the same values at any time and place.
    """
    front_end, labelled = evaluation.card.front_end, evaluation.labelled
    written = {} if evaluation.written is None else {"written": dataclasses.asdict(evaluation.written)}
    return {
        "dataset": evaluation.dataset,
        "split": evaluation.split,
        "task": evaluation.task,
        "tracks": len(labelled.paths),
        "tracks_left_out": dict(evaluation.tracks_left_out),
        "tags": len(labelled.names),
        "tags_not_measured": [*evaluation.matching.only_model],
        "aggregate": evaluation.aggregator,
        "musictagger": __version__,
        "front_end": f"{front_end.sample_rate_hz} Hz, {front_end.n_mels} mels, frames of {front_end.frame_s:.2f} s",
        "resamples": evaluation.tags.resamples,
        **{name: metric.rounded(CARD_DIGITS).to_json() for name, metric in evaluation.headline().items()},
        **written,
    }


def save_metrics(weights: Path, evaluation: Evaluation) -> str:
    """Save `card_metrics` in the card beside `weights`, under "DATASET/SPLIT", atomically.

    Returns a sentence for the user: where they were saved, or why not (the model is part of the program, its card is
    read-only, or the evaluation was interrupted). Raises ModelError when the card cannot be read.
    """
    path = weights.with_suffix(".json")
    if evaluation.track_scores.interrupted:
        return f"{printable(path)}: not written, since not all tracks were scored"
    if path.resolve().is_relative_to(bundled_folder("weights").resolve()):
        return f"{printable(path)}: not written, since this model is part of the program"
    card = Card.load(path)
    metrics = {**card.metrics, f"{evaluation.dataset}/{evaluation.split}": card_metrics(evaluation)}
    try:
        if not path.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH):
            return f"{printable(path)}: not written, since it is read-only"
        with replacing(path) as temporary:
            dataclasses.replace(card, metrics=metrics).save(temporary)
            temporary.chmod(stat.S_IMODE(path.stat().st_mode))
    except OSError as error:
        return f"{printable(path)}: not written: {error.strerror}"
    return f"{printable(path)}: metrics saved"
