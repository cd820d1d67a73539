"""Read published weight files into tensors under their authors' names.

Such a file is not trusted: it cannot run code or exhaust memory by claiming to be huge, and whatever it contains, a
reader raises only an OSError or a ModelError of one line.
"""

from __future__ import annotations

import contextlib
import importlib
import pickle
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from musictagger.errors import ModelError, reason_of
from musictagger.models.published.tfcheckpoint import read_checkpoint

Tensors = dict[str, npt.NDArray[Any]]

MAX_BYTES = 500_000_000
"""Limit for the unpacked content of a file; the largest published model has 57 MB."""

_MAY_RUN_CODE = "and files that may run code are refused"


@contextlib.contextmanager
def _reader() -> Iterator[None]:
    """Turn any exception of another package's reader, which damaged files provoke, into a ModelError."""
    try:
        yield
    except (OSError, ModelError):
        raise
    except Exception as error:
        raise ModelError(f"it is damaged, or of an unsupported kind ({reason_of(error)})") from error


def check_size(size_bytes: int) -> None:
    """Raise ModelError for more than any model holds. Called before memory is allocated for what a file claims."""
    if size_bytes > MAX_BYTES:
        raise ModelError(f"it claims to hold {size_bytes / 1e6:,.0f} MB, over ten times the largest model here")


def _check_file(file: Path) -> None:
    """Raise ModelError for a file that is too large, or an archive whose content is."""
    check_size(file.stat().st_size)
    with _reader():
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                check_size(sum(member.file_size for member in archive.infolist()))


def read_torch(file: Path, inside: str) -> Tensors:
    """A state dict. Only tensors are read, so that the file cannot run code."""
    import torch

    _check_file(file)
    with _reader():
        try:
            stored = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:  # torch's message advises reading it without the check
            raise ModelError(f"it is not a PyTorch checkpoint of tensors only, {_MAY_RUN_CODE}") from error
    if not isinstance(stored, dict) or not all(isinstance(value, torch.Tensor) for value in stored.values()):
        raise ModelError("it does not hold a state dict")
    with _reader():
        return {str(name): value.detach().numpy() for name, value in stored.items()}


_KERAS_NAME = re.compile(r"(?:.*/)?(.+?)(?:_1)?:0")


def read_keras(file: Path, inside: str) -> Tensors:
    """HDF5 as written by Keras 1 with TensorFlow, or the same arrays under the same names in an .npz."""
    _check_file(file)
    arrays = _read_npz(file) if file.suffix == ".npz" else _read_hdf5(file)
    tensors = {}
    for name, array in arrays.items():
        match = _KERAS_NAME.fullmatch(name)
        if match is None:
            # Theano's names; its convolutions are mirrored.
            raise ModelError(f"{name!r} was not written with TensorFlow; use the authors' file with TensorFlow weights")
        tensors[match[1]] = array
    return tensors


def _read_npz(file: Path) -> Tensors:
    with _reader():
        try:
            with np.load(file, allow_pickle=False) as stored:
                return dict(stored)
        except ValueError as error:
            if "allow_pickle" not in str(error):
                raise
            raise ModelError(f"it holds more than arrays of numbers, {_MAY_RUN_CODE}") from error


def _read_hdf5(file: Path) -> Tensors:
    try:
        h5py = importlib.import_module("h5py")
    except ImportError as error:
        raise ModelError(
            "this needs the package h5py, which is not installed; install it with `uv sync --extra keras` in a "
            "checkout or `pip install h5py` elsewhere, then try again"
        ) from error
    arrays: Tensors = {}
    claimed = 0

    def note(name: str, value: Any) -> None:
        nonlocal claimed
        if isinstance(value, h5py.Dataset):
            claimed += value.nbytes
            check_size(claimed)
            arrays[name] = np.asarray(value)

    with _reader(), h5py.File(file, "r") as stored:
        stored.visititems(note)
    return arrays


def read_tf(file: Path, inside: str) -> Tensors:
    """The checkpoint in folder `inside` of a wheel, or that of an `.index` file, or of a folder with one."""
    if inside:
        _check_file(file)
        with _reader(), zipfile.ZipFile(file) as wheel:
            return read_checkpoint(wheel.read(f"{inside}/.index"), wheel.read(f"{inside}/.data-00000-of-00001"))
    if zipfile.is_zipfile(file):
        raise ModelError("an archive may hold several models; unpack it and name one folder, such as MSD_musicnn")
    indices = sorted(file.glob("*.index")) if file.is_dir() else [file]
    if len(indices) != 1 or not indices[0].name.endswith(".index"):
        raise ModelError("a TensorFlow checkpoint is a file `.index`, or a folder with exactly one such file")
    index = indices[0]
    data = index.with_name(f"{index.name.removesuffix('.index')}.data-00000-of-00001")
    check_size(index.stat().st_size + data.stat().st_size)
    return read_checkpoint(index.read_bytes(), data.read_bytes())
