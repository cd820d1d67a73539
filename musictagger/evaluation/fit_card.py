"""Thresholds and calibration of a card, fitted on its validation split with the scores that users get."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from musictagger.datasets.base import Dataset
from musictagger.evaluation.labelled import LabelledScores, examples_of, scored_tracks
from musictagger.evaluation.matching import match_tags
from musictagger.evaluation.scoring import TrackScores
from musictagger.evaluation.thresholds import (
    LIFT,
    LIFT_THRESHOLD,
    SPREAD,
    Thresholds,
    fit_calibration,
    fit_lift,
    fit_thresholds,
)
from musictagger.models.calibration import METHODS, Calibration, CalibrationKind, calibrated
from musictagger.models.card import Card
from musictagger.records import Aggregator, FloatArray

MIN_POSITIVES = 3
"""A tag that fewer validation tracks have keeps its threshold: the best one for two tracks is those two tracks."""

GIVEN_SHARE = 0.95
"""Of the validation tracks so many get the genre that the model hears first. Softmax shares 1 among all genres, so a
track between three of them has no high score; the best F1 alone would leave it without any genre."""


def fit_card(
    card: Card,
    track_scores: TrackScores,
    dataset: Dataset,
    *,
    calibration: CalibrationKind = "none",
    min_precision: float = 0.0,
    aggregator: Aggregator = "mean",
) -> Card:
    """The card with calibration and thresholds fitted on the validation split, whose scores are `track_scores`.

    A threshold is the one of the best F1 of its tag, with at least `min_precision`. That of a genre model's
    genre is at most what lets `GIVEN_SHARE` of the tracks have their first genre, unless a precision is asked for.
    With calibration "lift" every tag's is LIFT_THRESHOLD, which says for each where it begins (`fit_lift`).
    A tag that the data cannot fit keeps the threshold that the card has (a genre's never above its ceiling);
    `training["thresholds"]` of the card says which did, and what was fitted on what. So a card that has no tag in
    common with the dataset, or no track with a label, stays as it is but for that.
    """
    matching = match_tags(card, dataset, require=False)
    lifted = calibration == "lift"
    # Lift needs no labels, so tracks that nobody labelled have a say too.
    examples = dataset.split("valid") if lifted else examples_of(dataset, "valid")
    rows = scored_tracks(card, track_scores, examples, matching, aggregator)
    said: dict[str, Any] = {
        "dataset": dataset.name,
        "split": "valid",
        "tracks": len(rows.paths),
        "aggregate": aggregator,
        "min_precision": min_precision,
        "calibration": calibration,
    }
    if lifted and rows.paths:
        return _lifted(card, rows, said)
    fit = bool(rows.paths and rows.names)
    curves = _fit_curves(rows, calibration) if fit else None
    if curves is not None:
        said["not_calibrated"] = [*curves.left_out]
    limits: dict[str, float] = {}
    fitted: set[str] = set()
    if fit:
        scores = calibrated(_unit(rows.raw[:, rows.columns]), curves, rows.names)
        limits, found = _fit_limits(card, rows, scores, min_precision)
        said |= {"f1": dict(found.f1), "below_min_precision": [*found.below_floor]}
        fitted = set(found.f1)
    said["kept_default"] = [tag.name for tag in card.tags if tag.name not in fitted]
    tags = tuple(dataclasses.replace(tag, threshold=limits.get(tag.name, tag.threshold)) for tag in card.tags)
    return dataclasses.replace(
        card,
        tags=tags,
        calibration=curves.to_json() if curves is not None else None,
        training={**card.training, "thresholds": said},
    )


def _lifted(card: Card, rows: LabelledScores, said: Mapping[str, Any]) -> Card:
    """Every tag by its lift, from which thresholds follow; labels have no say."""
    genres = {tag.name for tag in card.tags if tag.category == "genre"}
    curves = fit_lift(_unit(rows.raw), [tag.name for tag in card.tags], genres)
    tags = tuple(dataclasses.replace(tag, threshold=LIFT_THRESHOLD) for tag in card.tags)
    training = {**card.training, "thresholds": {**said, "lift": LIFT, "spread": SPREAD}}
    return dataclasses.replace(card, tags=tags, calibration=curves.to_json(), training=training)


def _fit_curves(rows: LabelledScores, calibration: CalibrationKind) -> Calibration | None:
    if calibration not in METHODS:
        return None
    return fit_calibration(rows.truth, _unit(rows.raw[:, rows.columns]), rows.names, calibration)


def _fit_limits(
    card: Card, rows: LabelledScores, scores: FloatArray, min_precision: float
) -> tuple[dict[str, float], Thresholds]:
    """Thresholds by tag name, of those that could be fitted."""
    found = fit_thresholds(rows.truth, scores, rows.names, min_precision=min_precision, min_positives=MIN_POSITIVES)
    limits = {name: value for name, value in found.values.items() if name not in found.kept_default}
    if card.task != "genre" or min_precision:
        return limits, found
    defaults = {tag.name: tag.threshold for tag in card.tags}
    ceilings = dict(zip(rows.names, top_ceilings(scores).tolist(), strict=True))
    return {name: min(limits.get(name, defaults[name]), ceilings[name]) for name in rows.names}, found


def top_ceilings(scores: FloatArray, share: float = GIVEN_SHARE) -> npt.NDArray[np.float64]:
    """For each genre, [genres], the highest threshold that `share` of the tracks pass whose highest score is its.

    `scores` are [tracks, genres], at least one track. For a genre that no track has first: that of all tracks.
    """
    first, highest = scores.argmax(axis=1), scores.max(axis=1).astype(np.float64)
    of_all = np.quantile(highest, 1 - share, method="lower")
    own = [highest[first == genre] for genre in range(scores.shape[1])]
    return np.array([np.quantile(one, 1 - share, method="lower") if len(one) else of_all for one in own])


def _unit(scores: FloatArray) -> FloatArray:
    """The mean of scores of exactly 1 may be a rounding above it."""
    return np.clip(scores, 0.0, 1.0)
