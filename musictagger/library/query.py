"""The query language: text to a predicate over tracks. Pure: it knows no database and no terminal.

    genre:rock mood:mellow score.jazz:0.3.. -tag:metal , artist:"Miles Davis" duration:..3:00 sort:score.jazz-

A space means and, a comma standing by itself or ending a word means or (and binds tighter), a leading `-` means
not. Within one word, commas list alternatives: `genre:rock,jazz`.

    tag:NAME                  the track has this tag: its score reaches the tag's threshold
    genre:NAME mood:NAME ...  the same for a tag of that category
    score.NAME:LO..HI         the score lies in this range; either end may be left open
    duration:LO..HI           length in seconds or MINUTES:SECONDS
    artist: title: album: path: filegenre:
                              the text contains this, ignoring case; with `=` in front it is exactly this.
                              filegenre is what the file's genre field holds
    a bare word               artist, title, album or path contains it
    sort:FIELD sort:FIELD-    by score.NAME, duration, artist, title, album or path; `-` from high to low
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from musictagger.errors import BadRequestError
from musictagger.models.card import CATEGORIES, Card
from musictagger.models.vocabulary import meaning
from musictagger.records import FloatArray
from musictagger.scores.genretree import genre_key

Mask = npt.NDArray[np.bool_]

TEXT_FIELDS = ("artist", "title", "album", "path", "filegenre")
FIELDS = ("tag", *CATEGORIES, "score.NAME", "duration", *TEXT_FIELDS, "sort")
_BARE_WORD_FIELDS = ("artist", "title", "album", "path")


@dataclass(frozen=True)
class Tracks:
    """Tracks as columns, all of one length n. Texts may be None where unknown."""

    path: Sequence[Path]
    artist: Sequence[str | None]
    title: Sequence[str | None]
    album: Sequence[str | None]
    filegenre: Sequence[Sequence[str]]
    duration_s: FloatArray
    """float32 [n], NaN where unknown."""
    scores: FloatArray
    """float32 [n, tags] in the card's order, NaN where the track was not analysed."""
    thresholds: FloatArray
    """float32 [tags]."""


Predicate = Callable[[Tracks], Mask]
SortKey = Callable[[Tracks], list[tuple[int, object]]]


@dataclass(frozen=True)
class Query:
    """A parsed query: which tracks, and in which order (path decides among equals)."""

    matches: Predicate
    sort: tuple[tuple[SortKey, bool], ...] = ()
    """Keys with whether each runs from high to low."""

    def order(self, tracks: Tracks) -> list[int]:
        """Indices of all tracks in the query's order."""
        order = sorted(range(len(tracks.path)), key=lambda index: str(tracks.path[index]))
        for key, descending in reversed(self.sort):
            values = key(tracks)
            order.sort(key=lambda index: values[index], reverse=descending)
        return order


def parse(text: str, card: Card) -> Query:
    """Read a query; tag names are those of `card`, in any spelling that its vocabulary knows.

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
    """Still in their quotes: a colon inside them ends no field."""
    negated: bool = False
    starts_alternative: bool = False


def _words(text: str) -> list[_Word]:
    """Words at unquoted spaces; pieces of a word at unquoted commas."""
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
            # `genre:rock,jazz`: a piece without a field of its own takes its neighbour's.
            value = piece
        terms.append(_term(field, value, piece, card))
    either = _any(terms)
    return (lambda tracks: ~either(tracks)) if word.negated else either


def _unquoted(text: str) -> str:
    return text.replace('"', "")


def _is_field(name: str, piece: str) -> bool:
    lowered = name.lower()
    if lowered.startswith("score.") or lowered in {*FIELDS, "tag"}:
        return True
    if re.fullmatch(r"[a-z_.]+", lowered):
        close = difflib.get_close_matches(lowered, FIELDS, n=1)
        hint = f"; did you mean `{close[0]}:`?" if close else f"; fields are {', '.join(FIELDS)}"
        raise BadRequestError(f"query {piece!r}: there is no field {name!r}{hint} (quote a text that has a colon)")
    return False


def _term(field: str, value: str, piece: str, card: Card) -> Predicate:
    if field in {"tag", *CATEGORIES}:
        return _has_tag(_tag_index(value, card, field if field in CATEGORIES else None))
    if field.startswith("score."):
        return _score_between(_tag_index(field.removeprefix("score."), card), *_range(value, piece, float))
    if field == "duration":
        return _duration_between(*_range(value, piece, _seconds))
    if field in TEXT_FIELDS:
        return _text([field], value)
    return _text(_BARE_WORD_FIELDS, value)


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
    close = difflib.get_close_matches(genre_key(name), spellings, n=1)
    hint = f"; did you mean {card.tags[spellings[close[0]]].name!r}?" if close else ";"
    kind = category or "tag"
    raise BadRequestError(f"model {card.name} knows no {kind} {name!r}{hint} `musictagger tags` lists all")


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


def _seconds(text: str) -> float:
    """`215`, `3:35` or `1:02:03` in seconds."""
    seconds = 0.0
    for part in text.split(":"):
        seconds = seconds * 60 + float(part)
    return seconds


def _has_tag(index: int) -> Predicate:
    # A comparison with NaN is false: a track that was not analysed has no tags.
    return lambda tracks: tracks.scores[:, index] >= tracks.thresholds[index]


def _score_between(index: int, low: float, high: float) -> Predicate:
    return lambda tracks: (tracks.scores[:, index] >= low) & (tracks.scores[:, index] <= high)


def _duration_between(low: float, high: float) -> Predicate:
    return lambda tracks: (tracks.duration_s >= low) & (tracks.duration_s <= high)


def _text(fields: Sequence[str], value: str) -> Predicate:
    exact = value.startswith("=")
    wanted = value.removeprefix("=").casefold()

    def fits(text: str) -> bool:
        return text.casefold() == wanted if exact else wanted in text.casefold()

    def matches(tracks: Tracks) -> Mask:
        mask = np.zeros(len(tracks.path), np.bool_)
        for field in fields:
            values = getattr(tracks, field)
            mask |= np.array([any(fits(text) for text in _texts(value)) for value in values], np.bool_)
        return mask

    return matches


def _texts(value: object) -> Sequence[str]:
    if value is None:
        return ()
    return [str(value)] if isinstance(value, (str, Path)) else [str(part) for part in value]  # type: ignore[attr-defined]


def _all(terms: Sequence[Predicate]) -> Predicate:
    return lambda tracks: np.logical_and.reduce(
        [np.ones(len(tracks.path), np.bool_), *(term(tracks) for term in terms)]
    )


def _any(terms: Sequence[Predicate]) -> Predicate:
    return lambda tracks: np.logical_or.reduce([term(tracks) for term in terms])


def _sort_key(piece: str, card: Card) -> tuple[SortKey, bool]:
    name = piece.partition(":")[2] if piece.lower().startswith("sort:") else piece
    descending = name.endswith("-")
    field = name.rstrip("+-").lower()
    if field.startswith("score."):
        index = _tag_index(field.removeprefix("score."), card)
        return (lambda tracks: _numbers(tracks.scores[:, index], descending)), descending
    if field == "duration":
        return (lambda tracks: _numbers(tracks.duration_s, descending)), descending
    if field in {"artist", "title", "album", "path"}:
        return (lambda tracks: [_text_key(value, descending) for value in getattr(tracks, field)]), descending
    raise BadRequestError(f"query {piece!r}: sorts by score.NAME, duration, artist, title, album or path")


def _numbers(values: FloatArray, descending: bool) -> list[tuple[int, object]]:
    # Unknown values come last, whichever way the rest runs.
    return [(int(np.isnan(value)) ^ int(descending), 0.0 if np.isnan(value) else float(value)) for value in values]


def _text_key(value: object, descending: bool) -> tuple[int, object]:
    return int(value is None) ^ int(descending), str(value or "").casefold()
