"""Which sounds a model was trained on, small enough for its card: else figures on them could pass for honest ones."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from musictagger.evaluation.labelled import SplitOrAll
from musictagger.models.card import Card

Heads = npt.NDArray[np.uint32]


def digest_prefixes(digests: Iterable[str], before: Card | None = None) -> str:
    """The first 32 bits of each digest (hexadecimal), sorted, as base64. Two sounds in four billion look the same.

    `before` is the card of the model that the training began with: what that one has heard counts too.
    """
    known = _known(before) if before is not None else _heads(())
    return base64.b64encode(np.union1d(_heads(digests), known).astype("<u4").tobytes()).decode("ascii")


def count_overlap(card: Card, split: SplitOrAll, digests: Iterable[str]) -> int:
    """How many of these sounds the model was trained on; none of the split train, where nobody wonders.

    Models whose cards do not say what they were trained on have heard none.
    """
    if split == "train":
        return 0
    return int(np.isin(_heads(digests), _known(card)).sum())


def _known(card: Card) -> Heads:
    text = card.training.get("heard")
    try:
        return np.frombuffer(base64.b64decode(text, validate=True), "<u4") if isinstance(text, str) else _heads(())
    except (binascii.Error, ValueError):
        return _heads(())


def _heads(digests: Iterable[str]) -> Heads:
    return np.array([int(digest[:8], 16) for digest in digests], "<u4")
