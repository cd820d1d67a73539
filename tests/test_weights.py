"""Saving and loading trained models, and every error of their files."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import mine_card, plugin_folder
from torch import Tensor

from musictagger.errors import ModelError
from musictagger.models.card import sha256_of
from musictagger.models.registry import build
from musictagger.models.weights import Model, load_model, save_weights


def tensors() -> dict[str, Tensor]:
    torch.manual_seed(3)
    return {"dense.weight": torch.randn(9, 96), "dense.bias": torch.randn(9)}


def save(folder: Path, values: dict[str, Tensor] | None = None, **changes: Any) -> Path:
    weights = folder / "small.safetensors"
    digest = save_weights(tensors() if values is None else values, weights)
    mine_card(**({"weights_sha256": digest} | changes)).save(weights.with_suffix(".json"))
    return weights


def load(weights: Path, folder: Path) -> Model:
    return load_model(weights, [plugin_folder(folder)])


def test_a_model_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    model = load(save(tmp_path), tmp_path)
    assert model.card.name == "small"
    assert not model.backbone.training
    assert not any(parameter.requires_grad for parameter in model.backbone.parameters())
    state = model.backbone.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in tensors().items())


def test_the_digest_is_that_of_the_file(tmp_path: Path) -> None:
    weights = tmp_path / "new" / "folder" / "a.safetensors"
    digest = save_weights(tensors(), weights)
    assert digest == sha256_of(weights) == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert [path.name for path in weights.parent.iterdir()] == ["a.safetensors"]


def test_the_same_tensors_give_the_same_file(tmp_path: Path) -> None:
    turned = dict(reversed(tensors().items()))
    assert save_weights(tensors(), tmp_path / "a") == save_weights(turned, tmp_path / "b")


def test_views_and_gradients_are_saved_as_plain_tensors(tmp_path: Path) -> None:
    values = tensors()
    values["dense.weight"] = values["dense.weight"].T.contiguous().T.requires_grad_()
    model = load(save(tmp_path, values), tmp_path)
    assert torch.equal(model.backbone.state_dict()["dense.weight"], tensors()["dense.weight"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_become_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    narrow = {name: tensor.to(dtype) for name, tensor in tensors().items()}
    state = load(save(tmp_path, narrow), tmp_path).backbone.state_dict()
    for name, tensor in narrow.items():
        assert state[name].dtype == torch.float32
        assert torch.equal(state[name], tensor.float())


def test_the_example_of_a_bundled_backbone(tmp_path: Path) -> None:
    config = {"gru_units": [4, 4], "channels": [4, 4, 4, 4]}
    backbone = build("crnn", 9, config)
    weights = tmp_path / "small.safetensors"
    digest = save_weights(backbone.state_dict(), weights)
    mine_card(backbone="crnn", config=config, weights_sha256=digest).save(weights.with_suffix(".json"))
    mel = torch.randn(1, 96, 1366)
    torch.testing.assert_close(load_model(weights).backbone(mel), backbone.eval()(mel))


def test_another_file_under_the_name_is_refused(tmp_path: Path) -> None:
    weights = save(tmp_path)
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ModelError, match=r"small\.safetensors: is not the file its card describes"):
        load(weights, tmp_path)


def test_a_missing_card_is_named(tmp_path: Path) -> None:
    weights = save(tmp_path)
    weights.with_suffix(".json").unlink()
    with pytest.raises(ModelError, match=r"small\.json: not a readable model card"):
        load(weights, tmp_path)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    weights = save(tmp_path)
    weights.unlink()
    with pytest.raises(ModelError, match=r"small\.safetensors: cannot be read: No such file"):
        load(weights, tmp_path)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (
            {"dense.weight": torch.zeros(9, 5), "dense.bias": torch.zeros(9)},
            "dense.weight is 9 x 5 instead of 9 x 96",
        ),
        ({"dense.weight": torch.zeros(9, 96)}, "dense.bias is missing"),
        (tensors() | {"rnn.weight": torch.zeros(1)}, "the backbone has no tensor rnn.weight"),
    ],
)
def test_weights_of_another_shape_are_refused(values: dict[str, Tensor], reason: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"does not fit backbone mine: {reason}$"):
        load(save(tmp_path, values), tmp_path)


def test_a_file_in_another_format_is_refused(tmp_path: Path) -> None:
    weights = tmp_path / "small.safetensors"
    weights.write_bytes(b"not weights")
    mine_card(weights_sha256=sha256_of(weights)).save(weights.with_suffix(".json"))
    with pytest.raises(ModelError, match=r"small\.safetensors: does not fit backbone mine"):
        load(weights, tmp_path)


def test_an_unknown_backbone_and_an_invalid_configuration_give_readable_messages(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no backbone 'gru'"):
        load(save(tmp_path, backbone="gru"), tmp_path)
    with pytest.raises(ModelError, match="does not take this configuration"):
        load(save(tmp_path, config={"colour": 1}), tmp_path)


def test_a_location_that_cannot_be_written_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ModelError, match="cannot be written"):
        save_weights(tensors(), tmp_path / "file" / "a.safetensors")
    (tmp_path / "a.safetensors").mkdir()
    with pytest.raises(ModelError, match="cannot be written"):
        save_weights(tensors(), tmp_path / "a.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "file"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value: float, tmp_path: Path) -> None:
    damaged = tensors()
    damaged["dense.bias"][4] = value
    with pytest.raises(ModelError, match=r"dense.bias holds values that are not finite"):
        load_model(save(tmp_path, damaged), [plugin_folder(tmp_path)])
