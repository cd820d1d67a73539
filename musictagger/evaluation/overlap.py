"""Training overlap: the tracks that a model was trained on, as digest prefixes small enough for its card.

Metrics on such tracks are too good, so they are not saved, and are shown only with a warning.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from musictagger.evaluation.matching import SplitOrAll
from musictagger.models.card import Card

Prefixes = npt.NDArray[np.uint32]


def digest_prefixes(digests: Iterable[str], initial: Card | None = None) -> str:
    """The first 32 bits of each digest (hexadecimal), sorted, as base64: two tracks in four billion collide.

    `initial` is the card of the model that the training started from; its training tracks count as well.
    """
    known = _known(initial) if initial is not None else _prefixes(())
    return base64.b64encode(np.union1d(_prefixes(digests), known).astype("<u4").tobytes()).decode("ascii")


def count_overlap(card: Card, split: SplitOrAll, digests: Iterable[str]) -> int:
    """The number of these tracks that the model was trained on; 0 for the split train, where overlap is expected.

    Also 0 for a model whose card does not record its training tracks.
    """
    if split == "train":
        return 0
    return int(np.isin(_prefixes(digests), _known(card)).sum())


def _known(card: Card) -> Prefixes:
    text = card.training.get("heard")
    try:
        return np.frombuffer(base64.b64decode(text, validate=True), "<u4") if isinstance(text, str) else _prefixes(())
    except (binascii.Error, ValueError):
        return _prefixes(())


def _prefixes(digests: Iterable[str]) -> Prefixes:
    return np.array([int(digest[:8], 16) for digest in digests], "<u4")
