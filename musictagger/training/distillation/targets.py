"""Targets of a student: the scores of its teachers for any excerpt of a track, and the track's own labels.

`cache_teacher_scores` scores each track once; the targets of an excerpt at any offset are weighted means of the scores
on disk: `CachedTeachers(teachers, cache).scores(digest, start_s, length_s)`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from musictagger.errors import BadRequestError, MusictaggerError
from musictagger.evaluation.checks import DoubleArray, Truth
from musictagger.models.calibration import logit, sigmoid
from musictagger.models.card import CATEGORIES, Card, Category
from musictagger.models.vocabulary import meaning
from musictagger.records import FloatArray
from musictagger.scores.aggregate import merge_outputs
from musictagger.training.distillation.teacher_scores import Teacher, read_scores
from musictagger.training.windows import Track

LOWEST, HIGHEST = 2.0**-24, 1 - 2.0**-12
"""Range of scores in logits: the smallest score above 0 in float16, and the middle of the largest one and 1."""

CACHED_TRACKS = 8192
"""Tracks whose scores stay in memory: about 25 KB each for five teachers and four minutes, so 200 MB."""

DECISION_QUANTILE = 0.9
"""Teachers give a tag to the tracks whose scores are in its highest tenth."""


@dataclass(frozen=True)
class _TrackScores:
    """One teacher's windows of one track: float64 [windows] in seconds, float16 [windows, tags of the teacher]."""

    indices: npt.NDArray[np.intp]
    """Of the teacher's tags among those of all teachers."""
    start_s: DoubleArray
    end_s: DoubleArray
    scores: npt.NDArray[np.float16]


class CachedTeachers:
    """Several teachers as one: the mean of their logits, over the union of their tags.

    `tags` are display names in the order of their categories, then of their names, with `categories` and `thresholds`:
    the mean in logits of those in the cards, before calibration.
    """

    def __init__(self, teachers: Sequence[Teacher], cache: Path) -> None:
        """`cache` is the folder of `cache_teacher_scores`. Raises BadRequestError without any teacher."""
        if not teachers:
            raise BadRequestError("no teacher is named; name at least one model")
        cards = [teacher.card for teacher in teachers]
        found: dict[str, Category] = {}
        for tag in (tag for card in cards for tag in card.tags):
            found.setdefault(tag.name, tag.category)
        self.categories = in_order(found)
        self.tags = tuple(self.categories)
        logits: dict[str, list[float]] = {}
        for card in cards:
            for name, threshold in _raw_thresholds(card).items():
                logits.setdefault(name, []).append(float(logit(np.array(threshold), LOWEST, HIGHEST)))
        means = sigmoid(np.array([np.mean(logits[tag]) for tag in self.tags]))
        self.thresholds: Mapping[str, float] = dict(zip(self.tags, means.tolist(), strict=True))
        index = {tag: number for number, tag in enumerate(self.tags)}
        self._indices = [np.array([index[tag.name] for tag in card.tags], np.intp) for card in cards]
        self._teachers, self._cache = teachers, cache
        self._cached = functools.lru_cache(CACHED_TRACKS)(self._read)

    def scores(self, digest: str, start_s: float, length_s: float) -> FloatArray:
        """The scores of [start_s, start_s + length_s) of a track, float32 [tags], 0..1.

        Each teacher's score is the mean over its windows (as a scan's over frames), weighted by their overlap with the
        excerpt; the result is the mean of the teachers in logits. An excerpt longer than the track repeats it, as a
        student's window does. NaN for a tag unknown to all teachers that scored the track.
        Raises MusictaggerError for a track without scores.
        """
        total = np.zeros(len(self.tags))
        count = np.zeros(len(self.tags))
        for track in self._cached(digest):
            weights = _weights(track.start_s, track.end_s, start_s, length_s)
            chosen = np.flatnonzero(weights)
            first, last = chosen[0], chosen[-1] + 1
            mean = weights[first:last] @ track.scores[first:last].astype(np.float32)
            total[track.indices] += logit(mean / weights.sum(), LOWEST, HIGHEST)
            count[track.indices] += 1
        known = count > 0
        scores: FloatArray = np.full(len(self.tags), np.nan, np.float32)
        scores[known] = sigmoid(total[known] / count[known])
        return scores

    def track_scores(self, digest: str) -> FloatArray:
        """The scores of a whole track, float32 [tags]. Raises as `scores` does."""
        return self.scores(digest, 0.0, math.inf)

    def has(self, digest: str) -> bool:
        """Return whether any teacher has scored a track."""
        return any(read_scores(teacher, self._cache, digest) is not None for teacher in self._teachers)

    def _read(self, digest: str) -> tuple[_TrackScores, ...]:
        tracks = []
        for teacher, indices in zip(self._teachers, self._indices, strict=True):
            if (rows := read_scores(teacher, self._cache, digest)) is not None:
                scores = merge_outputs(rows["scores"], teacher.card).astype(np.float16)
                seconds = (rows["start_s"].astype(np.float64), rows["end_s"].astype(np.float64))
                tracks.append(_TrackScores(indices, *seconds, scores))
        if not tracks:
            raise MusictaggerError(
                f"no teacher has scored the track {digest[:12]}; run the same command again to score it"
            )
        return tuple(tracks)


def _raw_thresholds(card: Card) -> dict[str, float]:
    """By tag, on uncalibrated scores, which students learn; those in the card apply to calibrated ones."""
    curves = card.curves.curves if card.curves is not None else {}
    return {
        tag.name: curves[tag.name].undo(tag.threshold) if tag.name in curves else tag.threshold for tag in card.tags
    }


def in_order(categories: Mapping[str, Category]) -> Mapping[str, Category]:
    """The categories of tags, in the order of the categories, then of the tags."""
    return dict(sorted(categories.items(), key=lambda item: (CATEGORIES.index(item[1]), item[0])))


def _weights(start_s: DoubleArray, end_s: DoubleArray, from_s: float, length_s: float) -> DoubleArray:
    """The overlap in seconds of each window with the excerpt [from_s, from_s + length_s); at least one is not 0."""
    track_s = float(end_s[-1])
    if math.isinf(length_s):
        return end_s - start_s
    if length_s <= track_s:
        # The columns of a window may extend past the last sample by some milliseconds.
        begin_s = min(max(from_s, 0.0), track_s - length_s)
        weights = _overlap(start_s, end_s, begin_s, begin_s + length_s)
    else:
        laps, rest_s = divmod(length_s, track_s)
        begin_s = from_s % track_s
        weights = laps * (end_s - start_s) + _overlap(start_s, end_s, begin_s, begin_s + rest_s)
        weights += _overlap(start_s, end_s, 0.0, begin_s + rest_s - track_s)
    if not weights.any():
        # Only an excerpt of length zero overlaps no window.
        weights[np.argmin(np.abs((start_s + end_s) / 2 - from_s))] = 1.0
    return weights


def _overlap(start_s: DoubleArray, end_s: DoubleArray, low_s: float, high_s: float) -> DoubleArray:
    overlap: DoubleArray = np.minimum(end_s, high_s) - np.maximum(start_s, low_s)
    return np.maximum(overlap, 0.0)


def decisions(scores: FloatArray, quantile: float = DECISION_QUANTILE) -> Truth:
    """bool [tracks, tags]: whether a score is above the given quantile of its tag's scores.

    Unknown scores (NaN) are False and do not count. A tag with equal scores for all tracks is False throughout.
    """
    known = ~np.isnan(scores)
    bounds = [
        np.quantile(column[mask], quantile) if mask.any() else np.inf
        for column, mask in zip(scores.T, known.T, strict=True)
    ]
    decided: Truth = np.where(known, scores, -np.inf) > np.array(bounds)
    return decided


def combine_targets(soft: FloatArray, hard: FloatArray, hard_weight: float) -> FloatArray:
    """(1 - hard_weight) * soft + hard_weight * hard; where only one of them is known (the other is NaN), that one."""
    both = (1 - hard_weight) * soft + hard_weight * hard
    known: FloatArray = np.where(np.isnan(hard), soft, np.where(np.isnan(soft), hard, both)).astype(np.float32)
    return known


class StudentTargets:
    """Targets of a student: the teachers' scores as soft targets, combined with hard labels where a track has some.

    `outputs` are the teachers' tags and the dataset's, by display name, in the order of categories and names. A tag
    unknown to all teachers has a target only on labelled tracks; elsewhere it is NaN, which the loss ignores.
    `thresholds` are the teachers'.
    """

    def __init__(
        self,
        teachers: CachedTeachers,
        tags: Sequence[str] = (),
        categories: Mapping[str, Category] | None = None,
        hard_weight: float = 0.5,
    ) -> None:
        """`tags` and `categories` are those of the dataset, `hard_weight` is the share of its labels."""
        self._teachers, self._hard_weight = teachers, hard_weight
        meanings = {tag: meaning(tag, unknown=(categories or {}).get(tag, "other")) for tag in tags}
        found = dict(teachers.categories)
        self.thresholds: Mapping[str, float] = teachers.thresholds
        for name, category in meanings.values():
            found.setdefault(name, category)
        self.categories = in_order(found)
        self.outputs = tuple(self.categories)
        index = {output: number for number, output in enumerate(self.outputs)}
        self._labelled = {tag: index[name] for tag, (name, _) in meanings.items()}
        # The outputs that the teachers score.
        self._scored = np.array([index[tag] for tag in teachers.tags], np.intp)

    def target(self, track: Track, start_s: float, length_s: float) -> FloatArray:
        """The target of an excerpt, float32 [outputs], NaN where it is unknown.

        A track without tags is unlabelled. `length_s` may be infinite: the whole track.
        Raises MusictaggerError for a track without scores of teachers.
        """
        soft = np.full(len(self.outputs), np.nan, np.float32)
        soft[self._scored] = self._teachers.scores(track.digest, start_s, length_s)
        return combine_targets(soft, self._hard(track), self._hard_weight) if track.tags else soft

    def truth(self, tracks: Sequence[Track]) -> Truth:
        """The ground truth of evaluation, bool [tracks, outputs].

        The teachers' decisions over these tracks and, for tags unknown to them, the labels.
        """
        decided = np.zeros((len(tracks), len(self.outputs)), np.bool_)
        if tracks:
            scores = np.stack([self._teachers.track_scores(track.digest) for track in tracks])
            decided[:, self._scored] = decisions(scores)
        labels_only = np.setdiff1d(np.arange(len(self.outputs)), self._scored)
        for row, track in zip(decided, tracks, strict=True):
            row[labels_only] = self._hard(track)[labels_only] == 1
        return decided

    def tags_above_threshold(self, track: Track) -> tuple[str, ...]:
        """The tags of a track whose scores reach the teachers' thresholds; for tags unknown to them, the labels."""
        scores = self._teachers.track_scores(track.digest)
        limits = np.array([self.thresholds[tag] for tag in self._teachers.tags], np.float32)
        has = self._hard(track) == 1
        has[self._scored] = np.nan_to_num(scores) >= limits
        return self.names(has)

    def names(self, has: Truth) -> tuple[str, ...]:
        """The outputs that are true in bool [outputs]."""
        return tuple(output for output, true in zip(self.outputs, has, strict=True) if true)

    def _hard(self, track: Track) -> FloatArray:
        """1 for the labels of a track, 0 for other tags of the dataset, NaN for all others."""
        hard = np.full(len(self.outputs), np.nan, np.float32)
        hard[list(self._labelled.values())] = 0.0
        hard[[self._labelled[tag] for tag in track.tags if tag in self._labelled]] = 1.0
        return hard
