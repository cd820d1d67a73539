"""What a tag word means: its category and display name, and which words mean the same. Data in tags.toml."""

from __future__ import annotations

import functools
import tomllib
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from musictagger.errors import ModelError
from musictagger.models.card import CATEGORIES, Category, Tag

_SMALL_WORDS = frozenset({"a", "an", "and", "at", "by", "for", "in", "n", "of", "on", "or", "the", "to", "with"})
Meaning = tuple[str, Category]
"""Display name and category."""


def tags_for(
    outputs: Sequence[str], thresholds: Mapping[str, float] | float, *, unknown: Category = "other"
) -> tuple[Tag, ...]:
    """The tags a network's outputs make, synonyms merged, in the order of each tag's first output.

    A word this program does not know becomes a tag of category `unknown` under its own name. `thresholds` is one
    number, or numbers by display name, category and "default", the first of these that is there. Raises ModelError
    where a tag has no threshold.
    """
    merged: dict[Meaning, list[str]] = {}
    names: dict[str, Meaning] = {}
    for output in outputs:
        # Spellings of an unknown word count as one, under the first of them.
        name_and_category = names.setdefault(word_key(output), meaning(output, unknown=unknown))
        merged.setdefault(name_and_category, []).append(output)
    return tuple(
        Tag(name, category, tuple(dict.fromkeys(words)), _threshold(thresholds, name, category))
        for (name, category), words in merged.items()
    )


def meaning(word: str, *, unknown: Category = "other") -> Meaning:
    """Display name and category of one word."""
    return known_words().get(word_key(word), (_title(word), unknown))


@functools.cache
def known_words() -> Mapping[str, Meaning]:
    """The meaning of every word in tags.toml, by the word without case, spaces and punctuation.

    Raises ModelError where the file gives one word two meanings, or names a category that is none.
    """
    with Path(__file__).with_name("tags.toml").open("rb") as file:
        tables = tomllib.load(file)
    words: dict[str, Meaning] = {}
    for category in tables:
        if category not in CATEGORIES:
            raise ModelError(f"tags.toml: {category!r} is no category (there are: {', '.join(CATEGORIES)})")
        for name, synonyms in tables[category].items():
            for word in dict.fromkeys(word_key(word) for word in (name, *synonyms)):
                if word in words:
                    raise ModelError(f"tags.toml: {word!r} means both {words[word][0]!r} and {name!r}")
                words[word] = (name, category)
    return MappingProxyType(words)


def word_key(word: str) -> str:
    """A word without case, spaces and punctuation, in which spellings of one word are equal."""
    folded = unicodedata.normalize("NFKC", word).casefold()
    return "".join(c for c in folded if c.isalnum()) or folded


def _title(word: str) -> str:
    """`drum and space` -> `Drum and Space`, `post-prog` -> `Post-Prog`; what has capitals already keeps them."""
    text = " ".join(word.replace("_", " ").split())
    if text != text.lower():
        return text
    parts = text.split(" ")
    titled = [part if i and part in _SMALL_WORDS else _capitalised(part) for i, part in enumerate(parts)]
    return " ".join(titled)


def _capitalised(word: str) -> str:
    return "-".join(part[:1].upper() + part[1:] for part in word.split("-"))


def _threshold(thresholds: Mapping[str, float] | float, name: str, category: Category) -> float:
    if not isinstance(thresholds, Mapping):
        return float(thresholds)
    for key in (name, category, "default"):
        if key in thresholds:
            return float(thresholds[key])
    raise ModelError(f"there is no threshold for tag {name!r}")
