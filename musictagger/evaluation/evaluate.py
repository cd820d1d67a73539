"""How good a model is on labelled tracks, by the way a scan scores them: what is measured is what users get."""

from __future__ import annotations

import dataclasses
import stat
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from musictagger.audio.frames import FrameRule
from musictagger.datasets.base import Dataset
from musictagger.errors import BadRequestError, printable
from musictagger.evaluation.labelled import LabelledScores, SplitOrAll, examples_of, scored_tracks
from musictagger.evaluation.matching import Matching, match_tags
from musictagger.evaluation.overlap import count_overlap
from musictagger.evaluation.results import RECALL_AT, Json, genre_figures, tag_figures
from musictagger.evaluation.scoring import TrackScores, score_tracks
from musictagger.models.card import Card, Task
from musictagger.models.inference import Predictor
from musictagger.paths import bundled_folder, replacing
from musictagger.pipeline.pool import DEFAULT_TIMEOUT_S
from musictagger.progress import Progress
from musictagger.records import Aggregator, FloatArray
from musictagger.scores.genres import GenreChoice, chooser
from musictagger.scores.genres import thresholds as card_thresholds
from musictagger.version import __version__


@dataclass(frozen=True, eq=False)
class Evaluation:
    """How a model did on labelled tracks. Columns are the model's tags that the dataset knows, in the card's order."""

    model: str
    dataset: str
    split: SplitOrAll
    task: Task
    """The dataset's: "genre" where each track has one of `names`."""
    matching: Matching
    names: tuple[str, ...]
    paths: tuple[Path, ...]
    """The tracks that count, in the dataset's order."""
    truth: npt.NDArray[np.bool_]
    """bool [tracks, names]."""
    scores: FloatArray
    """float32 [tracks, names] of tracks: merged, aggregated and calibrated."""
    raw_scores: FloatArray
    """float32 [tracks, names]: the same before calibration."""
    thresholds: FloatArray
    """float32 [names]."""
    embeddings: FloatArray
    """float32 [tracks, dim]."""
    figures: Json
    """See `evaluate_scores`."""
    track_scores: TrackScores
    card: Card
    aggregator: Aggregator = "mean"
    overlap: int = 0
    """Tracks that the model was trained on, where the split is not train itself: they make the figures too good."""


def evaluate_model(
    predictor: Predictor,
    dataset: Dataset,
    split: SplitOrAll = "test",
    *,
    rule: FrameRule | None = None,
    aggregator: Aggregator = "mean",
    workers: int | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    resamples: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Evaluation:
    """Score the tracks of a split (`score_tracks`), then hold them against their labels (`evaluate_scores`).

    Raises BadRequestError, before anything is decoded, where model and dataset have nothing in common.
    """
    match_tags(predictor.card, dataset)
    paths = [example.path for example in examples_of(dataset, split)]
    if progress is not None:
        progress.start(f"{dataset.name}, {split}", len(paths), "tracks")
    track_scores = score_tracks(
        predictor, paths, rule=rule, workers=workers, timeout_s=timeout_s, progress=progress, stop=stop
    )
    return evaluate_scores(
        predictor.card, track_scores, dataset, split, aggregator=aggregator, resamples=resamples, seed=seed
    )


def evaluate_scores(
    card: Card,
    track_scores: TrackScores,
    dataset: Dataset,
    split: SplitOrAll = "test",
    *,
    aggregator: Aggregator = "mean",
    resamples: int = 1000,
    seed: int = 0,
) -> Evaluation:
    """The figures of scored tracks. `figures` is JSON, each figure {"value", "low", "high"}, null where undefined:

    {"task": "tags", "tracks_left_out": {"too short": 3, ...}, ...all of `report_data.tag_figures`}, or
    {"task": "genre", "tracks_left_out": {...}, ...all of `report_data.genre_figures`,
     "tags": tag_figures of the same tracks, "written": {"right": n, "wrong": n, "none": n}}.

    A genre model is asked for the best of the genres that it shares with the dataset; tracks of other genres are left
    out. "written" counts tracks by the first genre that a scan would write, of all the model has: the track's own (or
    a kind of it), another, or none. Raises BadRequestError where nothing matches, or fewer than two tracks count.
    """
    matching = match_tags(card, dataset)
    rows = scored_tracks(card, track_scores, examples_of(dataset, split), matching, aggregator)
    left_out = Counter(track_scores.failures.get(path, "not scored") for path in rows.missing)
    if dataset.task == "genre":
        known = rows.truth.any(axis=1)
        left_out.update({"genre that the model does not know": int((~known).sum())})
        rows = rows.only(np.flatnonzero(known))
    if len(rows.paths) < 2:
        reasons = "; ".join(f"{count:,} {reason}" for reason, count in (+left_out).most_common(3))
        raise BadRequestError(
            f"dataset {dataset.name}: {len(rows.paths)} tracks of split {split} can be judged, at least 2 are needed"
            + (f" ({reasons})" if reasons else "")
        )
    figures = _figures(card, rows, dataset.task, aggregator, resamples, seed)
    return Evaluation(
        model=card.name,
        dataset=dataset.name,
        split=split,
        task=dataset.task,
        matching=matching,
        names=rows.names,
        paths=rows.paths,
        truth=rows.truth,
        scores=rows.scores[:, rows.columns],
        raw_scores=rows.raw[:, rows.columns],
        thresholds=card_thresholds(card)[rows.columns],
        embeddings=rows.embeddings,
        figures={"task": dataset.task, "tracks_left_out": dict(sorted((+left_out).items())), **figures},
        track_scores=track_scores,
        card=card,
        aggregator=aggregator,
        overlap=count_overlap(card, split, track_scores.digests),
    )


def _figures(card: Card, rows: LabelledScores, task: Task, how: Aggregator, resamples: int, seed: int) -> Json:
    scores, limits = rows.scores[:, rows.columns], card_thresholds(card)[rows.columns]
    tags = tag_figures(rows.truth, scores, rows.names, limits, resamples=resamples, seed=seed)
    if task == "tags":
        return tags
    truth = rows.truth.argmax(axis=1)
    tracks = np.arange(len(truth))
    frames, track = np.concatenate(rows.frame_scores), np.repeat(tracks, [len(one) for one in rows.frame_scores])
    genre = genre_figures(truth, frames, track, rows.names, how=how, resamples=resamples, seed=seed)
    if card.curves is not None:
        # Curves belong to tracks: what a scan compares are calibrated scores, frames have none.
        genre["song"] = genre_figures(truth, scores, tracks, rows.names, resamples=resamples, seed=seed)["song"]
    return {**genre, "tags": tags, "written": _written(card, rows)}


def _written(card: Card, rows: LabelledScores) -> dict[str, int]:
    choose = chooser(card, GenreChoice(max_genres=1))
    tree = choose.choice.tree
    counts = Counter({"right": 0, "wrong": 0, "none": 0})
    for scores, column in zip(rows.scores, rows.truth.argmax(axis=1), strict=True):
        own = tree.key(tree.canonical(rows.names[column]))
        said = choose(scores)
        kinds = {tree.key(name) for genre in said for name in (genre, *tree.ancestors(genre))}
        counts["none" if not said else "right" if own in kinds else "wrong"] += 1
    return dict(counts)


def card_metrics(evaluation: Evaluation) -> Json:
    """The short figures that a card keeps: on what they were measured, with what, and the figures over all tags.

    The same evaluation gives the same values at any time and place.
    """
    figures, card = evaluation.figures, evaluation.card
    front_end = card.front_end
    return {
        "dataset": evaluation.dataset,
        "split": evaluation.split,
        "task": evaluation.task,
        "tracks": len(evaluation.paths),
        "tracks_left_out": figures["tracks_left_out"],
        "tags": len(evaluation.names),
        "tags_not_measured": [*evaluation.matching.only_model],
        "aggregate": evaluation.aggregator,
        "musictagger": __version__,
        "front_end": f"{front_end.sample_rate_hz} Hz, {front_end.n_mels} mels, frames of {front_end.frame_s:.2f} s",
        "resamples": figures["resamples"],
        **_short(figures),
    }


def headline(figures: Json) -> dict[str, Json]:
    """The figures over all tags, by name, the best known first; each is {"value", "low", "high"}."""
    ranking = {"auc": "auc", "average_precision": "average_precision"}
    if figures["task"] == "tags":
        rest = [f"recall@{k}" for k in RECALL_AT] + ["jaccard"]
        return {name: figures[key]["macro"] for name, key in ranking.items()} | {name: figures[name] for name in rest}
    song = figures["song"]
    return {
        "accuracy": song["accuracy"],
        "frame_accuracy": figures["frame"]["accuracy"],
        **{name: song[name]["macro"] for name in ("f1", "precision", "recall", "auc")},
        "average_precision": figures["tags"]["average_precision"]["macro"],
    }


def _short(figures: Json) -> Json:
    rounded = {
        name: {key: None if value is None else round(value, 5) for key, value in figure.items()}
        for name, figure in headline(figures).items()
    }
    return rounded | ({"written": figures["written"]} if "written" in figures else {})


def save_metrics(weights: Path, evaluation: Evaluation) -> str:
    """Put `card_metrics` into the card beside `weights`, under "DATASET/SPLIT", all or nothing.

    Gives a sentence for people: where it was written, or why not (the model is part of the program, is read-only, or
    the evaluation was interrupted). Raises ModelError when the card cannot be read.
    """
    path = weights.with_suffix(".json")
    if evaluation.track_scores.interrupted:
        return f"{printable(path)}: not written, since not all tracks were judged"
    if path.resolve().is_relative_to(bundled_folder("weights").resolve()):
        return f"{printable(path)}: not written, since this model is part of the program"
    card = Card.load(path)
    metrics = {**card.metrics, f"{evaluation.dataset}/{evaluation.split}": card_metrics(evaluation)}
    try:
        if not path.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH):
            return f"{printable(path)}: not written, since it is read-only"
        _replace(path, dataclasses.replace(card, metrics=metrics))
    except OSError as error:
        return f"{printable(path)}: not written: {error.strerror}"
    return f"{printable(path)}: has the figures"


def _replace(path: Path, card: Card) -> None:
    with replacing(path) as temporary:
        card.save(temporary)
        temporary.chmod(stat.S_IMODE(path.stat().st_mode))
