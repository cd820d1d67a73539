"""Which sounds a model was trained on, small enough for its card: else figures on them could pass for honest ones."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable

import numpy as np


def packed(digests: Iterable[str]) -> str:
    """The first 32 bits of each digest (hexadecimal), sorted, as base64. Two sounds in four billion look the same."""
    return base64.b64encode(np.sort(_heads(digests)).tobytes()).decode("ascii")


def count_heard(text: object, digests: Iterable[str]) -> int:
    """How many of `digests` are among those that `packed` made this text of; none where it is no such text."""
    try:
        known = np.frombuffer(base64.b64decode(str(text), validate=True), "<u4")
    except (binascii.Error, ValueError):
        return 0
    return int(np.isin(_heads(digests), known).sum())


def _heads(digests: Iterable[str]) -> np.ndarray[tuple[int], np.dtype[np.uint32]]:
    return np.array([int(digest[:8], 16) for digest in digests], "<u4")
