"""Thresholds and calibration of a card, fitted on the validation split with the scores that a scan gives."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt

from musictagger.datasets.base import Dataset
from musictagger.evaluation.matching import LabelledScores, examples_of, label_scores, match_tags
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

MIN_THRESHOLD_POSITIVES = 3
"""A tag with fewer validation tracks keeps its threshold: the best threshold of two tracks would fit only those two."""

GIVEN_SHARE = 0.95
"""Share of the validation tracks that get their most probable genre. Softmax divides 1 among all genres, so that a
track between three of them has no high score; thresholds by F1 alone would leave it without a genre."""


def fit_card(
    card: Card,
    track_scores: TrackScores,
    dataset: Dataset,
    *,
    calibration: CalibrationKind = "none",
    min_precision: float = 0.0,
    aggregator: Aggregator = "mean",
) -> Card:
    """Return the card with calibration and thresholds fitted on `track_scores` of the validation split.

    A tag's threshold is that of its best F1 with at least `min_precision`. Unless `min_precision` is given, the
    threshold of a genre in a genre model is at most the one at which `GIVEN_SHARE` of the tracks get their most
    probable genre. With calibration "lift" all thresholds are LIFT_THRESHOLD, since the curves are aligned to it
    (`fit_lift`). A tag that cannot be fitted keeps the threshold that the card has (for a genre at most its ceiling);
    `training["thresholds"]` of the card lists these tags, the F1 of the others and the data. If card and dataset have
    no tag in common, or no track has a label, nothing else in the card changes.
    """
    matching = match_tags(card, dataset, require=False)
    lifted = calibration == "lift"
    # Lift needs no labels, so unlabelled tracks count as well.
    examples = dataset.split("valid") if lifted else examples_of(dataset, "valid")
    rows = label_scores(card, track_scores, examples, matching, aggregator)
    summary: dict[str, Any] = {
        "dataset": dataset.name,
        "split": "valid",
        "tracks": len(rows.paths),
        "aggregate": aggregator,
        "min_precision": min_precision,
        "calibration": calibration,
    }
    names = [tag.name for tag in card.tags]
    curves: Calibration | None = None
    thresholds: dict[str, float] = {}
    if lifted and rows.paths:
        curves = fit_lift(_unit(rows.raw), names, {tag.name for tag in card.tags if tag.category == "genre"})
        thresholds = dict.fromkeys(names, LIFT_THRESHOLD)
        summary |= {"lift": LIFT, "spread": SPREAD}
    else:
        fitted: Collection[str] = ()
        if rows.paths and rows.names:
            if calibration in METHODS:
                curves = fit_calibration(rows.truth, _unit(rows.matched_raw), rows.names, calibration)
                summary["not_calibrated"] = [*curves.left_out]
            scores = calibrated(_unit(rows.matched_raw), curves, rows.names)
            thresholds, found = _fit_thresholds(card, rows, scores, min_precision)
            summary |= {"f1": dict(found.f1), "below_min_precision": [*found.below_floor]}
            fitted = found.f1
        summary["kept_default"] = [name for name in names if name not in fitted]
    return dataclasses.replace(
        card,
        tags=tuple(dataclasses.replace(tag, threshold=thresholds.get(tag.name, tag.threshold)) for tag in card.tags),
        calibration=curves.to_json() if curves is not None else None,
        training={**card.training, "thresholds": summary},
    )


def _fit_thresholds(
    card: Card, rows: LabelledScores, scores: FloatArray, min_precision: float
) -> tuple[dict[str, float], Thresholds]:
    """The thresholds of the tags that could be fitted, by name, and how they were fitted."""
    found = fit_thresholds(
        rows.truth, scores, rows.names, min_precision=min_precision, min_positives=MIN_THRESHOLD_POSITIVES
    )
    if card.task != "genre" or min_precision:
        return dict(found.values), found
    thresholds = {tag.name: tag.threshold for tag in card.tags} | dict(found.values)
    ceilings = zip(rows.names, top_ceilings(scores).tolist(), strict=True)
    return {name: min(thresholds[name], ceiling) for name, ceiling in ceilings}, found


def top_ceilings(scores: FloatArray, share: float = GIVEN_SHARE) -> npt.NDArray[np.float64]:
    """For each genre, the highest threshold that `share` of the tracks with this best genre reach, [genres].

    `scores` are [tracks, genres] of at least one track. A genre that is best for no track gets the value
    of all tracks.
    """
    first, highest = scores.argmax(axis=1), scores.max(axis=1).astype(np.float64)
    of_all = np.quantile(highest, 1 - share, method="lower")
    own = [highest[first == genre] for genre in range(scores.shape[1])]
    return np.array([np.quantile(one, 1 - share, method="lower") if len(one) else of_all for one in own])


def _unit(scores: FloatArray) -> FloatArray:
    """Clip to 0 to 1: the mean of scores of exactly 1 may lie above 1 by a rounding error."""
    return np.clip(scores, 0.0, 1.0)
