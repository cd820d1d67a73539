"""Which tags of a model and of a dataset mean the same, and what the labels then say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from musictagger.datasets.base import Dataset, Example, some
from musictagger.errors import BadRequestError
from musictagger.models.card import Card
from musictagger.models.vocabulary import meaning

_SHOWN = 8


@dataclass(frozen=True)
class Matching:
    """Model's tags with the dataset's tags that mean the same, and what either has alone."""

    tags: Mapping[str, tuple[str, ...]]
    """By the name of the model's tag, in the card's order; each holds at least one tag of the dataset."""
    only_dataset: tuple[str, ...]
    only_model: tuple[str, ...]

    def describe(self) -> list[str]:
        """What was matched and what was not, as lines for people."""
        lines = [f"{len(self.tags)} of the model's tags are in the dataset"]
        renamed = [
            f"{', '.join(words)} as {name}" for name, words in self.tags.items() if _spelling_differs(name, words)
        ]
        if renamed:
            lines.append(f"taken to mean the same: {some(renamed, _SHOWN)}")
        if self.only_dataset:
            lines.append(f"not known to the model, so not measured: {some(self.only_dataset, _SHOWN)}")
        if self.only_model:
            lines.append(f"not in the dataset, so not measured: {some(self.only_model, _SHOWN)}")
        return lines


def match_tags(card: Card, dataset: Dataset, *, require: bool = True) -> Matching:
    """Match by the network's outputs, then by meaning (`models.vocabulary`).

    With `require`, raises BadRequestError where nothing matches, or where a genre dataset has only one genre that does.
    """
    outputs = {output: tag.name for tag in card.tags for output in tag.outputs}
    meanings: dict[str, str] = {}
    for tag in card.tags:
        for word in (tag.name, *tag.outputs):
            meanings.setdefault(_key(word), tag.name)
    found: dict[str, list[str]] = {tag.name: [] for tag in card.tags}
    lacking = []
    for word in dataset.tags:
        name = outputs.get(word) or meanings.get(_key(word))
        found[name].append(word) if name else lacking.append(word)
    tags = {name: tuple(words) for name, words in found.items() if words}
    matching = Matching(tags, tuple(lacking), tuple(name for name, words in found.items() if not words))
    if require:
        _require_enough(matching, card, dataset)
    return matching


def _require_enough(matching: Matching, card: Card, dataset: Dataset) -> None:
    needed = 2 if dataset.task == "genre" else 1
    if len(matching.tags) >= needed:
        return
    common = f"only {next(iter(matching.tags))!r}" if matching.tags else "no tag"
    raise BadRequestError(
        f"model {card.name} and dataset {dataset.name} have {common} in common: the model knows "
        f"{some((tag.name for tag in card.tags), _SHOWN)}; the dataset has {some(dataset.tags, _SHOWN)}"
    )


def truth_of(examples: Sequence[Example], matching: Matching) -> npt.NDArray[np.bool_]:
    """Which of the matched tags each example has, bool [examples, tags]: any of the words that mean it."""
    columns = {word: column for column, words in enumerate(matching.tags.values()) for word in words}
    truth = np.zeros((len(examples), len(matching.tags)), np.bool_)
    for row, example in enumerate(examples):
        truth[row, [columns[word] for word in example.tags if word in columns]] = True
    return truth


def _spelling_differs(name: str, words: Sequence[str]) -> bool:
    return any(_folded(word) != _folded(name) for word in words)


def _key(word: str) -> str:
    """Equal for words that mean the same, and for spellings of a word that nobody knows."""
    return _folded(meaning(word)[0])


def _folded(word: str) -> str:
    folded = word.casefold()
    return "".join(c for c in folded if c.isalnum()) or folded
