"""Views of stored scores: merged into tags, aggregated over frames, calibrated, compared with thresholds.

Nothing here is stored: changing the aggregator, a threshold or the number of genres requires no new analysis.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from musictagger.config import Settings
from musictagger.errors import StoreError, printable
from musictagger.library.query import Query, Tracks
from musictagger.library.reader import LibraryReader, TrackRow
from musictagger.models.calibration import calibrated
from musictagger.models.card import Card, Tag
from musictagger.records import Aggregator, FloatArray
from musictagger.scores.aggregate import aggregate_tracks, merge_outputs
from musictagger.scores.genres import GenreChoice, GenreChooser, chooser, moods, ranked, thresholds
from musictagger.scores.genretree import load_tree, read_allowed

SCORE_BYTES = 2
"""Scores are stored as float16."""


@dataclass(frozen=True)
class View:
    """The user's settings for interpreting scores."""

    card: Card
    aggregator: Aggregator = "mean"
    choice: GenreChoice = field(default_factory=GenreChoice)

    @functools.cached_property
    def chooser(self) -> GenreChooser:
        """Chooses the genres of each track. Created once, since that takes longer than a choice."""
        return chooser(self.card, self.choice)

    @functools.cached_property
    def thresholds(self) -> FloatArray:
        """The threshold of each tag, float32 [tags]."""
        return thresholds(self.card, self.choice.min_score)


def view_of(card: Card, settings: Settings) -> View:
    """The view for the settings, with the user's genres.toml and list of allowed genres.

    Raises BadRequestError for a file that cannot be read.
    """
    choice = GenreChoice(
        max_genres=settings.max_genres,
        min_score=settings.min_score,
        keep_parents=settings.keep_parents,
        allow=read_allowed(settings.genres_allow) if settings.genres_allow else None,
        tree=load_tree(settings.genres_file),
    )
    return View(card, settings.aggregate, choice)


@dataclass(frozen=True)
class TrackView:
    """A track as a user sees it. `scores` is float32 [tags] in the card's order, None without an analysis."""

    row: TrackRow
    view: View
    scores: FloatArray | None

    @property
    def status(self) -> str:
        """ok, too short, silent, failed or not analysed."""
        if self.row.failure is not None:
            return "failed"
        return self.row.status or "not analysed"

    @property
    def tags(self) -> list[tuple[Tag, float]]:
        """All tags with their scores, highest first."""
        return [] if self.scores is None else ranked(self.scores, self.view.card.tags)

    @property
    def own_tags(self) -> list[tuple[Tag, float]]:
        """The tags whose threshold the track reaches, highest score first."""
        limits = dict(zip((tag.name for tag in self.view.card.tags), self.view.thresholds, strict=True))
        return [(tag, score) for tag, score in self.tags if score >= limits[tag.name]]

    def written_as(self, tag: Tag) -> str:
        """The name under which a tag would be written; for a genre, the user's spelling."""
        return self.view.choice.tree.canonical(tag.name) if tag.category == "genre" else tag.name

    @property
    def genres(self) -> tuple[str, ...]:
        """The genres that would be written: the user's choice, or the predicted ones."""
        if self.row.chosen_genres is not None:
            return tuple(self.row.chosen_genres)
        if self.scores is None:
            return ()
        return self.view.chooser(self.scores, frozenset(self.row.excluded_genres or ()))

    @property
    def moods(self) -> tuple[str, ...]:
        """The moods that would be written."""
        if self.scores is None:
            return ()
        return moods(self.scores, self.view.card, min_score=self.view.choice.min_score)


def track_views(rows: Sequence[TrackRow], view: View) -> list[TrackView]:
    """Each row with its tag scores."""
    analysed = [row for row in rows if row.scores]
    outputs = len(view.card.outputs)
    for row in analysed:
        if len(row.scores or b"") != SCORE_BYTES * outputs * (row.frames or 0):
            raise StoreError(f"{printable(row.path)}: its stored scores are damaged; scan it again with --force")
    stored = np.frombuffer(b"".join(row.scores or b"" for row in analysed), "<f2").reshape(-1, outputs)
    frame_scores = merge_outputs(stored.astype(np.float32), view.card)
    aggregated = aggregate_tracks(frame_scores, [row.frames or 0 for row in analysed], view.aggregator)
    scores = iter(calibrated(aggregated, view.card.curves, [tag.name for tag in view.card.tags]))
    return [TrackView(row, view, next(scores) if row.scores else None) for row in rows]


def queryable(tracks: Sequence[TrackView], view: View) -> Tracks:
    """Tracks in the form that queries take."""
    unknown = np.full(len(view.card.tags), np.nan, np.float32)
    scores = [unknown if track.scores is None else track.scores for track in tracks]
    stacked = np.stack(scores) if scores else np.zeros((0, len(unknown)), np.float32)
    return Tracks([track.row for track in tracks], stacked, view.thresholds)


def search(library: LibraryReader, model_id: int, view: View, query: Query) -> list[TrackView]:
    """The tracks that match a query, in its order. Of the others it keeps 10,000 in memory at a time."""
    found: list[TrackView] = []
    for rows in library.tracks(model_id):
        tracks = track_views(rows, view)
        mask = query.matches(queryable(tracks, view))
        found.extend(track for track, matches in zip(tracks, mask, strict=True) if matches)
    return [found[index] for index in query.order(queryable(found, view))]
