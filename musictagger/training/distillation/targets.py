"""What a student is to say: the scores of its teachers for any part of a track, and the track's own tags.

`cache_teacher_scores` scores each track once; the targets of an excerpt at any offset are weighted means of what is on
disk: `Teachers(teachers, cache).labels(digest, start_s, length_s)`.
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
from musictagger.evaluation.checks import Truth
from musictagger.models.calibration import logit, sigmoid
from musictagger.models.card import CATEGORIES, Card, Category
from musictagger.models.vocabulary import meaning
from musictagger.records import FloatArray
from musictagger.scores.aggregate import merge_outputs
from musictagger.training.distillation.teacher_scores import Teacher, read_scores

LOWEST, HIGHEST = 2.0**-24, 1 - 2.0**-12
"""Scores are kept as float16: between these two a logit is what was heard. Below lies only 0, and above only 1."""

TRACKS_HELD = 8192
"""Tracks whose scores stay in memory: about 25 KB each for five teachers and four minutes, so 200 MB."""

DECISION_QUANTILE = 0.9
"""A tag is said to be a track's where its score is among the highest tenth of those compared."""


@dataclass(frozen=True)
class _Source:
    """A teacher as it is read: its card, where its scores are, which places of the union vocabulary it fills."""

    card: Card
    folder: Path
    places: npt.NDArray[np.intp]


@dataclass(frozen=True)
class _Heard:
    """One teacher's windows of one track: float64 [windows] in seconds, float16 [windows, tags of the teacher]."""

    places: npt.NDArray[np.intp]
    start_s: npt.NDArray[np.float64]
    end_s: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float16]


class Teachers:
    """Several teachers as one: the mean of their logits, over the tags that any of them knows.

    `tags` are display names in the order of the categories, then of names; `categories` says each one's, `thresholds`
    from which score on they say that a track has it: the mean of their cards' in logits, before any calibration.
    """

    def __init__(self, teachers: Sequence[Teacher], cache: Path) -> None:
        """`cache` is where `cache_teacher_scores` put what they heard. Raises BadRequestError without any teacher."""
        if not teachers:
            raise BadRequestError("no teacher is named; name at least one model whose scores are learnt")
        cards = [teacher.card for teacher in teachers]
        found: dict[str, Category] = {}
        for tag in (tag for card in cards for tag in card.tags):
            found.setdefault(tag.name, tag.category)
        self.tags = in_order(found)
        self.categories: Mapping[str, Category] = {tag: found[tag] for tag in self.tags}
        logits: dict[str, list[float]] = {}
        for card in cards:
            for name, threshold in _raw_thresholds(card).items():
                logits.setdefault(name, []).append(float(logit(np.array(threshold), LOWEST, HIGHEST)))
        means = sigmoid(np.array([np.mean(logits[tag]) for tag in self.tags]))
        self.thresholds: Mapping[str, float] = dict(zip(self.tags, means.tolist(), strict=True))
        place = {tag: index for index, tag in enumerate(self.tags)}
        self._sources = [
            _Source(card, teacher.folder(cache), np.array([place[tag.name] for tag in card.tags], np.intp))
            for card, teacher in zip(cards, teachers, strict=True)
        ]
        self._heard = functools.lru_cache(TRACKS_HELD)(self._read)

    def __getstate__(self) -> dict[str, object]:
        """A process that is started anew reads for itself."""
        return {name: value for name, value in vars(self).items() if name != "_heard"}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        self._heard = functools.lru_cache(TRACKS_HELD)(self._read)

    def labels(self, digest: str, start_s: float, length_s: float) -> FloatArray:
        """What the teachers say of [start_s, start_s + length_s) of a track, float32 [tags], 0..1.

        Each teacher's score is the mean over its windows (as a scan's over frames), each weighing as much as it lies
        in that part; theirs together is the mean in logits. A part longer than the track goes on from its start, as a
        student hears it. NaN for a tag of which no teacher that heard the track knows.
        Raises MusictaggerError for a track that none has heard.
        """
        total = np.zeros(len(self.tags))
        count = np.zeros(len(self.tags))
        for heard in self._heard(digest):
            weights = _weights(heard.start_s, heard.end_s, start_s, length_s)
            chosen = np.flatnonzero(weights)
            first, last = chosen[0], chosen[-1] + 1
            mean = weights[first:last] @ heard.scores[first:last].astype(np.float32)
            total[heard.places] += logit(mean / weights.sum(), LOWEST, HIGHEST)
            count[heard.places] += 1
        known = count > 0
        labels: FloatArray = np.full(len(self.tags), np.nan, np.float32)
        labels[known] = sigmoid(total[known] / count[known])
        return labels

    def track_labels(self, digest: str) -> FloatArray:
        """What the teachers say of a whole track, float32 [tags]. Raises as `labels` does."""
        return self.labels(digest, 0.0, math.inf)

    def has(self, digest: str) -> bool:
        """Whether any teacher has heard a track."""
        return any(read_scores(each.folder, digest, len(each.card.outputs)) is not None for each in self._sources)

    def _read(self, digest: str) -> tuple[_Heard, ...]:
        heard = []
        for source in self._sources:
            rows = read_scores(source.folder, digest, len(source.card.outputs))
            if rows is not None:
                scores = merge_outputs(rows["scores"], source.card).astype(np.float16)
                seconds = (rows["start_s"].astype(np.float64), rows["end_s"].astype(np.float64))
                heard.append(_Heard(source.places, *seconds, scores))
        if not heard:
            raise MusictaggerError(
                f"no teacher has heard the sound {digest[:12]}; run the same command again, which lets them hear it"
            )
        return tuple(heard)


def _raw_thresholds(card: Card) -> dict[str, float]:
    """Of each tag. A card's thresholds meet calibrated scores, and students learn scores as networks give them."""
    curves = card.curves.curves if card.curves is not None else {}
    return {
        tag.name: curves[tag.name].undo(tag.threshold) if tag.name in curves else tag.threshold for tag in card.tags
    }


def in_order(categories: Mapping[str, Category]) -> tuple[str, ...]:
    """Tags in the order of their categories, then of their names."""
    return tuple(sorted(categories, key=lambda tag: (CATEGORIES.index(categories[tag]), tag)))


def _weights(
    start_s: npt.NDArray[np.float64], end_s: npt.NDArray[np.float64], from_s: float, length_s: float
) -> npt.NDArray[np.float64]:
    """How much of each window, in seconds, lies in the part [from_s, from_s + length_s); some of them do."""
    track_s = float(end_s[-1])
    if math.isinf(length_s):
        return end_s - start_s
    if length_s <= track_s:
        # A student's columns may reach past the last sample by some milliseconds.
        begin_s = min(max(from_s, 0.0), track_s - length_s)
        weights = _overlap(start_s, end_s, begin_s, begin_s + length_s)
    else:
        laps, rest_s = divmod(length_s, track_s)
        begin_s = from_s % track_s
        weights = laps * (end_s - start_s) + _overlap(start_s, end_s, begin_s, begin_s + rest_s)
        weights += _overlap(start_s, end_s, 0.0, begin_s + rest_s - track_s)
    if not weights.any():
        # Only a part of no length lies in none.
        weights[np.argmin(np.abs((start_s + end_s) / 2 - from_s))] = 1.0
    return weights


def _overlap(
    start_s: npt.NDArray[np.float64], end_s: npt.NDArray[np.float64], low_s: float, high_s: float
) -> npt.NDArray[np.float64]:
    overlap: npt.NDArray[np.float64] = np.minimum(end_s, high_s) - np.maximum(start_s, low_s)
    return np.maximum(overlap, 0.0)


def decisions(scores: FloatArray, quantile: float = DECISION_QUANTILE) -> Truth:
    """bool [tracks, tags]: whether a score is above that quantile of its tag's scores over these tracks.

    What nobody knows (NaN) is False and does not count; a tag with one score for all tracks is nobody's.
    """
    known = ~np.isnan(scores)
    bounds = [
        np.quantile(column[mask], quantile) if mask.any() else np.inf
        for column, mask in zip(scores.T, known.T, strict=True)
    ]
    decided: Truth = np.where(known, scores, -np.inf) > np.array(bounds)
    return decided


def mix(soft: FloatArray, hard: FloatArray, weight: float) -> FloatArray:
    """(1 - weight) * soft + weight * hard; where only one of them is known (the other is NaN), that one."""
    both = (1 - weight) * soft + weight * hard
    mixed: FloatArray = np.where(np.isnan(hard), soft, np.where(np.isnan(soft), hard, both)).astype(np.float32)
    return mixed


class DistilledTargets:
    """Targets of a student: what teachers say of a part, mixed with the track's own tags where it has some.

    `outputs` are the teachers' tags and the dataset's, by display name, in the order of categories and names. A tag
    that no teacher knows has a target only on tracks with labels; elsewhere it is NaN, which the loss leaves out.
    `thresholds` are the teachers'.
    """

    def __init__(
        self,
        teachers: Teachers,
        own_tags: Sequence[str] = (),
        categories: Mapping[str, Category] | None = None,
        hard_weight: float = 0.5,
    ) -> None:
        """`own_tags` is the dataset's vocabulary, `categories` what it says of them, `hard_weight` their share."""
        self._teachers, self._hard_weight = teachers, hard_weight
        meanings = {tag: meaning(tag, unknown=(categories or {}).get(tag, "other")) for tag in own_tags}
        found = dict(teachers.categories)
        self.thresholds: Mapping[str, float] = teachers.thresholds
        for name, category in meanings.values():
            found.setdefault(name, category)
        self.outputs = in_order(found)
        self.categories: Mapping[str, Category] = {output: found[output] for output in self.outputs}
        place = {output: index for index, output in enumerate(self.outputs)}
        self._own = {tag: place[name] for tag, (name, _) in meanings.items()}
        self._taught = np.array([place[tag] for tag in teachers.tags], np.intp)

    def target(self, digest: str, own_tags: Sequence[str], start_s: float, length_s: float) -> FloatArray:
        """What is to be learnt of a part of a track, float32 [outputs], NaN where nobody knows.

        A track without `own_tags` is one that nobody labelled. `length_s` may be infinite: the whole track.
        Raises MusictaggerError for a track that no teacher has heard.
        """
        soft = np.full(len(self.outputs), np.nan, np.float32)
        soft[self._taught] = self._teachers.labels(digest, start_s, length_s)
        return mix(soft, self._hard(own_tags), self._hard_weight) if own_tags else soft

    def truth(self, tracks: Sequence[tuple[str, Sequence[str]]], quantile: float = DECISION_QUANTILE) -> Truth:
        """What epochs are compared by, bool [tracks, outputs], of tracks given as (digest, own tags).

        The teachers' decision over these tracks; for tags that no teacher knows, the tracks' own.
        """
        decided = np.zeros((len(tracks), len(self.outputs)), np.bool_)
        if tracks:
            scores = np.stack([self._teachers.track_labels(digest) for digest, _ in tracks])
            decided[:, self._taught] = decisions(scores, quantile)
        untaught = np.setdiff1d(np.arange(len(self.outputs)), self._taught)
        for row, (_, own_tags) in zip(decided, tracks, strict=True):
            row[untaught] = self._hard(own_tags)[untaught] == 1
        return decided

    def said(self, digest: str, own_tags: Sequence[str]) -> tuple[str, ...]:
        """The tags that teachers give a track by their own thresholds; of those that none knows, the track's own."""
        scores = self._teachers.track_labels(digest)
        limits = np.array([self.thresholds[tag] for tag in self._teachers.tags], np.float32)
        hard = self._hard(own_tags) == 1
        hard[self._taught] = np.nan_to_num(scores) >= limits
        return tuple(tag for tag, is_one in zip(self.outputs, hard, strict=True) if is_one)

    def _hard(self, own_tags: Sequence[str]) -> FloatArray:
        """1 for a track's own tags, 0 for the others of the dataset, NaN for what it knows nothing of."""
        hard = np.full(len(self.outputs), np.nan, np.float32)
        hard[list(self._own.values())] = 0.0
        hard[[self._own[tag] for tag in own_tags if tag in self._own]] = 1.0
        return hard
