"""Validation of the input of metrics, thresholds and calibration, with messages that name the first wrong value."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from musictagger.errors import BadRequestError

DoubleArray = npt.NDArray[np.float64]
Truth = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.intp]


def validate_tags(truth: npt.ArrayLike, scores: npt.ArrayLike, names: Sequence[str]) -> tuple[Truth, DoubleArray]:
    """`truth` (bool or 0/1) as bool and `scores` (any real numbers) as float64, both [tracks, tags].

    Raises BadRequestError naming the first value that is neither 0 nor 1, not finite, or does not fit the rest.
    """
    checked = validate_scores(scores, names)
    flags = np.asarray(truth)
    if flags.shape != checked.shape:
        raise BadRequestError(f"truth has shape {list(flags.shape)}, the scores {list(checked.shape)}")
    if flags.dtype.kind not in "fiub":
        raise BadRequestError(f"truth is {flags.dtype}, not true or false")
    bad = np.argwhere((flags != 0) & (flags != 1))
    if len(bad):
        raise BadRequestError(f"truth: {_cell(bad[0], names)} is {flags[tuple(bad[0])]}, neither 0 nor 1")
    return flags.astype(np.bool_), checked


def validate_scores(scores: npt.ArrayLike, names: Sequence[str]) -> DoubleArray:
    """`scores` as float64 [rows, columns]. Raises BadRequestError where they are empty, not finite or unnamed."""
    array = np.asarray(scores)
    if array.dtype.kind not in "fiub":
        raise BadRequestError(f"scores are {array.dtype}, not numbers")
    if array.ndim != 2 or not array.size:
        raise BadRequestError(
            f"scores have shape {list(array.shape)}; [rows, columns] with at least one of each is needed"
        )
    if len(names) != array.shape[1]:
        raise BadRequestError(f"{len(names)} names for {array.shape[1]} columns of scores")
    if len(set(names)) != len(names):
        twice = next(name for index, name in enumerate(names) if name in names[:index])
        raise BadRequestError(f"two columns of scores are both named {twice!r}")
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        raise BadRequestError(f"scores: {_cell(bad[0], names)} is {array[tuple(bad[0])]}, not a finite number")
    return array.astype(np.float64)


def _cell(where: Indices, names: Sequence[str]) -> str:
    return f"row {where[0]}, {names[where[1]]!r}"
