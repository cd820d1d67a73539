"""Convert published weights, in their authors' formats, into models of our backbones.

A file is converted in two steps: into tensors under the authors' names (published.foreign), then to our names, axes and
conventions. The backbone's configuration follows from the shapes. The conversion is exact: numbers change their order,
and BatchNorm's constants absorb parameters that our layers do not have.
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
    """A converted model: the backbone with its configuration, the number of outputs, and the state dict."""

    backbone: str
    config: Mapping[str, Any]
    n_tags: int
    tensors: Tensors


def convert(file: Path, form: str, inside: str = "") -> Converted:
    """The model in `file`, of format `form` (a key of FORMATS); `inside` is its folder within a wheel.

    Raises ModelError where the file is of another format, is damaged, or holds another architecture.
    """
    read, model = FORMATS[form]
    if file.is_dir() and read is not read_tf:
        raise ModelError(f"{printable(file)}: is a folder; name the file in it")
    if file.exists() and not file.is_dir() and not file.is_file():
        raise ModelError(f"{printable(file)}: is not a file")
    try:
        tensors = read(file, inside)
        _check(tensors)
    except (OSError, ModelError) as error:
        raise _refused(file, f"cannot be read as weights of format {form}", reason_of(error)) from error
    try:
        converted = model(tensors)
    except (KeyError, ValueError, IndexError, TypeError, MemoryError) as error:
        # In this order: a missing name, a wrong size, a missing dimension, a scalar, and sizes whose product is huge.
        reason = f"{error} is missing" if isinstance(error, KeyError) else reason_of(error)
        raise _refused(file, f"is not a valid model of format {form}", reason) from error
    if tensors:
        left = ", ".join(map(clipped, sorted(tensors)[:3]))
        raise _refused(file, f"has another architecture than the models of format {form}", f"it has {left}")
    return converted


def _refused(file: Path, what: str, reason: str) -> ModelError:
    # Names in a file may contain anything, even control sequences of terminals.
    return ModelError(f"{printable(file)}: {what}: {printable(reason)}")


def _check(tensors: Tensors) -> None:
    """Raise ModelError for tensors that cannot be weights. A broadcast tensor may claim a million values of one."""
    check_size(sum(tensor.nbytes for tensor in tensors.values()))
    for name, tensor in tensors.items():
        if tensor.dtype.kind not in "biuf" or not tensor.dtype.isnative:
            raise ModelError(f"{clipped(name)} holds values of an unsupported type ({tensor.dtype})")


_OUR_NORM = ("weight", "bias", "running_mean", "running_var")
_TORCH_NORM = tuple(f"{{}}.{part}" for part in _OUR_NORM)
_TF_NORM = ("{}/gamma", "{}/beta", "{}/moving_mean", "{}/moving_variance")
_KERAS_NORM = ("{}_gamma", "{}_beta", "{}_running_mean", "{}_running_std")
"""The names of BatchNorm's four tensors of a layer in each format. Keras 1 calls its variance a deviation."""

_MORE_EPS = 1e-3 - 1e-5
"""TensorFlow and Keras add 1e-3 to a variance, torch 1e-5: a variance increased by the difference is equivalent."""

Array = npt.NDArray[Any]


def _norm(
    left: Tensors, parts: Sequence[str], theirs: str, ours: str, *, more: float = 0.0, bias: Array | None = None
) -> Tensors:
    """BatchNorm `theirs`, taken out of `left`, as `ours`.

    more: added to the variance. bias: that of the preceding convolution, which ours lacks; the mean absorbs it.
    """
    weight, shift, mean, variance = (left.pop(part.format(theirs)) for part in parts)
    if mean.ndim != 1 or (bias is not None and bias.shape != mean.shape):
        raise ValueError(f"{theirs} has means of shape {mean.shape}")
    mean = mean.astype(np.float64) - (0.0 if bias is None else bias)
    variance = variance.astype(np.float64) + more
    values = (weight, shift, mean.astype(np.float32), variance.astype(np.float32))
    state = {f"{ours}.{part}": value for part, value in zip(_OUR_NORM, values, strict=True)}
    return state | {f"{ours}.num_batches_tracked": np.zeros((), np.int64)}


def _layer(left: Tensors, theirs: str, ours: str, parts: Sequence[str] = ("weight", "bias")) -> Tensors:
    """The tensors of a torch layer, taken out of `left`, under our name."""
    return {f"{ours}.{part}": left.pop(f"{theirs}.{part}") for part in parts}


def _converted(backbone: str, state: Tensors, output: str = "dense", **config: Any) -> Converted:
    """A model whose output layer is called `output`. Tensors are copied into C order, as safetensors requires."""
    whole = {name: np.array(tensor, order="C") for name, tensor in state.items()}
    return Converted(backbone, {"n_mels": 96} | config, len(whole[f"{output}.bias"]), whole)


# --- won: PyTorch, Won et al. 2020 -------------------------------------------------------------------------------


def _won(left: Tensors) -> Converted:
    """One of three architectures, recognised by the names of their layers."""
    for name in [name for name in left if name.endswith("num_batches_tracked")]:
        del left[name]
    left.pop("spec.spectrogram.window")
    if left.pop("spec.mel_scale.fb").shape != (257, 96):
        raise ValueError("its front end does not have 96 mel bands of 257 frequencies")
    if "layers.0.conv.weight" in left:
        return _won_musicnn(left)
    return _won_crnn(left) if "layer5.weight_ih_l0" in left else _won_fcn(left)


def _won_stack(left: Tensors, blocks: int) -> tuple[Tensors, list[int]]:
    """Input norm, convolutions and dense layer, and the number of channels of each convolution."""
    state = _norm(left, _TORCH_NORM, "spec_bn", "cnn.input.norm")
    channels = []
    for number in range(1, blocks + 1):
        bias = left.pop(f"layer{number}.conv.bias")
        state |= _layer(left, f"layer{number}.conv", f"cnn.block{number}.conv", ["weight"])
        state |= _norm(left, _TORCH_NORM, f"layer{number}.bn", f"cnn.block{number}.norm", bias=bias)
        channels.append(len(bias))
    return state | _layer(left, "dense", "dense"), channels


def _won_fcn(left: Tensors) -> Converted:
    state, channels = _won_stack(left, 5)
    pools = [[2, 4], [2, 4], [2, 4], [3, 5], [4, 4]]
    return _converted("fcn", state, channels=channels, pools=pools, activation="relu", dropout=0.0)


def _won_crnn(left: Tensors) -> Converted:
    state, channels = _won_stack(left, 4)
    units: list[int] = []
    while f"layer5.weight_ih_l{len(units)}" in left:
        layer = len(units)
        for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            state[f"rnn.layers.{layer}.{part}_l0"] = left.pop(f"layer5.{part}_l{layer}")
        units.append(state[f"rnn.layers.{layer}.weight_hh_l0"].shape[1])
    return _converted(
        "crnn",
        state,
        padded_columns=None,
        channels=channels,
        pools=[[2, 2], [3, 3], [4, 4], [4, 4]],
        activation="relu",
        conv_dropout=0.0,
        gru_units=units,
        dropout=0.5,
    )


def _won_musicnn(left: Tensors) -> Converted:
    """Their front has the taller timbral filter first; their pooled features are all maxima, then all means."""
    ours = ("cnn.timbral.1", "cnn.timbral.0", "cnn.temporal.0", "cnn.temporal.1", "cnn.temporal.2")
    blocks = [(f"layers.{number}", block) for number, block in enumerate(ours)]
    blocks += [(f"layer{number + 1}", f"cnn.mid.{number}") for number in range(3)]
    state = _norm(left, _TORCH_NORM, "spec_bn", "cnn.norm") | _norm(left, _TORCH_NORM, "bn", "dense.hidden_norm")
    for theirs, block in blocks:
        state |= _layer(left, f"{theirs}.conv", f"{block}.conv") | _norm(
            left, _TORCH_NORM, f"{theirs}.bn", f"{block}.norm"
        )
    state |= _layer(left, "dense1", "dense.hidden") | _layer(left, "dense2", "dense.output")
    for block in ours[2:]:
        state[f"{block}.conv.weight"] = state[f"{block}.conv.weight"][:, :, None]
    timbral = len(state["cnn.timbral.0.conv.bias"])
    features = np.arange(state["dense.hidden.weight"].shape[1] // 2)
    features[: 2 * timbral] = np.roll(features[: 2 * timbral], timbral)
    front = state["cnn.mid.0.conv.weight"].shape[1]
    state["cnn.mid.0.conv.weight"] = state["cnn.mid.0.conv.weight"][:, features[:front]]
    pooled = np.stack([features, features + len(features)], axis=1).flatten()
    state["dense.hidden.weight"] = state["dense.hidden.weight"][:, pooled]
    return _converted(
        "musicnn",
        state,
        "dense.output",
        patch_columns=188,  # 3 s: 48,000 samples
        temporal_steps=[state[f"{block}.conv.weight"].shape[-1] for block in ours[2:]],
        temporal_bands="mean",
        norm_first=True,
        pooled_norm=False,
        norm_eps=1e-5,
        **_musicnn_sizes(state),
    )


def _musicnn_sizes(state: Tensors) -> dict[str, int]:
    return {
        "timbral_channels": len(state["cnn.timbral.0.conv.bias"]),
        "temporal_channels": len(state["cnn.temporal.0.conv.bias"]),
        "mid_channels": len(state["cnn.mid.0.conv.bias"]),
        "units": len(state["dense.hidden.bias"]),
    }


# --- choi: Keras 1, Choi et al. 2017 -----------------------------------------------------------------------------


def _choi(left: Tensors) -> Converted:
    state = _norm(left, _KERAS_NORM, "bn_0_freq", "cnn.input.norm", more=_MORE_EPS)
    for number in range(1, 5):
        bias = left.pop(f"conv{number}_b")
        state[f"cnn.block{number}.conv.weight"] = left.pop(f"conv{number}_W")
        state |= _norm(left, _KERAS_NORM, f"bn{number}", f"cnn.block{number}.norm", more=_MORE_EPS, bias=bias)
    for layer, theirs in enumerate(("gru1", "gru2")):
        for ours, part in (("weight_ih", "W"), ("weight_hh", "U"), ("bias", "b")):
            gates = [left.pop(f"{theirs}_{part}_{gate}").T for gate in ("z", "r", "h")]  # update, reset, candidate
            state[f"rnn.layers.{layer}.{ours}"] = np.concatenate(gates)
    state |= {"dense.weight": left.pop("output_W").T, "dense.bias": left.pop("output_b")}
    return _converted(
        "crnn",
        state,
        input_norm="columns",
        padded_columns=len(state["cnn.input.norm.weight"]),
        channels=[len(state[f"cnn.block{number}.conv.weight"]) for number in range(1, 5)],
        pools=[[2, 2], [3, 3], [4, 4], [4, 4]],
        activation="elu",
        conv_dropout=0.1,
        gru="keras1",
        gru_units=[state[f"rnn.layers.{layer}.weight_hh"].shape[1] for layer in range(2)],
        dropout=0.3,
    )


# --- musicnn: TensorFlow, Pons & Serra 2019 ----------------------------------------------------------------------


def _musicnn(left: Tensors) -> Converted:
    """One of two architectures, recognised by the names of their layers. The optimiser's state is dropped."""
    for name in [name for name in left if name.rpartition("/")[2].startswith(("Adam", "beta1_", "beta2_"))]:
        del left[name]
    return _vgg(left) if "1CNN/kernel" in left else _pons_musicnn(left)


_FRONT = ("cnn.timbral.0", "cnn.timbral.1", "cnn.temporal.0", "cnn.temporal.1", "cnn.temporal.2")
_MID = ("cnn.mid.0", "cnn.mid.1", "cnn.mid.2")
_NORMS = ("cnn.norm", *(f"{block}.norm" for block in (*_FRONT, *_MID)), "dense.norm", "dense.hidden_norm")


def _pons_musicnn(left: Tensors) -> Converted:
    """TensorFlow numbered the layers in the order of their creation, and stores dense weights as [in, out]."""
    state: Tensors = {}
    for i, norm in enumerate(_NORMS):
        state |= _norm(left, _TF_NORM, _numbered("batch_normalization", i), norm)
    for i, block in enumerate((*_FRONT, *_MID)):
        kernel = _kernel(left, _numbered("conv2d", i))
        # The middle layers treat all features as bands of one channel, which is a convolution over time alone.
        state[f"{block}.conv.weight"] = kernel if block in _FRONT else kernel[:, 0]
        state[f"{block}.conv.bias"] = left.pop(f"{_numbered('conv2d', i)}/bias")
    for i, dense in enumerate(("dense.hidden", "dense.output")):
        state[f"{dense}.weight"] = left.pop(f"{_numbered('dense', i)}/kernel").T
        state[f"{dense}.bias"] = left.pop(f"{_numbered('dense', i)}/bias")
    return _converted("musicnn", state, "dense.output", patch_columns=187, **_musicnn_sizes(state))


def _vgg(left: Tensors) -> Converted:
    """Five convolutions, ReLU before BatchNorm. The last map, [columns, channels] here, is flattened the other way."""
    state = _norm(left, _TF_NORM, "batch_normalization", "cnn.input.norm", more=_MORE_EPS)
    for i in range(1, 6):
        state[f"cnn.block{i}.conv.weight"] = _kernel(left, f"{i}CNN")
        state[f"cnn.block{i}.conv.bias"] = left.pop(f"{i}CNN/bias")
        state |= _norm(left, _TF_NORM, f"batch_normalization_{i}", f"cnn.block{i}.norm", more=_MORE_EPS)
    channels = [len(state[f"cnn.block{i}.conv.bias"]) for i in range(1, 6)]
    dense = left.pop("dense/kernel")
    cells = dense.reshape(-1, channels[-1], dense.shape[1]).transpose(1, 0, 2)
    state |= {"dense.weight": cells.reshape(dense.shape).T, "dense.bias": left.pop("dense/bias")}
    return _converted(
        "fcn",
        state,
        patch_columns=187,
        channels=channels,
        pools=[[1, 4], [2, 2], [2, 2], [2, 2], [4, 4]],
        pool_strides=[[2, 2], [2, 2], [2, 2], [2, 2], [4, 4]],
        activation="relu",
        norm_last=True,
        dropout=0.25,
        leftover="flatten",
    )


def _kernel(left: Tensors, layer: str) -> Array:
    """TensorFlow's [columns, mel bands, in, out] as [out, in, mel bands, columns]."""
    return left.pop(f"{layer}/kernel").transpose(3, 2, 1, 0)


def _numbered(layer: str, i: int) -> str:
    return f"{layer}_{i}" if i else layer


FORMATS: Mapping[str, tuple[Callable[[Path, str], Tensors], Callable[[Tensors], Converted]]] = {
    "won": (read_torch, _won),
    "choi": (read_keras, _choi),
    "musicnn": (read_tf, _musicnn),
}
"""By format: the reader of the file, which raises OSError or ModelError, and the converter of the tensors, which takes
out those that it uses."""
