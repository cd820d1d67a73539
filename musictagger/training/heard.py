"""Which sounds a model was trained on, small enough for its card: else figures on them could pass for honest ones."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable

import numpy as np

from musictagger.models.card import Card
from musictagger.training.labelled import Part


def packed(digests: Iterable[str]) -> str:
    """The first 32 bits of each digest (hexadecimal), sorted, as base64. Two sounds in four billion look the same."""
    return base64.b64encode(np.sort(_heads(digests)).tobytes()).decode("ascii")


def count_heard(card: Card, split: Part, digests: Iterable[str]) -> int:
    """How many of these sounds the model was trained on; none of the split train, where nobody wonders.

    Models whose cards do not say what they were trained on have heard none.
    """
    try:
        known = np.frombuffer(base64.b64decode(str(card.training.get("heard")), validate=True), "<u4")
    except (binascii.Error, ValueError):
        return 0
    if split == "train":
        return 0
    return int(np.isin(_heads(digests), known).sum())


def _heads(digests: Iterable[str]) -> np.ndarray[tuple[int], np.dtype[np.uint32]]:
    return np.array([int(digest[:8], 16) for digest in digests], "<u4")
