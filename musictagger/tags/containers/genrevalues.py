"""The meaning of genre values, and how new ones are merged with those in a file. Pure text, no files."""

from __future__ import annotations

import re
from collections.abc import Iterable

from mutagen._constants import GENRES

from musictagger.records import MergeMode
from musictagger.tags.containers.systems import DEFAULT_JOIN

_SPECIAL = {"RX": "Remix", "CR": "Cover"}
_NUMBERED = re.compile(r"\((\d{1,3}|RX|CR)\)")


def genre_names(value: str) -> tuple[str, ...]:
    """The genres that a stored value means: `(17)`, `17`, `(4)Eurodisco` and `RX` hold numbers and codes of ID3v1.

    Any other text is one genre, unless it contains NUL, which separates several.
    """
    names: list[str] = []
    for part in value.split("\0"):
        while found := _NUMBERED.match(part):
            names.append(_named(found[1]))
            part = part[found.end() :]
        if part:
            names.append(_named(part.removeprefix("(") if part.startswith("((") else part))
    return tuple(dict.fromkeys(name for name in names if name))


def _named(text: str) -> str:
    if text.isascii() and text.isdigit() and int(text) < len(GENRES):
        return str(GENRES[int(text)])
    return _SPECIAL.get(text, text)


def merge_genres(
    existing: tuple[str, ...], chosen: Iterable[str], mode: MergeMode, *, join: str = DEFAULT_JOIN
) -> tuple[str, ...]:
    """The new values of a genre field.

    fill: `chosen`, unless the field has a value; append: `existing`, then those of `chosen` that are new;
    replace: `chosen`, or `existing` where nothing was chosen; none: `existing`.
    A field of empty texts, which some programs write, counts as one without a value. Two values are the same if they
    are equal in casefold, or a number stands for the other. A value that holds several genres separated by `join`, as
    in ID3v2.3, is compared part by part, but never split.
    """
    new = _distinct(chosen)
    filled = any(existing)
    if mode == "none" or not new or (mode == "fill" and filled):
        return existing
    if mode != "append" or not filled:
        return new
    seen = {part.casefold() for value in existing for part in _parts(value, join)}
    return existing + tuple(value for value in new if not {name.casefold() for name in genre_names(value)} <= seen)


def _distinct(values: Iterable[str]) -> tuple[str, ...]:
    firsts: dict[str, str] = {}
    for value in values:
        if value:
            firsts.setdefault(value.casefold(), value)
    return tuple(firsts.values())


def _parts(value: str, join: str) -> Iterable[str]:
    for name in genre_names(value):
        yield name
        if join:
            yield from name.split(join)
