"""Converters on small random checkpoints: our backbones compute what the authors' layers do."""

from __future__ import annotations

import io
import math
import resource
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_tfcheckpoint import checkpoint
from torch import Tensor, nn

from musictagger.errors import ModelError
from musictagger.models.fuse import fuse
from musictagger.models.published import convert as module
from musictagger.models.published import foreign
from musictagger.models.published.convert import Converted, convert
from musictagger.models.registry import build

TAGS = 5
TORCH_PARTS = ("weight", "bias", "running_mean", "running_var")
TF_PARTS = ("gamma", "beta", "moving_mean", "moving_variance")


def random_norm(width: int) -> list[Tensor]:
    """Weight, bias, mean and variance, weights of both signs, variances small enough for eps to count."""
    return [torch.randn(width), torch.randn(width), torch.randn(width), torch.rand(width) * 0.02 + 0.001]


def batch_norm(x: Tensor, values: list[Tensor], eps: float) -> Tensor:
    weight, bias, mean, variance = values
    return F.batch_norm(x, mean, variance, weight, bias, eps=eps)


def torch_norms(widths: dict[str, int]) -> dict[str, Tensor]:
    """BatchNorms by the name of the layer, as PyTorch stores them."""
    state = {f"{name}.num_batches_tracked": torch.tensor(7) for name in widths}
    for name, width in widths.items():
        state |= {f"{name}.{part}": value for part, value in zip(TORCH_PARTS, random_norm(width), strict=True)}
    return state


def torch_norm(state: dict[str, Tensor], x: Tensor, name: str) -> Tensor:
    return batch_norm(x, [state[f"{name}.{part}"] for part in TORCH_PARTS], 1e-5)


def backbone(converted: Converted) -> nn.Module:
    """The fused backbone with the converted weights."""
    built = build(converted.backbone, converted.n_tags, converted.config)
    built.load_state_dict({name: torch.from_numpy(value) for name, value in converted.tensors.items()})
    return fuse(built)


def close(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, atol=1e-3, rtol=1e-3)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(4)


# --- won ---------------------------------------------------------------------------------------------------------


def won_spec() -> dict[str, Tensor]:
    """The common tensors: the front end, which is ignored, and the norm of the mel bands."""
    state = {"spec.spectrogram.window": torch.zeros(512), "spec.mel_scale.fb": torch.zeros(257, 96)}
    return state | torch_norms({"spec_bn": 1})


def won_stack(widths: list[int]) -> dict[str, Tensor]:
    state = won_spec() | torch_norms({f"layer{number}.bn": width for number, width in enumerate(widths, 1)})
    for number, (before, width) in enumerate(zip([1, *widths], widths, strict=False), 1):
        state |= {f"layer{number}.conv.weight": torch.randn(width, before, 3, 3) / 6}
        state |= {f"layer{number}.conv.bias": torch.randn(width)}
    return state


def won_map(state: dict[str, Tensor], mel: Tensor, pools: list[tuple[int, int]]) -> Tensor:
    x = torch_norm(state, mel[:, None], "spec_bn")
    for number, pool in enumerate(pools, 1):
        conv = F.conv2d(x, state[f"layer{number}.conv.weight"], state[f"layer{number}.conv.bias"], padding=1)
        x = F.max_pool2d(F.relu(torch_norm(state, conv, f"layer{number}.bn")), pool)
    return x


def test_won_fcn(tmp_path: Path) -> None:
    state = won_stack([3, 4, 4, 4, 2]) | {"dense.weight": torch.randn(TAGS, 2), "dense.bias": torch.randn(TAGS)}
    torch.save(state, tmp_path / "fcn.pth")
    converted = convert(tmp_path / "fcn.pth", "won")
    assert (converted.backbone, converted.n_tags) == ("fcn", TAGS)
    mel = torch.randn(2, 96, 1821)
    left = won_map(state, mel, [(2, 4), (2, 4), (2, 4), (3, 5), (4, 4)]).flatten(1)
    close(backbone(converted)(mel).logits, F.linear(left, state["dense.weight"], state["dense.bias"]))


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_won_crnn(tmp_path: Path, layers: int) -> None:
    gru = nn.GRU(4, 3, layers, batch_first=True)
    state = won_stack([3, 4, 4, 4]) | {"dense.weight": torch.randn(TAGS, 3), "dense.bias": torch.randn(TAGS)}
    state |= {f"layer5.{name}": value.detach() for name, value in gru.named_parameters()}
    torch.save(state, tmp_path / "crnn.pth")
    converted = convert(tmp_path / "crnn.pth", "won")
    assert converted.backbone == "crnn"
    mel = torch.randn(2, 96, 1000)
    features = won_map(state, mel, [(2, 2), (3, 3), (4, 4), (4, 4)])[:, :, 0].transpose(1, 2)
    last = gru(features)[0][:, -1]
    close(backbone(converted)(mel).logits, F.linear(last, state["dense.weight"], state["dense.bias"]).detach())


WON_FRONT = [(3, 1, 67, 7), (3, 1, 38, 7), (2, 1, 129), (2, 1, 65), (2, 1, 33)]


def won_musicnn() -> dict[str, Tensor]:
    """Three channels per timbral filter, two per temporal one, four in the middle, five units."""
    state = won_spec()
    for number, shape in enumerate(WON_FRONT):
        state |= {f"layers.{number}.conv.weight": torch.randn(shape) / math.prod(shape[2:]) ** 0.5}
        state |= {f"layers.{number}.conv.bias": torch.randn(shape[0])}
        state |= torch_norms({f"layers.{number}.bn": shape[0]})
    for number, before in enumerate((12, 4, 4), 1):
        state |= {f"layer{number}.conv.weight": torch.randn(4, before, 7) / 90}
        state |= {f"layer{number}.conv.bias": torch.randn(4)}
    state |= torch_norms({"layer1.bn": 4, "layer2.bn": 4, "layer3.bn": 4, "bn": 5})
    state |= {"dense1.weight": torch.randn(5, 48) / 90, "dense1.bias": torch.randn(5)}
    return state | {"dense2.weight": torch.randn(TAGS, 5) / 20, "dense2.bias": torch.randn(TAGS)}


def won_musicnn_scores(state: dict[str, Tensor], mel: Tensor) -> Tensor:
    def layer(name: str, given: Tensor) -> Tensor:
        weight = state[f"{name}.conv.weight"]
        convolve, padding = (F.conv2d, (0, 3)) if weight.dim() == 4 else (F.conv1d, (weight.shape[2] // 2,))
        convolved = convolve(given, weight, state[f"{name}.conv.bias"], padding=padding)
        return F.relu(torch_norm(state, convolved, f"{name}.bn"))

    x = torch_norm(state, mel[:, None], "spec_bn")
    seen = [layer(f"layers.{number}", x).amax(2) for number in (0, 1)]
    front = torch.cat([*seen, *(layer(f"layers.{number}", x.mean(2)) for number in (2, 3, 4))], 1)
    middle = [layer("layer1", front)]
    for name in ("layer2", "layer3"):
        middle.append(layer(name, middle[-1]) + middle[-1])
    features = torch.cat([front, *middle], 1)
    pooled = torch.cat([features.amax(2), features.mean(2)], 1)
    hidden = F.relu(torch_norm(state, F.linear(pooled, state["dense1.weight"], state["dense1.bias"]), "bn"))
    return F.linear(hidden, state["dense2.weight"], state["dense2.bias"])


def test_won_musicnn(tmp_path: Path) -> None:
    state = won_musicnn()
    torch.save(state, tmp_path / "musicnn.pth")
    converted = convert(tmp_path / "musicnn.pth", "won")
    assert (converted.backbone, converted.n_tags) == ("musicnn", TAGS)
    mel = torch.randn(2, 96, 188)
    close(backbone(converted)(mel).logits, won_musicnn_scores(state, mel))


def test_won_parameters_are_read_as_their_values(tmp_path: Path) -> None:
    state = won_musicnn()
    torch.save(state, tmp_path / "plain.pth")
    parameters = {name: nn.Parameter(value) if value.is_floating_point() else value for name, value in state.items()}
    torch.save(parameters, tmp_path / "x.pth")
    one, other = convert(tmp_path / "plain.pth", "won"), convert(tmp_path / "x.pth", "won")
    assert all(np.array_equal(one.tensors[name], other.tensors[name]) for name in one.tensors | other.tensors)


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


def test_without_h5py_the_message_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    (tmp_path / "w.h5").touch()
    monkeypatch.setattr(foreign.importlib, "import_module", missing)  # type: ignore[attr-defined]
    with pytest.raises(ModelError, match=r"needs the package h5py.*uv sync --extra keras.*pip install h5py"):
        convert(tmp_path / "w.h5", "choi")


def test_weights_of_theano_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", **{name.removesuffix(":0"): value for name, value in choi_arrays().items()})
    with pytest.raises(ModelError, match="not written with TensorFlow"):
        convert(tmp_path / "w.npz", "choi")


# --- musicnn -----------------------------------------------------------------------------------------------------

MUSICNN_KERNELS = [(7, 38, 1, 3), (7, 67, 1, 3), (128, 1, 1, 2), (64, 1, 1, 2), (32, 1, 1, 2)]
MUSICNN_KERNELS += [(7, 12, 1, 4), (7, 4, 1, 4), (7, 4, 1, 4)]


def numbered(layer: str, number: int) -> str:
    return f"{layer}_{number}" if number else layer


def tf_norm(name: str, width: int) -> dict[str, Any]:
    return {f"{name}/{part}": value.numpy() for part, value in zip(TF_PARTS, random_norm(width), strict=True)}


def musicnn_arrays(n_tags: int = TAGS) -> dict[str, Any]:
    """Three channels per timbral filter, two per temporal one, four in the middle, five units; equal on every call."""
    torch.manual_seed(5)
    arrays: dict[str, Any] = {"beta1_power": np.zeros((), np.float32)}
    for number, shape in enumerate(MUSICNN_KERNELS):
        name = numbered("conv2d", number)
        kernel = torch.randn(shape) / (200 * math.prod(shape[:3])) ** 0.5
        arrays |= {f"{name}/kernel": kernel.numpy(), f"{name}/kernel/Adam": np.zeros(3, np.float32)}
        arrays[f"{name}/bias"] = (torch.randn(shape[3]) / 10).numpy()
    for number, width in enumerate([1, *(shape[3] for shape in MUSICNN_KERNELS), 48, 5]):
        arrays |= tf_norm(numbered("batch_normalization", number), width)
    for number, (before, after) in enumerate([(48, 5), (5, n_tags)]):
        name = numbered("dense", number)
        arrays |= {f"{name}/kernel": (torch.randn(before, after) / 100).numpy()}
        arrays |= {f"{name}/bias": (torch.randn(after) / 10).numpy()}
    return arrays


def musicnn_scores(arrays: dict[str, Any], mel: Tensor) -> Tensor:
    """The authors' network in TensorFlow's layout: [batch, steps, mel bands], channels last."""
    w = {name: torch.from_numpy(array) for name, array in arrays.items()}

    def norm(x: Tensor, number: int) -> Tensor:
        name = numbered("batch_normalization", number)
        values = [w[f"{name}/{part}"] for part in TF_PARTS]
        return batch_norm(x.movedim(-1, 1), values, 1e-3).movedim(1, -1)

    def layer(x: Tensor, number: int) -> Tensor:
        kernel, bias = w[f"{numbered('conv2d', number)}/kernel"], w[f"{numbered('conv2d', number)}/bias"]
        padded = F.pad(x, (0, 0, (len(kernel) - 1) // 2, len(kernel) // 2))
        convolved = F.conv2d(padded[:, None], kernel.permute(3, 2, 0, 1), bias).movedim(1, -1)
        return norm(F.relu(convolved), number + 1)

    x = norm(mel.transpose(1, 2)[..., None], 0)[..., 0]
    front = torch.cat([layer(x, number).amax(2) for number in range(5)], dim=2)
    middle = [layer(front, 5)[:, :, 0]]
    for number in (6, 7):
        middle.append(layer(middle[-1], number)[:, :, 0] + middle[-1])
    features = torch.cat([front, *middle], dim=2)
    pooled = norm(torch.stack([features.amax(1), features.mean(1)], dim=2).flatten(1), 9)
    hidden = norm(F.relu(pooled @ w["dense/kernel"] + w["dense/bias"]), 10)
    return hidden @ w["dense_1/kernel"] + w["dense_1/bias"]


def put_checkpoint(folder: Path, arrays: dict[str, Any], name: str = "") -> Path:
    """A TensorFlow checkpoint in `folder`; its index."""
    folder.mkdir(exist_ok=True)
    index, data = checkpoint(arrays=arrays)
    (folder / f"{name}.data-00000-of-00001").write_bytes(data)
    (folder / f"{name}.index").write_bytes(index)
    return folder / f"{name}.index"


def test_musicnn_by_its_folder_and_by_its_index(tmp_path: Path) -> None:
    arrays, mel = musicnn_arrays(), torch.randn(2, 96, 187)
    index = put_checkpoint(tmp_path / "MSD_small", arrays)
    for path in (index, index.parent):
        converted = convert(path, "musicnn")
        assert (converted.backbone, converted.n_tags) == ("musicnn", TAGS)
        plain = backbone(converted)
        close(plain(mel).logits, musicnn_scores(arrays, mel))
        with torch.inference_mode():
            close(plain(mel).logits, musicnn_scores(arrays, mel))


def test_a_folder_with_one_checkpoint_of_any_name_is_enough(tmp_path: Path) -> None:
    put_checkpoint(tmp_path, musicnn_arrays(), "model.ckpt-7")
    assert convert(tmp_path, "musicnn").n_tags == TAGS
    put_checkpoint(tmp_path, musicnn_arrays(), "model.ckpt-8")
    with pytest.raises(ModelError, match=r"format musicnn: .* a folder with exactly one such file"):
        convert(tmp_path, "musicnn")


@pytest.mark.parametrize("form", ["won", "choi"])
def test_a_folder_is_refused_where_a_file_is_expected(tmp_path: Path, form: str) -> None:
    with pytest.raises(ModelError, match="is a folder; name the file in it"):
        convert(tmp_path, form)


# --- vgg ---------------------------------------------------------------------------------------------------------


def test_vgg(monkeypatch: pytest.MonkeyPatch) -> None:
    w: dict[str, Any] = {"beta1_power": np.zeros(()), "dense/kernel": torch.randn(2 * 3, TAGS).numpy()}
    w["dense/bias"] = torch.randn(TAGS).numpy()
    for i in range(6):
        w |= tf_norm(numbered("batch_normalization", i), 3 if i else 1)
        if i:
            w |= {f"{i}CNN/kernel": torch.randn(3, 3, 3 if i > 1 else 1, 3).numpy() / 30}
            w |= {f"{i}CNN/bias": torch.randn(3).numpy(), f"{i}CNN/kernel/Adam": np.zeros(3)}
    monkeypatch.setattr(module, "FORMATS", {"musicnn": (lambda *_: dict(w), module.FORMATS["musicnn"][1])})
    converted = convert(Path("vgg"), "musicnn")
    mel = torch.randn(2, 96, 187)

    def norm(x: Tensor, name: str) -> Tensor:
        return batch_norm(x, [torch.from_numpy(w[f"{name}/{part}"]) for part in TF_PARTS], 1e-3)

    x = norm(mel.transpose(1, 2)[:, None], "batch_normalization")  # [batch, 1, columns, mel bands]
    pools = [((4, 1), (2, 2)), *[((2, 2), (2, 2))] * 3, ((4, 4), (4, 4))]
    for i, (pool, stride) in enumerate(pools, 1):
        kernel = torch.from_numpy(w[f"{i}CNN/kernel"]).permute(3, 2, 0, 1)
        x = F.relu(F.conv2d(x, kernel, torch.from_numpy(w[f"{i}CNN/bias"]), padding=1))
        x = F.max_pool2d(norm(x, f"batch_normalization_{i}"), pool, stride)
    flat = x.permute(0, 2, 3, 1).flatten(1)
    expected = flat @ torch.from_numpy(w["dense/kernel"]) + torch.from_numpy(w["dense/bias"])
    close(backbone(converted)(mel).logits, expected)


# --- refusals ----------------------------------------------------------------------------------------------------


def test_a_pickle_that_would_run_code_is_not_read(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return subprocess.call, (["touch", str(tmp_path / "ran")],)

    torch.save({"layer1": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ModelError, match="may run code are refused"):
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
def test_a_file_that_is_not_a_checkpoint_is_refused(tmp_path: Path, stored: object) -> None:
    torch.save(stored, tmp_path / "x.pth")
    with pytest.raises(ModelError, match="of format won") as caught:
        convert(tmp_path / "x.pth", "won")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("values", [torch.zeros(2, dtype=torch.bfloat16), torch.zeros(2).to_sparse()])
@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_tensors_of_an_unsupported_type_are_refused(tmp_path: Path, values: Tensor) -> None:
    torch.save({"dense.bias": values}, tmp_path / "x.pth")
    with pytest.raises(ModelError, match=r"x\.pth: cannot be read as weights of format won: .* of an unsupported"):
        convert(tmp_path / "x.pth", "won")


def test_a_tensor_without_dimensions_is_refused(tmp_path: Path) -> None:
    torch.save(won_musicnn() | {"dense2.bias": torch.tensor(1.0)}, tmp_path / "x.pth")
    with pytest.raises(ModelError, match="is not a valid model of format won"):
        convert(tmp_path / "x.pth", "won")


@pytest.mark.parametrize("form", ["won", "choi", "musicnn"])
@pytest.mark.parametrize("content", [b"", b"no weights at all", b"PK\3\4"])
@pytest.mark.parametrize("suffix", [".npz", ".index"])
def test_any_bytes_are_refused_in_one_line(tmp_path: Path, form: str, content: bytes, suffix: str) -> None:
    if (form, suffix) == ("choi", ".index"):
        pytest.importorskip("h5py")
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    path.with_suffix(".data-00000-of-00001").touch()
    refused(path, form)


def refused(path: Path, form: str) -> None:
    with pytest.raises(ModelError) as caught:
        convert(path, form)
    assert str(caught.value).startswith(f"{path}: ")
    assert f"of format {form}" in str(caught.value) and "\n" not in str(caught.value)


# --- huge claimed sizes, and content other than weights ----------------------------------------------------------


def put_h5(path: Path) -> None:
    """A dataset of 2^45 numbers in a few bytes: HDF5 does not store unwritten values."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file.create_dataset("dense/dense_W:0", (1 << 45,), "f4", chunks=(1 << 20,))


def put_zip(path: Path, member: str = "archive/data.pkl") -> None:
    """600 MB of zeros, compressed to 600 kB."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open(member, "w") as file:
        for _ in range(600):
            file.write(bytes(1_000_000))


def put_npy_header(path: Path) -> None:
    """An array that claims 2^45 numbers and contains none."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 45,)})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("output_W:0.npy", header.getvalue())


def test_a_file_that_claims_to_be_huge_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    expanded = won_stack([3, 4, 4, 4, 2]) | {"dense.weight": torch.zeros(1).expand(1 << 20, 1 << 20)}
    torch.save(expanded, tmp_path / "expanded.pth")
    put_zip(tmp_path / "bomb.pth")
    put_zip(tmp_path / "bomb.npz", "x.npy")
    put_h5(tmp_path / "huge.h5")
    put_npy_header(tmp_path / "huge.npz")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(ModelError, match=r"claims to hold .* MB|Unable to allocate"):
            convert(path, "won" if path.suffix == ".pth" else "choi")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_sizes_with_a_huge_product_are_refused(tmp_path: Path) -> None:
    state = won_stack([3, 4, 4, 4, 2]) | {"dense.weight": torch.randn(TAGS, 2), "dense.bias": torch.randn(TAGS)}
    state |= {"layer1.bn.running_mean": torch.zeros(100_000, 1), "layer1.conv.bias": torch.zeros(1, 100_000)}
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(ModelError, match=r"layer1.bn has means of shape \(100000, 1\)"):
        convert(tmp_path / "x.pth", "won")


def test_content_that_does_not_fit_into_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(left: foreign.Tensors) -> Converted:
        raise MemoryError

    torch.save({"dense.bias": torch.zeros(2)}, tmp_path / "x.pth")
    monkeypatch.setattr(module, "FORMATS", {"won": (foreign.read_torch, greedy)})
    with pytest.raises(ModelError, match="MemoryError"):
        convert(tmp_path / "x.pth", "won")


def test_complex_numbers_are_refused(tmp_path: Path) -> None:
    torch.save({"dense.bias": torch.zeros(2, dtype=torch.complex64)}, tmp_path / "x.pth")
    with pytest.raises(ModelError, match=r"dense.bias holds values of an unsupported type \(complex64\)"):
        convert(tmp_path / "x.pth", "won")


def test_pickled_objects_in_an_npz_are_refused_without_advice_to_read_them(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **{"output_W:0": np.array([{}], object)})  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="that may run code are refused") as caught:
        convert(tmp_path / "x.npz", "choi")
    assert "allow_pickle" not in str(caught.value)


def test_control_sequences_in_names_are_not_printed(tmp_path: Path) -> None:
    state = won_stack([3, 4, 4, 4, 2]) | {"dense.weight": torch.randn(TAGS, 2), "dense.bias": torch.randn(TAGS)}
    torch.save(state | {"\x1b[31m" + 1000 * "x": torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(ModelError) as caught:
        convert(tmp_path / "x.pth", "won")
    assert str(caught.value).isprintable() and len(str(caught.value)) < len(str(tmp_path)) + 200


def test_a_device_file_is_refused() -> None:
    with pytest.raises(ModelError, match="is not a file"):
        convert(Path("/dev/zero"), "won")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["zip", "pickle", "npz"])
def test_damage_is_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    """Truncate a file, or change a byte, anywhere: the readers raise a dozen different errors."""
    stored, path, random = io.BytesIO(), tmp_path / "x.npz", np.random.default_rng(2)
    if kind == "npz":
        np.savez_compressed(stored, **{"conv1/conv1_W_1:0": random.random(50)})  # type: ignore[arg-type]
    else:
        torch.save({"dense.bias": torch.zeros(3)}, stored, _use_new_zipfile_serialization=kind == "zip")
    whole = stored.getvalue()
    for at in range(0, len(whole), 7):
        flipped = bytes([whole[at] ^ int(random.integers(1, 256))])
        for content in (whole[:at], whole[:at] + flipped + whole[at + 1 :]):
            path.write_bytes(content)
            refused(path, "choi" if kind == "npz" else "won")
