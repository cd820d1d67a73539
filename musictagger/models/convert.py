"""Published weights, in whatever form their authors left them, as the state of our backbones."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from musictagger.errors import ModelError
from musictagger.models.tfcheckpoint import read_checkpoint

Tensors = dict[str, npt.NDArray[Any]]


def convert(archive: Path, kind: str, path: str) -> Tensors:
    """The weights of form `kind` (a key of CONVERTERS) at `path` in a zip file.

    Raises ModelError where the file is no zip, or does not hold what was expected.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            return CONVERTERS[kind](opened, path)
    except (KeyError, zipfile.BadZipFile, OSError) as error:
        raise ModelError(f"{archive.name}: does not hold {path} as expected: {error}") from error


def _musicnn_tf(archive: zipfile.ZipFile, path: str) -> Tensors:
    """The TensorFlow checkpoint in folder `path` of the musicnn wheel."""
    checkpoint = read_checkpoint(archive.read(f"{path}/.index"), archive.read(f"{path}/.data-00000-of-00001"))
    return musicnn_tensors(checkpoint)


_FRONT = ("cnn.timbral.0", "cnn.timbral.1", "cnn.temporal.0", "cnn.temporal.1", "cnn.temporal.2")
_MID = ("cnn.mid.0", "cnn.mid.1", "cnn.mid.2")
_NORMS = ("cnn.norm", *(f"{block}.norm" for block in (*_FRONT, *_MID)), "dense.norm", "dense.hidden_norm")
_NORM_PARTS = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}


def musicnn_tensors(checkpoint: Tensors) -> Tensors:
    """A published musicnn checkpoint as the state of backbone `musicnn`. Raises KeyError on a missing tensor.

    TensorFlow numbered the layers in the order they were built, and keeps kernels as [steps, bands, in, out] and
    dense weights as [in, out]. The optimiser's state is left behind.
    """
    state: Tensors = {}
    for i, norm in enumerate(_NORMS):
        layer = _numbered("batch_normalization", i)
        state |= {f"{norm}.{ours}": checkpoint[f"{layer}/{theirs}"] for ours, theirs in _NORM_PARTS.items()}
        state[f"{norm}.num_batches_tracked"] = np.zeros((), np.int64)
    for i, block in enumerate((*_FRONT, *_MID)):
        layer = _numbered("conv2d", i)
        kernel = checkpoint[f"{layer}/kernel"].transpose(3, 2, 1, 0)  # [out, in, bands, steps]
        # The middle layers see all features as bands of one channel, which is a convolution over time alone.
        state[f"{block}.conv.weight"] = kernel if block in _FRONT else kernel[:, 0]
        state[f"{block}.conv.bias"] = checkpoint[f"{layer}/bias"]
    for i, dense in enumerate(("dense.hidden", "dense.output")):
        state[f"{dense}.weight"] = checkpoint[f"{_numbered('dense', i)}/kernel"].T
        state[f"{dense}.bias"] = checkpoint[f"{_numbered('dense', i)}/bias"]
    return {name: np.array(tensor, order="C") for name, tensor in state.items()}


def _numbered(layer: str, i: int) -> str:
    return f"{layer}_{i}" if i else layer


CONVERTERS: Mapping[str, Callable[[zipfile.ZipFile, str], Tensors]] = {"musicnn-tf": _musicnn_tf}
"""By `format`: a wheel and a path in it -> the state of the backbone."""
