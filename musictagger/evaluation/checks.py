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


def validate_genres(truth: npt.ArrayLike, scores: npt.ArrayLike, names: Sequence[str]) -> tuple[Indices, DoubleArray]:
    """`truth` as indices into `names`, [rows], and `scores` as float64 [rows, genres].

    Raises BadRequestError naming the first row whose genre is out of range, or the first score that is not finite.
    """
    checked = validate_scores(scores, names)
    array = np.asarray(truth)
    if array.shape != (len(checked),) or array.dtype.kind not in "iu":
        raise BadRequestError(f"truth is {array.dtype} {list(array.shape)}; integers [{len(checked)}] are needed")
    bad = np.flatnonzero((array < 0) | (array >= len(names)))
    if len(bad):
        raise BadRequestError(f"truth: row {bad[0]} is {array[bad[0]]}, not a number from 0 to {len(names) - 1}")
    return array.astype(np.intp), checked


def validate_thresholds(thresholds: npt.ArrayLike, tags: int) -> DoubleArray:
    """`thresholds`, one for each tag or one for all, as float64 [tags]. Raises BadRequestError naming a bad one."""
    array = np.asarray(thresholds)
    if array.dtype.kind not in "fiu" or array.shape not in {(), (tags,)}:
        raise BadRequestError(f"thresholds are {array.dtype} {list(array.shape)}; one number or {tags} are needed")
    values: DoubleArray = np.full(tags, array, np.float64)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise BadRequestError(f"the threshold of tag {bad[0]} is {values[bad[0]]}, not a finite number")
    return values


def _cell(where: Indices, names: Sequence[str]) -> str:
    return f"row {where[0]}, {names[where[1]]!r}"
