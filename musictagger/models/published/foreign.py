"""Files of weights as their authors left them, read into tensors by the authors' names.

Such a file comes from anywhere: it cannot run anything here, take all memory by claiming to be huge, or end a reader
with anything but an OSError or a ModelError in one line.
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

MOST_BYTES = 500_000_000
"""What a file may hold, unpacked: the largest published model here has 57 MB."""

_MAY_RUN_CODE = "and what may run code is not read"


@contextlib.contextmanager
def _reader() -> Iterator[None]:
    """Around another package's reader alone: on a damaged file it raises whatever it stumbles over."""
    try:
        yield
    except (OSError, ModelError):
        raise
    except Exception as error:
        raise ModelError(f"it is damaged, or of a kind that is not read ({reason_of(error)})") from error


def check_size(size_bytes: int) -> None:
    """Raises ModelError for more than any model holds; what a file claims is checked before memory is taken for it."""
    if size_bytes > MOST_BYTES:
        raise ModelError(f"it claims to hold {size_bytes / 1e6:,.0f} MB; no model here has a tenth of that")


def _check_file(file: Path) -> None:
    """Raises ModelError for a file that is too large, or an archive that unpacked would be."""
    check_size(file.stat().st_size)
    with _reader():
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                check_size(sum(member.file_size for member in archive.infolist()))


def read_torch(file: Path, inside: str) -> Tensors:
    """A state dict; weights only, so a file cannot run anything. What torch refuses to read is an error."""
    import torch

    _check_file(file)
    with _reader():
        try:
            stored = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:  # what torch says advises to read it all the same
            raise ModelError(f"it is no PyTorch checkpoint of tensors alone, {_MAY_RUN_CODE}") from error
    if not isinstance(stored, dict) or not all(isinstance(value, torch.Tensor) for value in stored.values()):
        raise ModelError("it holds no state dict")
    with _reader():
        return {str(name): value.detach().numpy() for name, value in stored.items()}


_KERAS_NAME = re.compile(r"(?:.*/)?(.+?)(?:_1)?:0")


def read_keras(file: Path, inside: str) -> Tensors:
    """HDF5 as Keras 1 wrote it with TensorFlow, or the same arrays under the same names in an .npz."""
    _check_file(file)
    arrays = _read_npz(file) if file.suffix == ".npz" else _read_hdf5(file)
    tensors = {}
    for name, array in arrays.items():
        match = _KERAS_NAME.fullmatch(name)
        if match is None:
            # Theano names its arrays so, and its convolutions are mirrored.
            raise ModelError(f"{name!r} was not written with TensorFlow; take the authors' file whose name says so")
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
            "this needs the package h5py, which is not installed; install it, e.g. with `uv sync --extra keras` in a "
            "checkout or `pip install h5py` elsewhere, then again"
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
    """The checkpoint in folder `inside` of a wheel; or a checkpoint's `.index`, or the folder that has one."""
    if inside:
        _check_file(file)
        with _reader(), zipfile.ZipFile(file) as wheel:
            return read_checkpoint(wheel.read(f"{inside}/.index"), wheel.read(f"{inside}/.data-00000-of-00001"))
    if zipfile.is_zipfile(file):
        raise ModelError("an archive may hold several models; unpack it, and name the folder of one, as MSD_musicnn")
    indices = sorted(file.glob("*.index")) if file.is_dir() else [file]
    if len(indices) != 1 or not indices[0].name.endswith(".index"):
        raise ModelError("a TensorFlow checkpoint is a file `.index`, or a folder with just one such file")
    index = indices[0]
    data = index.with_name(f"{index.name.removesuffix('.index')}.data-00000-of-00001")
    check_size(index.stat().st_size + data.stat().st_size)
    return read_checkpoint(index.read_bytes(), data.read_bytes())
