"""Published weights, in whatever form their authors left them, as models of our backbones.

A format is read in two steps: the file into tensors by the authors' names (models.foreign), and those into our names,
axes and conventions. The configuration of the backbone is read off the tensors' shapes. Everything here is exact: what
differs is the order of numbers, and BatchNorm's constants, which take in what our layers have no place for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from musictagger.errors import ModelError, clipped, printable, reason_of
from musictagger.models.published.foreign import Tensors, check_size, read_keras, read_tf, read_torch


@dataclass(frozen=True)
class Converted:
    """A published model in our terms: which backbone in which configuration, how many outputs, and its state."""

    backbone: str
    config: Mapping[str, Any]
    n_tags: int
    tensors: Tensors


def convert(file: Path, form: str, inside: str = "") -> Converted:
    """The model in `file`, which is of format `form` (a key of FORMATS); `inside`: where in a wheel it lies.

    Raises ModelError where the file is of another format, is damaged, or holds another architecture.
    """
    read, model = FORMATS[form]
    if file.is_dir() and read is not read_tf:
        raise ModelError(f"{printable(file)}: is a folder; name the file in it")
    if file.exists() and not file.is_dir() and not file.is_file():
        raise ModelError(f"{printable(file)}: is no file")
    try:
        tensors = read(file, inside)
        _check(tensors)
    except (OSError, ModelError) as error:
        raise _refused(file, f"cannot be read as weights of format {form}", reason_of(error)) from error
    try:
        converted = model(tensors)
    except (KeyError, ValueError, IndexError, TypeError, MemoryError) as error:
        # By name, size, dimension, a size of a scalar, and sizes that multiply.
        reason = f"there is no {error}" if isinstance(error, KeyError) else reason_of(error)
        raise _refused(file, f"is no model of format {form} as expected", reason) from error
    if tensors:
        left = ", ".join(map(clipped, sorted(tensors)[:3]))
        raise _refused(file, f"is another architecture than those of format {form}", f"it has {left}")
    return converted


def _refused(file: Path, what: str, reason: str) -> ModelError:
    # The names in a file may hold anything, a terminal's commands too.
    return ModelError(f"{printable(file)}: {what}: {printable(reason)}")


def _check(tensors: Tensors) -> None:
    """Raises ModelError for tensors that no weights are. One that is stored as one number may claim to be a million."""
    check_size(sum(tensor.nbytes for tensor in tensors.values()))
    for name, tensor in tensors.items():
        if tensor.dtype.kind not in "biuf" or not tensor.dtype.isnative:
            raise ModelError(f"{clipped(name)} holds values of a kind that is not read ({tensor.dtype})")


# --- what the formats have in common -----------------------------------------------------------------------------

_OUR_NORM = ("weight", "bias", "running_mean", "running_var")
_TORCH_NORM = tuple(f"{{}}.{part}" for part in _OUR_NORM)
_TF_NORM = ("{}/gamma", "{}/beta", "{}/moving_mean", "{}/moving_variance")
_KERAS_NORM = ("{}_gamma", "{}_beta", "{}_running_mean", "{}_running_std")
"""How each format calls BatchNorm's four tensors of one layer. Keras 1 calls its variance a deviation."""

_MORE_EPS = 1e-3 - 1e-5
"""TensorFlow and Keras add 1e-3 to a variance, torch 1e-5: a variance larger by the difference gives the same."""

Parts = Sequence[str]


def _norm(
    left: Tensors, parts: Parts, theirs: str, ours: str, *, more: float = 0.0, bias: npt.NDArray[Any] | None = None
) -> Tensors:
    """BatchNorm `theirs`, taken out of `left`, as `ours`.

    more: added to the variance. bias: of the convolution before it, which ours lacks: the mean takes it in.
    """
    weight, shift, mean, variance = (left.pop(part.format(theirs)) for part in parts)
    if mean.ndim != 1 or (bias is not None and bias.shape != mean.shape):
        raise ValueError(f"{theirs} has means of shape {mean.shape}")
    mean = mean.astype(np.float64) - (0.0 if bias is None else bias)
    variance = variance.astype(np.float64) + more
    values = (weight, shift, mean.astype(np.float32), variance.astype(np.float32))
    state = {f"{ours}.{part}": value for part, value in zip(_OUR_NORM, values, strict=True)}
    return state | {f"{ours}.num_batches_tracked": np.zeros((), np.int64)}


def _moved(left: Tensors, names: Mapping[str, str]) -> Tensors:
    """Tensors taken out of `left` under other names."""
    return {ours: left.pop(theirs) for ours, theirs in names.items()}


def _whole(state: Tensors) -> Tensors:
    """Each tensor with memory of its own in its own order, as safetensors wants them."""
    return {name: np.array(tensor, order="C") for name, tensor in state.items()}


# --- won: PyTorch, Won et al. 2020 -------------------------------------------------------------------------------


def _won(left: Tensors) -> Converted:
    """One of three architectures, told apart by the names of their layers."""
    for name in [name for name in left if name.endswith("num_batches_tracked")]:
        del left[name]
    left.pop("spec.spectrogram.window")
    if left.pop("spec.mel_scale.fb").shape != (257, 96):
        raise ValueError("its front end has not 96 mel bands of 257 frequencies")
    if "layers.0.conv.weight" in left:
        return _won_musicnn(left)
    return _won_crnn(left) if "layer5.weight_ih_l0" in left else _won_fcn(left)


def _won_stack(left: Tensors, blocks: int) -> tuple[Tensors, list[int]]:
    """The norm of the input and the convolutions, and how many channels each has."""
    state = _norm(left, _TORCH_NORM, "spec_bn", "cnn.input.norm")
    for number in range(1, blocks + 1):
        bias = left.pop(f"layer{number}.conv.bias")
        state |= _moved(left, {f"cnn.block{number}.conv.weight": f"layer{number}.conv.weight"})
        state |= _norm(left, _TORCH_NORM, f"layer{number}.bn", f"cnn.block{number}.norm", bias=bias)
    state |= _moved(left, {f"dense.{part}": f"dense.{part}" for part in ("weight", "bias")})
    return state, [len(state[f"cnn.block{number}.conv.weight"]) for number in range(1, blocks + 1)]


def _won_fcn(left: Tensors) -> Converted:
    state, channels = _won_stack(left, 5)
    pools = [[2, 4], [2, 4], [2, 4], [3, 5], [4, 4]]
    return Converted(
        "fcn",
        {"n_mels": 96, "channels": channels, "pools": pools, "activation": "relu", "dropout": 0.0},
        len(state["dense.bias"]),
        _whole(state),
    )


def _won_crnn(left: Tensors) -> Converted:
    state, channels = _won_stack(left, 4)
    units: list[int] = []
    while f"layer5.weight_ih_l{len(units)}" in left:
        layer, parts = len(units), ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        state |= _moved(left, {f"rnn.layers.{layer}.{part}_l0": f"layer5.{part}_l{layer}" for part in parts})
        units.append(state[f"rnn.layers.{layer}.weight_hh_l0"].shape[1])
    config = {
        "n_mels": 96,
        "padded_columns": None,
        "channels": channels,
        "pools": [[2, 2], [3, 3], [4, 4], [4, 4]],
        "activation": "relu",
        "conv_dropout": 0.0,
        "gru_units": units,
        "dropout": 0.5,
    }
    return Converted("crnn", config, len(state["dense.bias"]), _whole(state))


def _won_musicnn(left: Tensors) -> Converted:
    """Their front has the taller timbral filter first, and what was pooled as all maxima, then all means."""
    ours = ("cnn.timbral.1", "cnn.timbral.0", "cnn.temporal.0", "cnn.temporal.1", "cnn.temporal.2")
    blocks = [(f"layers.{number}", block) for number, block in enumerate(ours)]
    blocks += [(f"layer{number + 1}", f"cnn.mid.{number}") for number in range(3)]
    state = _norm(left, _TORCH_NORM, "spec_bn", "cnn.norm")
    for theirs, block in blocks:
        state |= _moved(left, {f"{block}.conv.{part}": f"{theirs}.conv.{part}" for part in ("weight", "bias")})
        state |= _norm(left, _TORCH_NORM, f"{theirs}.bn", f"{block}.norm")
    state |= _norm(left, _TORCH_NORM, "bn", "dense.hidden_norm")
    for dense, layer in (("dense.hidden", "dense1"), ("dense.output", "dense2")):
        state |= _moved(left, {f"{dense}.{part}": f"{layer}.{part}" for part in ("weight", "bias")})
    for block in ours[2:]:
        state[f"{block}.conv.weight"] = state[f"{block}.conv.weight"][:, :, None]
    timbral, mid = len(state["cnn.timbral.0.conv.bias"]), len(state["cnn.mid.0.conv.bias"])
    features = np.arange(state["dense.hidden.weight"].shape[1] // 2)
    features[: 2 * timbral] = np.roll(features[: 2 * timbral], timbral)
    front = state["cnn.mid.0.conv.weight"].shape[1]
    state["cnn.mid.0.conv.weight"] = state["cnn.mid.0.conv.weight"][:, features[:front]]
    pooled = np.stack([features, features + len(features)], axis=1).flatten()
    state["dense.hidden.weight"] = state["dense.hidden.weight"][:, pooled]
    config = {
        "n_mels": 96,
        "patch_columns": 188,  # 3 s: 48,000 samples
        "timbral_channels": timbral,
        "temporal_channels": len(state["cnn.temporal.0.conv.bias"]),
        "temporal_steps": [state[f"{block}.conv.weight"].shape[-1] for block in ours[2:]],
        "temporal_bands": "mean",
        "mid_channels": mid,
        "units": len(state["dense.hidden.bias"]),
        "norm_first": True,
        "pooled_norm": False,
        "norm_eps": 1e-5,
    }
    return Converted("musicnn", config, len(state["dense.output.bias"]), _whole(state))


# --- choi: Keras 1, Choi et al. 2017 -----------------------------------------------------------------------------


def _choi(left: Tensors) -> Converted:
    state = _norm(left, _KERAS_NORM, "bn_0_freq", "cnn.input.norm", more=_MORE_EPS)
    for number in range(1, 5):
        bias = left.pop(f"conv{number}_b")
        state |= _moved(left, {f"cnn.block{number}.conv.weight": f"conv{number}_W"})
        state |= _norm(left, _KERAS_NORM, f"bn{number}", f"cnn.block{number}.norm", more=_MORE_EPS, bias=bias)
    for layer, theirs in enumerate(("gru1", "gru2")):
        for ours, part in (("weight_ih", "W"), ("weight_hh", "U"), ("bias", "b")):
            gates = [left.pop(f"{theirs}_{part}_{gate}").T for gate in ("z", "r", "h")]  # update, reset, candidate
            state[f"rnn.layers.{layer}.{ours}"] = np.concatenate(gates)
    state |= {"dense.weight": left.pop("output_W").T, "dense.bias": left.pop("output_b")}
    config = {
        "n_mels": 96,
        "input_norm": "columns",
        "padded_columns": len(state["cnn.input.norm.weight"]),
        "channels": [len(state[f"cnn.block{number}.conv.weight"]) for number in range(1, 5)],
        "pools": [[2, 2], [3, 3], [4, 4], [4, 4]],
        "activation": "elu",
        "conv_dropout": 0.1,
        "gru": "keras1",
        "gru_units": [state[f"rnn.layers.{layer}.weight_hh"].shape[1] for layer in range(2)],
        "dropout": 0.3,
    }
    return Converted("crnn", config, len(state["dense.bias"]), _whole(state))


# --- musicnn: TensorFlow, Pons & Serra 2019 ----------------------------------------------------------------------


def _musicnn(left: Tensors) -> Converted:
    """One of two architectures, told apart by the names of their layers. The optimiser's state is left behind."""
    for name in [name for name in left if name.rpartition("/")[2].startswith(("Adam", "beta1_", "beta2_"))]:
        del left[name]
    return _vgg(left) if "1CNN/kernel" in left else _musicnn_state(left)


_FRONT = ("cnn.timbral.0", "cnn.timbral.1", "cnn.temporal.0", "cnn.temporal.1", "cnn.temporal.2")
_MID = ("cnn.mid.0", "cnn.mid.1", "cnn.mid.2")
_NORMS = ("cnn.norm", *(f"{block}.norm" for block in (*_FRONT, *_MID)), "dense.norm", "dense.hidden_norm")


def _musicnn_state(left: Tensors) -> Converted:
    """TensorFlow numbered the layers in the order they were built, and keeps dense weights as [in, out]."""
    state: Tensors = {}
    for i, norm in enumerate(_NORMS):
        state |= _norm(left, _TF_NORM, _numbered("batch_normalization", i), norm)
    for i, block in enumerate((*_FRONT, *_MID)):
        kernel = _kernel(left, _numbered("conv2d", i))
        # The middle layers see all features as bands of one channel, which is a convolution over time alone.
        state[f"{block}.conv.weight"] = kernel if block in _FRONT else kernel[:, 0]
        state[f"{block}.conv.bias"] = left.pop(f"{_numbered('conv2d', i)}/bias")
    for i, dense in enumerate(("dense.hidden", "dense.output")):
        state[f"{dense}.weight"] = left.pop(f"{_numbered('dense', i)}/kernel").T
        state[f"{dense}.bias"] = left.pop(f"{_numbered('dense', i)}/bias")
    config = {
        "n_mels": 96,
        "patch_columns": 187,
        "timbral_channels": len(state["cnn.timbral.0.conv.bias"]),
        "temporal_channels": len(state["cnn.temporal.0.conv.bias"]),
        "mid_channels": len(state["cnn.mid.0.conv.bias"]),
        "units": len(state["dense.hidden.bias"]),
    }
    return Converted("musicnn", config, len(state["dense.output.bias"]), _whole(state))


def _vgg(left: Tensors) -> Converted:
    """Five convolutions, ReLU before BatchNorm; what is left, [columns, channels] here, is flattened the other way."""
    state = _norm(left, _TF_NORM, "batch_normalization", "cnn.input.norm", more=_MORE_EPS)
    for i in range(1, 6):
        state[f"cnn.block{i}.conv.weight"] = _kernel(left, f"{i}CNN")
        state[f"cnn.block{i}.conv.bias"] = left.pop(f"{i}CNN/bias")
        state |= _norm(left, _TF_NORM, f"batch_normalization_{i}", f"cnn.block{i}.norm", more=_MORE_EPS)
    channels = [len(state[f"cnn.block{i}.conv.bias"]) for i in range(1, 6)]
    dense = left.pop("dense/kernel")
    cells = dense.reshape(-1, channels[-1], dense.shape[1]).transpose(1, 0, 2)
    state |= {"dense.weight": cells.reshape(dense.shape).T, "dense.bias": left.pop("dense/bias")}
    config = {
        "n_mels": 96,
        "patch_columns": 187,
        "channels": channels,
        "pools": [[1, 4], [2, 2], [2, 2], [2, 2], [4, 4]],
        "pool_strides": [[2, 2], [2, 2], [2, 2], [2, 2], [4, 4]],
        "activation": "relu",
        "norm_last": True,
        "dropout": 0.25,
        "leftover": "flatten",
    }
    return Converted("fcn", config, dense.shape[1], _whole(state))


def _kernel(left: Tensors, layer: str) -> npt.NDArray[Any]:
    """TensorFlow's [columns, mel bands, in, out] as [out, in, mel bands, columns]."""
    return left.pop(f"{layer}/kernel").transpose(3, 2, 1, 0)


def _numbered(layer: str, i: int) -> str:
    return f"{layer}_{i}" if i else layer


FORMATS: Mapping[str, tuple[Callable[[Path, str], Tensors], Callable[[Tensors], Converted]]] = {
    "won": (read_torch, _won),
    "choi": (read_keras, _choi),
    "musicnn": (read_tf, _musicnn),
}
"""By format: the file's reader, which raises OSError or ModelError, and what makes a model of the tensors, which it
takes out as it uses them."""
