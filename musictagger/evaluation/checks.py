"""What metrics, thresholds and calibration take in: checked once, here, and refused with the value that is wrong."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from musictagger.errors import BadRequestError

DoubleArray = npt.NDArray[np.float64]
Truth = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.intp]


def validate_tags(
    truth: npt.ArrayLike, scores: npt.ArrayLike, names: Sequence[str] | None = None
) -> tuple[Truth, DoubleArray]:
    """`truth` (bool or 0/1) and `scores` (any real number), both [tracks, tags], as arrays that can be computed with.

    Raises BadRequestError naming the first value that is no truth, no finite number, or does not fit the rest.
    """
    checked = validate_scores(scores, names)
    return _validate_flags(truth, checked.shape, "truth", names), checked


def validate_scores(scores: npt.ArrayLike, names: Sequence[str] | None = None) -> DoubleArray:
    """`scores` as float64 [rows, columns]. Raises BadRequestError naming what is empty, not finite or unnamed."""
    array = np.asarray(scores)
    if array.dtype.kind not in "fiub":
        raise BadRequestError(f"scores are {array.dtype}, not numbers")
    if array.ndim != 2 or not array.size:
        raise BadRequestError(
            f"scores have shape {list(array.shape)}; [rows, columns] with at least one of each is needed"
        )
    if names is not None:
        _validate_names(names, array.shape[1])
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        raise BadRequestError(f"scores: {_place(bad[0], names)} is {array[tuple(bad[0])]}, not a finite number")
    return array.astype(np.float64)


def validate_genres(truth: npt.ArrayLike, scores: npt.ArrayLike, names: Sequence[str]) -> tuple[Indices, DoubleArray]:
    """`truth` as indices into `names`, [rows], and `scores` as float64 [rows, genres].

    Raises BadRequestError naming the first row whose genre is not one of them, or the first score that is no number.
    """
    checked = validate_scores(scores, names)
    return validate_indices(truth, len(checked), len(names), "truth"), checked


def count_rows(values: npt.ArrayLike, what: str) -> int:
    """The length of `values`, [rows]. Raises BadRequestError where it has another shape, or no row."""
    shape = np.shape(values)
    if len(shape) != 1 or not shape[0]:
        raise BadRequestError(f"{what} has shape {list(shape)}; [rows] with at least one is needed")
    return int(shape[0])


def validate_thresholds(thresholds: npt.ArrayLike, tags: int) -> DoubleArray:
    """`thresholds`, one for each tag or one for all, as float64 [tags]. Raises BadRequestError naming a bad one."""
    array = np.asarray(thresholds)
    if array.dtype.kind not in "fiu" or array.shape not in {(), (tags,)}:
        raise BadRequestError(f"thresholds are {array.dtype} {list(array.shape)}; one number, or {tags}, are needed")
    values: DoubleArray = np.full(tags, array, np.float64)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise BadRequestError(f"the threshold of tag {bad[0]} is {values[bad[0]]}, not a finite number")
    return values


def validate_indices(values: npt.ArrayLike, rows: int, below: int, what: str) -> Indices:
    """`values` as indices [rows] from 0 to `below` - 1. Raises BadRequestError naming the first that is not."""
    array = np.asarray(values)
    if array.shape != (rows,) or array.dtype.kind not in "iu":
        raise BadRequestError(f"{what} is {array.dtype} {list(array.shape)}; whole numbers [{rows}] are needed")
    bad = np.flatnonzero((array < 0) | (array >= below))
    if len(bad):
        raise BadRequestError(f"{what}: row {bad[0]} is {array[bad[0]]}, not a number from 0 to {below - 1}")
    return array.astype(np.intp)


def validate_predicted(truth: npt.ArrayLike, predicted: npt.ArrayLike) -> tuple[Truth, Truth]:
    """Both as bool [tracks, tags]. Raises BadRequestError naming the first value that is neither 0 nor 1."""
    shape = np.shape(truth)
    if len(shape) != 2 or 0 in shape:
        raise BadRequestError(f"truth has shape {list(shape)}; [tracks, tags] with at least one of each is needed")
    return _validate_flags(truth, shape, "truth", None), _validate_flags(predicted, shape, "predicted", None)


def _validate_flags(values: npt.ArrayLike, shape: tuple[int, ...], what: str, names: Sequence[str] | None) -> Truth:
    array = np.asarray(values)
    if array.shape != shape:
        raise BadRequestError(f"{what} has shape {list(array.shape)}, the scores {list(shape)}")
    if array.dtype.kind not in "fiub":
        raise BadRequestError(f"{what} is {array.dtype}, not true or false")
    bad = np.argwhere((array != 0) & (array != 1))
    if len(bad):
        raise BadRequestError(f"{what}: {_place(bad[0], names)} is {array[tuple(bad[0])]}, neither 0 nor 1")
    return array.astype(np.bool_)


def _validate_names(names: Sequence[str], columns: int) -> None:
    if len(names) != columns:
        raise BadRequestError(f"{len(names)} names for {columns} columns of scores")
    if len(set(names)) != len(names):
        twice = next(name for index, name in enumerate(names) if name in names[:index])
        raise BadRequestError(f"two columns of scores are both named {twice!r}")


def validate_k(k: int) -> None:
    if k < 1:
        raise BadRequestError(f"k is {k}; it counts the first predictions and is at least 1")


def _place(where: Indices, names: Sequence[str] | None) -> str:
    row, column = int(where[0]), int(where[1])
    return f"row {row}, {f'column {column}' if names is None else repr(names[column])}"
