"""Converters on small random checkpoints: what the authors' layers do, written out, is what our backbones do."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from musictagger.errors import ModelError
from musictagger.models import convert as module
from musictagger.models.convert import Converted, convert
from musictagger.models.fuse import fuse
from musictagger.models.registry import build

TAGS = 5


def random_norm(width: int) -> list[Tensor]:
    """Weight, bias, mean and variance, weights of both signs, variances small enough for eps to count."""
    return [torch.randn(width), torch.randn(width), torch.randn(width), torch.rand(width) * 0.02 + 0.001]


def batch_norm(x: Tensor, values: list[Tensor], eps: float) -> Tensor:
    weight, bias, mean, variance = values
    return F.batch_norm(x, mean, variance, weight, bias, eps=eps)


def backbone(converted: Converted) -> nn.Module:
    """The fused backbone that holds it."""
    built = build(converted.backbone, converted.n_tags, converted.config)
    built.load_state_dict({name: torch.from_numpy(value) for name, value in converted.tensors.items()})
    return fuse(built)


def close(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, atol=1e-3, rtol=1e-3)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(4)


# --- won ---------------------------------------------------------------------------------------------------------


def won_stack(widths: list[int]) -> dict[str, Tensor]:
    state = {"spec.spectrogram.window": torch.zeros(512), "spec.mel_scale.fb": torch.zeros(257, 96)}
    norms = [("spec_bn", 1)]
    for number, (before, width) in enumerate(zip([1, *widths], widths, strict=False), 1):
        state |= {f"layer{number}.conv.weight": torch.randn(width, before, 3, 3) / 6}
        state |= {f"layer{number}.conv.bias": torch.randn(width)}
        norms.append((f"layer{number}.bn", width))
    for name, width in norms:
        parts = ("weight", "bias", "running_mean", "running_var")
        state |= {f"{name}.{part}": value for part, value in zip(parts, random_norm(width), strict=True)}
        state[f"{name}.num_batches_tracked"] = torch.tensor(7)
    return state


def won_map(state: dict[str, Tensor], mel: Tensor, pools: list[tuple[int, int]]) -> Tensor:
    def norm(x: Tensor, name: str) -> Tensor:
        parts = ("weight", "bias", "running_mean", "running_var")
        return batch_norm(x, [state[f"{name}.{part}"] for part in parts], 1e-5)

    x = norm(mel[:, None], "spec_bn")
    for number, pool in enumerate(pools, 1):
        conv = F.conv2d(x, state[f"layer{number}.conv.weight"], state[f"layer{number}.conv.bias"], padding=1)
        x = F.max_pool2d(F.relu(norm(conv, f"layer{number}.bn")), pool)
    return x


def test_won_fcn(tmp_path: Path) -> None:
    state = won_stack([3, 4, 4, 4, 2]) | {"dense.weight": torch.randn(TAGS, 2), "dense.bias": torch.randn(TAGS)}
    torch.save(state, tmp_path / "fcn.pth")
    converted = convert(tmp_path / "fcn.pth", "won")
    assert (converted.backbone, converted.n_tags) == ("fcn", TAGS)
    mel = torch.randn(2, 96, 1821)
    left = won_map(state, mel, [(2, 4), (2, 4), (2, 4), (3, 5), (4, 4)]).flatten(1)
    close(backbone(converted)(mel).logits, F.linear(left, state["dense.weight"], state["dense.bias"]))


def test_won_crnn(tmp_path: Path) -> None:
    gru = nn.GRU(4, 3, 2, batch_first=True)
    state = won_stack([3, 4, 4, 4]) | {"dense.weight": torch.randn(TAGS, 3), "dense.bias": torch.randn(TAGS)}
    state |= {f"layer5.{name}": value.detach() for name, value in gru.named_parameters()}
    torch.save(state, tmp_path / "crnn.pth")
    converted = convert(tmp_path / "crnn.pth", "won")
    assert converted.backbone == "crnn"
    mel = torch.randn(2, 96, 1000)
    features = won_map(state, mel, [(2, 2), (3, 3), (4, 4), (4, 4)])[:, :, 0].transpose(1, 2)
    last = gru(features)[0][:, -1]
    close(backbone(converted)(mel).logits, F.linear(last, state["dense.weight"], state["dense.bias"]).detach())


# --- choi --------------------------------------------------------------------------------------------------------


def choi_arrays() -> dict[str, Any]:
    widths, arrays = [3, 4, 4, 4], {}
    norms = [("bn_0_freq", 1440), *((f"bn{i}", width) for i, width in enumerate(widths, 1))]
    for name, width in norms:
        for part, value in zip(("gamma", "beta", "running_mean", "running_std"), random_norm(width), strict=True):
            arrays[f"{name}/{name}_{part}_1:0"] = value
    for i, (before, width) in enumerate(zip([1, *widths], widths, strict=False), 1):
        arrays |= {f"conv{i}/conv{i}_W_1:0": torch.randn(width, before, 3, 3) / 60}
        arrays[f"conv{i}/conv{i}_b_1:0"] = torch.randn(width)
    for name, before in (("gru1", 4), ("gru2", 2)):
        for gate in "zrh":
            arrays[f"{name}/{name}_W_{gate}:0"] = torch.randn(before, 2) / 20
            arrays[f"{name}/{name}_U_{gate}:0"] = torch.randn(2, 2)
            arrays[f"{name}/{name}_b_{gate}:0"] = torch.randn(2)
    arrays |= {"output/output_W_1:0": torch.randn(2, TAGS), "output/output_b_1:0": torch.randn(TAGS)}
    return {name: np.asarray(value) for name, value in arrays.items()}


def choi_scores(arrays: dict[str, Any], mel: Tensor) -> Tensor:
    w = {
        name.rpartition("/")[2].removesuffix(":0").removesuffix("_1"): torch.from_numpy(arrays[name]) for name in arrays
    }

    def norm(x: Tensor, name: str) -> Tensor:
        return batch_norm(x, [w[f"{name}_{p}"] for p in ("gamma", "beta", "running_mean", "running_std")], 1e-3)

    x = norm(F.pad(mel, (37, 37)).transpose(1, 2), "bn_0_freq").transpose(1, 2)[:, None]
    for i, pool in enumerate((2, 3, 4, 4), 1):
        x = F.max_pool2d(F.elu(norm(F.conv2d(x, w[f"conv{i}_W"], w[f"conv{i}_b"], padding=1), f"bn{i}")), pool)
    steps = x[:, :, 0].transpose(1, 2)
    for name in ("gru1", "gru2"):
        state, states = torch.zeros(len(mel), 2), []
        for given in steps.unbind(1):
            gate = {g: given @ w[f"{name}_W_{g}"] + w[f"{name}_b_{g}"] for g in "zrh"}
            z, r = ((0.2 * (gate[g] + state @ w[f"{name}_U_{g}"]) + 0.5).clamp(0, 1) for g in "zr")
            state = z * state + (1 - z) * torch.tanh(gate["h"] + (r * state) @ w[f"{name}_U_h"])
            states.append(state)
        steps = torch.stack(states, 1)
    return steps[:, -1] @ w["output_W"] + w["output_b"]


def test_choi_from_an_npz(tmp_path: Path) -> None:
    arrays = choi_arrays()
    np.savez(tmp_path / "w.npz", **arrays)
    converted = convert(tmp_path / "w.npz", "choi")
    assert converted.backbone == "crnn"
    mel = torch.randn(2, 96, 1366)
    close(backbone(converted)(mel).logits, choi_scores(arrays, mel))


def test_choi_from_hdf5_is_the_same(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    arrays = choi_arrays()
    with h5py.File(tmp_path / "w.h5", "w") as file:
        for name, value in arrays.items():
            file[name] = value
    np.savez(tmp_path / "w.npz", **arrays)
    one, other = convert(tmp_path / "w.h5", "choi"), convert(tmp_path / "w.npz", "choi")
    assert one.config == other.config
    assert all(np.array_equal(one.tensors[name], other.tensors[name]) for name in one.tensors | other.tensors)


def test_without_h5py_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(module.importlib, "import_module", missing)  # type: ignore[attr-defined]
    with pytest.raises(ModelError, match=r"needs h5py.*pip install h5py"):
        convert(tmp_path / "w.h5", "choi")


def test_weights_of_theano_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", **{name.removesuffix(":0"): value for name, value in choi_arrays().items()})
    with pytest.raises(ModelError, match="not written with TensorFlow"):
        convert(tmp_path / "w.npz", "choi")


# --- vgg ---------------------------------------------------------------------------------------------------------


def test_vgg(monkeypatch: pytest.MonkeyPatch) -> None:
    w: dict[str, Any] = {"beta1_power": np.zeros(()), "dense/kernel": torch.randn(2 * 3, TAGS).numpy()}
    w["dense/bias"] = torch.randn(TAGS).numpy()
    for i in range(6):
        name = f"batch_normalization_{i}" if i else "batch_normalization"
        for part, value in zip(
            ("gamma", "beta", "moving_mean", "moving_variance"), random_norm(3 if i else 1), strict=True
        ):
            w[f"{name}/{part}"] = value.numpy()
        if i:
            w |= {f"{i}CNN/kernel": torch.randn(3, 3, 3 if i > 1 else 1, 3).numpy() / 30}
            w |= {f"{i}CNN/bias": torch.randn(3).numpy(), f"{i}CNN/kernel/Adam": np.zeros(3)}
    monkeypatch.setattr(module, "FORMATS", {"musicnn": (lambda *_: dict(w), module.FORMATS["musicnn"][1])})
    converted = convert(Path("vgg"), "musicnn")
    mel = torch.randn(2, 96, 187)

    def norm(x: Tensor, name: str) -> Tensor:
        parts = ("gamma", "beta", "moving_mean", "moving_variance")
        return batch_norm(x, [torch.from_numpy(w[f"{name}/{part}"]) for part in parts], 1e-3)

    x = norm(mel.transpose(1, 2)[:, None], "batch_normalization")  # [batch, 1, columns, mel bands]
    pools = [((4, 1), (2, 2)), *[((2, 2), (2, 2))] * 3, ((4, 4), (4, 4))]
    for i, (pool, stride) in enumerate(pools, 1):
        kernel = torch.from_numpy(w[f"{i}CNN/kernel"]).permute(3, 2, 0, 1)
        x = F.relu(F.conv2d(x, kernel, torch.from_numpy(w[f"{i}CNN/bias"]), padding=1))
        x = F.max_pool2d(norm(x, f"batch_normalization_{i}"), pool, stride)
    flat = x.permute(0, 2, 3, 1).flatten(1)
    expected = flat @ torch.from_numpy(w["dense/kernel"]) + torch.from_numpy(w["dense/bias"])
    close(backbone(converted)(mel).logits, expected)


# --- what is refused ---------------------------------------------------------------------------------------------


def test_a_pickle_that_would_run_code_is_not_read(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return subprocess.call, (["touch", str(tmp_path / "ran")],)

    torch.save({"layer1": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ModelError, match="may run code is not read"):
        convert(tmp_path / "evil.pth", "won")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"layer6.conv.bias": torch.zeros(1)}, "another architecture .* it has layer6.conv.bias"),
        ({"spec.mel_scale.fb": torch.zeros(257, 128)}, "96 mel bands"),
    ],
)
def test_another_architecture_is_refused(tmp_path: Path, changes: dict[str, Tensor], reason: str) -> None:
    state = won_stack([3, 4, 4, 4, 2]) | {"dense.weight": torch.randn(TAGS, 2), "dense.bias": torch.randn(TAGS)}
    torch.save(state | changes, tmp_path / "x.pth")
    with pytest.raises(ModelError, match=reason):
        convert(tmp_path / "x.pth", "won")


@pytest.mark.parametrize("stored", [[1, 2], {"a": 1}, {"dense.bias": torch.zeros(2)}])
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, stored: object) -> None:
    torch.save(stored, tmp_path / "x.pth")
    with pytest.raises(ModelError, match="of format won") as caught:
        convert(tmp_path / "x.pth", "won")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("form", ["won", "choi", "musicnn"])
@pytest.mark.parametrize("content", [b"", b"no weights at all", b"PK\3\4"])
def test_any_bytes_are_refused_in_one_line(tmp_path: Path, form: str, content: bytes) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=f"weights of format {form}") as caught:
        convert(path, form)
    assert "\n" not in str(caught.value)
