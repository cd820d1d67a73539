"""The query language: from text to a predicate over tracks. Pure: it uses no database and no terminal.

    genre:rock mood:mellow score.jazz:0.3.. -tag:metal , artist:"Miles Davis" duration:..3:00 sort:score.jazz-

"Queries" in docs/commands.md describes the language. A query becomes a predicate and an order: alternatives (commas) of
words that all have to match (spaces).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from musictagger.errors import BadRequestError, hint, hint_by_key
from musictagger.models.card import CATEGORIES, Card
from musictagger.models.vocabulary import meaning
from musictagger.records import FloatArray
from musictagger.scores.genretree import genre_key

if TYPE_CHECKING:
    from musictagger.library.reader import TrackRow

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Tracks:
    """n tracks with their scores."""

    rows: Sequence[TrackRow]
    scores: FloatArray
    """float32 [n, tags] in the card's order, NaN where the track was not analysed."""
    thresholds: FloatArray
    """float32 [tags]."""


def _seconds(text: str) -> float:
    """`215`, `3:35` or `1:02:03` in seconds."""
    seconds = 0.0
    for part in text.split(":"):
        seconds = seconds * 60 + float(part)
    return seconds


@dataclass(frozen=True)
class StoredField:
    """A field of the library that queries know."""

    name: str
    read: Callable[[TrackRow], Any]
    """Its value: a number, a text or several; None where unknown."""
    number: Callable[[str], float] | None = None
    """Reads the ends of a range of a numeric field; None for a text field."""
    bare_word: bool = False
    """Whether a word without a field is searched for in it."""
    sortable: bool = True

    def texts(self, row: TrackRow) -> Iterable[str]:
        """The values of a text field."""
        value = self.read(row)
        return () if value is None else value if isinstance(value, tuple) else (str(value),)

    def numbers(self, tracks: Tracks) -> FloatArray:
        """The values of a numeric field, float32 [n], NaN where unknown."""
        values = [self.read(row) for row in tracks.rows]
        return np.array([np.nan if value is None else value for value in values], np.float32)


STORED = {
    field.name: field
    for field in (
        StoredField("duration", lambda row: row.duration_s, number=_seconds),
        StoredField("artist", lambda row: row.artist, bare_word=True),
        StoredField("title", lambda row: row.title, bare_word=True),
        StoredField("album", lambda row: row.album, bare_word=True),
        StoredField("path", lambda row: row.path, bare_word=True),
        StoredField("filegenre", lambda row: row.genres, sortable=False),
    )
}
"""To make a stored value searchable, add a row."""

FIELDS = ("tag", *CATEGORIES, "score.NAME", *STORED, "sort")
_SORTABLE = ("score.NAME", *(field.name for field in STORED.values() if field.sortable))
_BARE_WORD = tuple(field for field in STORED.values() if field.bare_word)

Column = Callable[[Tracks], FloatArray]
Predicate = Callable[[Tracks], Mask]
SortKey = Callable[[Tracks], list[tuple[bool, object]]]


@dataclass(frozen=True)
class Query:
    """A parsed query: a predicate, and the order of the tracks (path decides among equals)."""

    matches: Predicate
    sort: tuple[tuple[SortKey, bool], ...] = ()
    """Each key, and whether it runs from high to low."""

    def order(self, tracks: Tracks) -> list[int]:
        """Indices of all tracks in the query's order."""
        order = sorted(range(len(tracks.rows)), key=lambda index: str(tracks.rows[index].path))
        for key, descending in reversed(self.sort):
            values = key(tracks)
            order.sort(key=lambda index: values[index], reverse=descending)
        return order


def parse(text: str, card: Card) -> Query:
    """Parse a query; tag names are those of `card`, in any spelling that its vocabulary knows.

    Raises BadRequestError, with a suggestion, for an unknown field or tag and for an impossible range.
    """
    alternatives: list[list[Predicate]] = [[]]
    sort: list[tuple[SortKey, bool]] = []
    for word in _words(text):
        if word.starts_alternative and alternatives[-1]:
            alternatives.append([])
        if not word.pieces:
            continue
        if word.pieces[0].lower().startswith("sort:"):
            if word.negated:
                raise BadRequestError(f"query {text!r}: to sort from high to low, put the `-` behind: `sort:FIELD-`")
            sort.extend(_sort_key(_unquoted(piece), card) for piece in word.pieces)
        else:
            alternatives[-1].append(_word(word, card))
    groups = [_all(terms) for terms in alternatives if terms]
    return Query(_any(groups) if groups else _all([]), tuple(sort))


@dataclass(frozen=True)
class _Word:
    pieces: list[str]
    """With their quotes: a colon inside quotes does not end a field."""
    negated: bool = False
    starts_alternative: bool = False


def _words(text: str) -> list[_Word]:
    """Split into words at unquoted spaces, and each word into pieces at unquoted commas."""
    if text.count('"') % 2:
        raise BadRequestError(f'query {text!r}: a quotation mark " is missing')
    words: list[_Word] = []
    alternative = False
    for raw in re.findall(r'(?:[^\s"]|"[^"]*")+', text):
        pieces = re.findall(r'(?:[^,"]|"[^"]*")+', raw)
        negated = bool(pieces) and len(pieces[0]) > 1 and pieces[0].startswith("-")
        if negated:
            pieces[0] = pieces[0][1:]
        words.append(_Word(pieces, negated, alternative or raw.startswith(",")))
        alternative = raw.endswith(",")
    return words


def _word(word: _Word, card: Card) -> Predicate:
    terms: list[Predicate] = []
    field = ""
    for quoted in word.pieces:
        piece = _unquoted(quoted)
        name_and_value = re.fullmatch(r'((?:[^":]|"[^"]*")*):(.*)', quoted, re.DOTALL)
        name, value = map(_unquoted, name_and_value.groups()) if name_and_value else ("", "")
        if name_and_value and _is_field(name, piece):
            field = name.lower()
        else:
            # `genre:rock,jazz`: a piece without a field belongs to the field of the piece before it.
            value = piece
        terms.append(_term(field, value, piece, card))
    either = _any(terms)
    return (lambda tracks: ~either(tracks)) if word.negated else either


def _unquoted(text: str) -> str:
    return text.replace('"', "")


def _is_field(name: str, piece: str) -> bool:
    lowered = name.lower()
    if lowered.startswith("score.") or lowered in FIELDS:
        return True
    if re.fullmatch(r"[a-z_.]+", lowered):
        known = hint(lowered, FIELDS) or f"; fields are {', '.join(FIELDS)}"
        raise BadRequestError(f"query {piece!r}: there is no field {name!r}{known} (quote a text that has a colon)")
    return False


def _term(field: str, value: str, piece: str, card: Card) -> Predicate:
    if field in {"tag", *CATEGORIES}:
        return _has_tag(_tag_index(value, card, field if field in CATEGORIES else None))
    if field.startswith("score."):
        return _between(_score(_tag_index(field.removeprefix("score."), card)), *_range(value, piece, float))
    stored = STORED.get(field)
    if stored is not None and stored.number is not None:
        return _between(stored.numbers, *_range(value, piece, stored.number))
    return _text(_BARE_WORD if stored is None else (stored,), value)


def _tag_index(name: str, card: Card, category: str | None = None) -> int:
    """Position of a tag in the card, by display name, network output or any synonym."""
    spellings: dict[str, int] = {}
    for index, tag in enumerate(card.tags):
        if category is None or tag.category == category:
            for spelling in (tag.name, *tag.outputs):
                spellings.setdefault(genre_key(spelling), index)
    for spelling in (name, meaning(name)[0]):
        if genre_key(spelling) in spellings:
            return spellings[genre_key(spelling)]
    known = hint_by_key(genre_key(name), {key: card.tags[index].name for key, index in spellings.items()}) or ";"
    raise BadRequestError(f"model {card.name} has no {category or 'tag'} {name!r}{known} `musictagger tags` lists all")


def _range(value: str, piece: str, number: Callable[[str], float]) -> tuple[float, float]:
    low, dots, high = value.partition("..")
    try:
        if not dots or not (low or high):
            raise ValueError
        bounds = (number(low) if low else -np.inf, number(high) if high else np.inf)
        if np.isnan(bounds).any():
            raise ValueError
    except ValueError:
        field = piece.partition(":")[0]
        raise BadRequestError(
            f"query {piece!r}: needs a range such as `{field}:0.3..0.8`, `{field}:0.3..` or `{field}:..0.8`"
        ) from None
    if bounds[0] > bounds[1]:
        raise BadRequestError(f"query {piece!r}: the range ends before it starts")
    return bounds


def _has_tag(index: int) -> Predicate:
    # A comparison with NaN is false: a track that was not analysed has no tags.
    return lambda tracks: tracks.scores[:, index] >= tracks.thresholds[index]


def _score(index: int) -> Column:
    return lambda tracks: tracks.scores[:, index]


def _between(column: Column, low: float, high: float) -> Predicate:
    def matches(tracks: Tracks) -> Mask:
        values = column(tracks)
        return (values >= low) & (values <= high)

    return matches


def _text(fields: Sequence[StoredField], value: str) -> Predicate:
    exact = value.startswith("=")
    wanted = value.removeprefix("=").casefold()

    def fits(text: str) -> bool:
        return text.casefold() == wanted if exact else wanted in text.casefold()

    def matches(row: TrackRow) -> bool:
        return any(fits(text) for field in fields for text in field.texts(row))

    return lambda tracks: np.array([matches(row) for row in tracks.rows], np.bool_)


def _all(terms: Sequence[Predicate]) -> Predicate:
    return lambda tracks: np.logical_and.reduce(
        [np.ones(len(tracks.rows), np.bool_), *(term(tracks) for term in terms)]
    )


def _any(terms: Sequence[Predicate]) -> Predicate:
    return lambda tracks: np.logical_or.reduce([term(tracks) for term in terms])


def _sort_key(piece: str, card: Card) -> tuple[SortKey, bool]:
    name = piece.partition(":")[2] if piece.lower().startswith("sort:") else piece
    descending = name.endswith("-")
    field = name.rstrip("+-").lower()
    if field.startswith("score."):
        column = _score(_tag_index(field.removeprefix("score."), card))
    else:
        stored = STORED.get(field)
        if stored is None or not stored.sortable:
            raise BadRequestError(f"query {piece!r}: sorts by {', '.join(_SORTABLE[:-1])} or {_SORTABLE[-1]}")
        if stored.number is None:
            return (lambda tracks: [_rank(stored.read(row), descending) for row in tracks.rows]), descending
        column = stored.numbers
    return (lambda tracks: [_rank(value, descending) for value in column(tracks).tolist()]), descending


def _rank(value: object, descending: bool) -> tuple[bool, object]:
    """The key that sorts a value; an unknown one (None or NaN) comes last in both directions."""
    if value is None or value != value:
        return not descending, ""
    return descending, value if isinstance(value, float) else str(value).casefold()
