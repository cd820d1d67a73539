"""Categories, display names and synonyms of tag words. The data is in tags.toml."""

from __future__ import annotations

import functools
import string
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
    """The tags of a network's outputs with synonyms merged, in the order of each tag's first output.

    An unknown word becomes a tag of category `unknown` with its own name. `thresholds` is one number, or numbers by
    display name, category or "default", looked up in this order. Raises ModelError if a tag has no threshold.
    """
    merged: dict[Meaning, list[str]] = {}
    names: dict[str, Meaning] = {}
    for output in outputs:
        # Spellings of an unknown word are one tag, named after the first of them.
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
    """The meaning of every word in tags.toml, by its `word_key`.

    Raises ModelError if the file gives one word two meanings or names an unknown category.
    """
    with Path(__file__).with_name("tags.toml").open("rb") as file:
        tables = tomllib.load(file)
    words: dict[str, Meaning] = {}
    for category in tables:
        if category not in CATEGORIES:
            raise ModelError(f"tags.toml: {category!r} is not a category (known are: {', '.join(CATEGORIES)})")
        for name, synonyms in tables[category].items():
            for word in dict.fromkeys(word_key(word) for word in (name, *synonyms)):
                if word in words:
                    raise ModelError(f"tags.toml: {word!r} means both {words[word][0]!r} and {name!r}")
                words[word] = (name, category)
    return MappingProxyType(words)


def word_key(word: str) -> str:
    """A word without case, spaces and punctuation, which is equal for spellings of the same word."""
    folded = unicodedata.normalize("NFKC", word).casefold()
    return "".join(c for c in folded if c.isalnum()) or folded


def _title(word: str) -> str:
    """`drum and space` -> `Drum and Space`, `post-prog` -> `Post-Prog`; a word with capitals is kept."""
    text = " ".join(word.replace("_", " ").split())
    if text != text.lower():
        return text
    words = enumerate(text.split(" "))
    return " ".join(word if i and word in _SMALL_WORDS else string.capwords(word, "-") for i, word in words)


def _threshold(thresholds: Mapping[str, float] | float, name: str, category: Category) -> float:
    if not isinstance(thresholds, Mapping):
        return float(thresholds)
    for key in (name, category, "default"):
        if key in thresholds:
            return float(thresholds[key])
    raise ModelError(f"tag {name!r} has no threshold")
