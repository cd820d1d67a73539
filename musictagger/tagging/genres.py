"""Which genres a track gets: pure functions from scores to names. Only tags of the category genre can be chosen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from musictagger.models.card import Card, Tag
from musictagger.tagging.aggregate import Scores

DEFAULT_MAX_GENRES = 2


def ranked(scores: Scores, tags: Sequence[Tag]) -> list[tuple[Tag, float]]:
    """Tags with their scores, float32 [tags]: highest first, equal ones by name."""
    pairs = [(tag, float(score)) for tag, score in zip(tags, scores, strict=True)]
    return sorted(pairs, key=lambda pair: (-pair[1], pair[0].name))


def thresholds(card: Card, min_score: float | None = None) -> Scores:
    """The score from which a track has each tag, float32 [tags]: the card's, or one for all."""
    return np.array([tag.threshold if min_score is None else min_score for tag in card.tags], np.float32)


def choose_genres(
    scores: Scores, card: Card, *, max_genres: int = DEFAULT_MAX_GENRES, min_score: float | None = None
) -> tuple[str, ...]:
    """At most `max_genres` genre names, best first, of those that reach their threshold; none when unsure.

    Genres are compared by score, not by how far they clear their threshold, so that what is written is what
    `show` lists first. `scores` is float32 [tags], in the card's order.
    """
    enough = scores >= thresholds(card, min_score)
    kept = [tag for tag, passes in zip(card.tags, enough, strict=True) if passes and tag.category == "genre"]
    best = ranked(np.array([scores[card.tags.index(tag)] for tag in kept], np.float32), kept)
    return tuple(tag.name for tag, _ in best[:max_genres])
