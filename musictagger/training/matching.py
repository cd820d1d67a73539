"""Which tags of a model and of a dataset mean the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from musictagger.models.card import Card
from musictagger.training.datasets.base import Dataset


@dataclass(frozen=True)
class Matching:
    """Model's tags with the dataset's tags that mean the same, and what either has alone."""

    tags: Mapping[str, tuple[str, ...]]
    """By the name of the model's tag, in the card's order; each holds at least one tag of the dataset."""
    only_dataset: tuple[str, ...]
    only_model: tuple[str, ...]


def match_tags(card: Card, dataset: Dataset) -> Matching:
    """Match by the network's outputs, then by meaning (models.vocabulary).

    Raises BadRequestError where nothing matches, or where a genre dataset has only one genre that does.
    """
    raise NotImplementedError
