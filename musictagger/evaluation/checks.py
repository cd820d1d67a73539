"""Validation of the input of metrics, thresholds and calibration."""

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

    Raises BadRequestError for empty or unnamed scores, and for the first value that is not finite, or neither 0 nor 1.
    """
    flags, array = np.asarray(truth), np.asarray(scores)
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
    if flags.shape != array.shape:
        raise BadRequestError(f"truth has shape {list(flags.shape)}, the scores {list(array.shape)}")
    if flags.dtype.kind not in "fiub":
        raise BadRequestError(f"truth is {flags.dtype}, not true or false")
    for row, column in np.argwhere(~np.isfinite(array)):
        raise BadRequestError(f"scores: row {row}, {names[column]!r} is {array[row, column]}, not a finite number")
    for row, column in np.argwhere((flags != 0) & (flags != 1)):
        raise BadRequestError(f"truth: row {row}, {names[column]!r} is {flags[row, column]}, neither 0 nor 1")
    return flags.astype(np.bool_), array.astype(np.float64)
