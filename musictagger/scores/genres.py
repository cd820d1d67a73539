"""The genres and moods of a track: pure functions from scores to names. Names and their tree are in `genretree`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from musictagger.models.calibration import Curve
from musictagger.models.card import Card, Tag
from musictagger.records import FloatArray
from musictagger.scores.genretree import GenreTree, load_tree

DEFAULT_MAX_GENRES = 2
DEFAULT_MAX_MOODS = 3

SPECIFIC_SHARE = 0.5
"""The share of its parent's score from which a more specific genre replaces the parent. Without it, the published
models' low thresholds turned a dance track with Electronic at 0.29 and House at 0.11 into House."""


@dataclass(frozen=True)
class GenreChoice:
    """The user's settings for the choice of genres."""

    max_genres: int = DEFAULT_MAX_GENRES
    min_score: float | None = None
    """One threshold for all genres, instead of the card's."""
    keep_parents: bool = False
    """Whether a genre is kept beside one that implies it: Rock beside Indie Rock."""
    allow: frozenset[str] | None = None
    """The only genres that may be chosen, in any spelling; None allows all."""
    tree: GenreTree = field(default_factory=load_tree)


@dataclass(frozen=True, eq=False)
class GenreChooser:
    """A choice prepared for a card by `chooser`, so that choosing for a track needs no lookup in card or tree."""

    choice: GenreChoice
    positions: npt.NDArray[np.intp]
    """Positions in the card of the genres that may be chosen, [genres], in the order of their names."""
    limits: FloatArray
    """Their thresholds, float32 [genres]."""
    names: tuple[str, ...]
    """Their names as written; tags that mean the same genre have equal names."""
    above: Mapping[str, frozenset[str]]
    """The genres that each implies, by name."""
    keys: Mapping[str, str]
    """The tree's key of each, by name."""
    curves: Mapping[str, Curve]
    """The calibration of each that has one, by name."""

    def __call__(self, scores: FloatArray, excluded: frozenset[str] = frozenset()) -> tuple[str, ...]:
        """At most `max_genres` names for a track, best first, of the genres that reach their threshold.

        `scores` is float32 [tags] in the card's order. `excluded` names genres that this track does not have, in any
        spelling; without Rock it can still be Indie Rock.

        Genres are ranked by score, as `show` lists them, not by how far they exceed their threshold; equal scores by
        name. A genre that another one implies is left out (Rock beside Indie Rock), and the other takes its rank,
        unless it is weak in comparison: see `most_specific` and `believable`. The number is limited last, so that the
        choice of one genre is the first of the choice of two.
        """
        values = scores[self.positions]
        reached = np.flatnonzero(values >= self.limits)
        # The sort is stable and the positions are in the order of names, so equal scores are sorted by name.
        best = reached[np.argsort(-values[reached], kind="stable")].tolist()
        found: dict[str, float] = {}
        for index in best:
            found.setdefault(self.names[index], float(values[index]))
        if excluded:
            unwanted = {self.choice.tree.key(name) for name in excluded}
            found = {name: score for name, score in found.items() if self.keys[name] not in unwanted}
        if self.choice.keep_parents:
            return tuple(found)[: self.choice.max_genres]
        # A genre and its parent are compared by their scores before calibration: curves that measure the excess over
        # the usual would rate weak opera above classical in any classical track.
        raw = {name: self.curves[name].undo(value) if name in self.curves else value for name, value in found.items()}
        return tuple(most_specific(believable(raw, self.above), self.above)[: self.choice.max_genres])


def ranked(scores: FloatArray, tags: Sequence[Tag]) -> list[tuple[Tag, float]]:
    """Tags with their scores, float32 [tags]: highest first, equal ones by name."""
    pairs = [(tag, float(score)) for tag, score in zip(tags, scores, strict=True)]
    return sorted(pairs, key=lambda pair: (-pair[1], pair[0].name))


def thresholds(card: Card, min_score: float | None = None) -> FloatArray:
    """The lowest score at which a track has each tag, float32 [tags]: the card's, or one for all."""
    return np.array([tag.threshold if min_score is None else min_score for tag in card.tags], np.float32)


def chooser(card: Card, choice: GenreChoice) -> GenreChooser:
    """Prepare a choice for many tracks of one model."""
    tree, limits = choice.tree, thresholds(card, choice.min_score)
    allowed = None if choice.allow is None else {tree.key(name) for name in choice.allow}
    genres = sorted((tree.canonical(tag.name), index) for index, tag in enumerate(card.tags) if tag.category == "genre")
    kept = [(name, index) for name, index in genres if allowed is None or tree.key(name) in allowed]
    first: dict[str, str] = {}
    names = tuple(first.setdefault(tree.key(name), name) for name, _ in kept)
    positions = np.array([index for _, index in kept], np.intp)
    above, keys = {name: tree.ancestors(name) for name in names}, {name: tree.key(name) for name in names}
    curves: dict[str, Curve] = {}
    for name, (_, index) in zip(names, kept, strict=True):
        if card.curves is not None and card.tags[index].name in card.curves.curves:
            curves.setdefault(name, card.curves.curves[card.tags[index].name])
    return GenreChooser(choice, positions, limits[positions], names, above, keys, curves)


def believable(scores: Mapping[str, float], above: Mapping[str, frozenset[str]]) -> list[str]:
    """The names in `scores`, in their order, without those whose score is below SPECIFIC_SHARE of a genre they imply.

    Electronic 0.5 and House 0.1 is Electronic: with such a low score the model is not sure of the subgenre.
    """
    return [
        name
        for name, score in scores.items()
        if all(score >= SPECIFIC_SHARE * scores.get(parent, 0.0) for parent in above[name])
    ]


def most_specific(names: Iterable[str], above: Mapping[str, frozenset[str]]) -> list[str]:
    """`names`, best first, without those that another of them implies; `above` maps each name to those it implies.

    Down the ranking, a genre that is implied by one already chosen is skipped. A genre that implies genres already
    chosen replaces all of them, at the rank of the best: with Rock 0.9, Jazz 0.6 and Indie Rock 0.5 the track is Indie
    Rock first and Jazz second, because it is Rock first. A second kind of Rock is ranked by its own score.
    """
    chosen: list[str] = []
    for name in names:
        if any(name in above[other] for other in chosen):
            continue
        implied = [other for other in chosen if other in above[name]]
        if implied:
            chosen[chosen.index(implied[0])] = name
            chosen = [other for other in chosen if other not in implied[1:]]
        else:
            chosen.append(name)
    return chosen


def moods(
    scores: FloatArray, card: Card, *, max_moods: int = DEFAULT_MAX_MOODS, min_score: float | None = None
) -> tuple[str, ...]:
    """At most `max_moods` moods that reach their threshold, best first, equal ones by name.

    `scores` is float32 [tags], in the card's order.
    """
    limits = thresholds(card, min_score)
    kept = [index for index, tag in enumerate(card.tags) if tag.category == "mood" and scores[index] >= limits[index]]
    best = ranked(scores[kept], [card.tags[index] for index in kept])
    return tuple(tag.name for tag, _ in best[:max_moods])
