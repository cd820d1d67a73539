"""FCN in its three published sizes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from musictagger.errors import ModelError

FILE = Path(__file__).parents[1] / "plugins" / "fcn.py"
SPEC = importlib.util.spec_from_file_location("plugin_fcn", FILE)
assert SPEC is not None
assert SPEC.loader is not None
plugin = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(plugin)

FCN_4: dict[str, Any] = {
    "channels": [128, 384, 768, 2048],
    "pools": [[2, 4], [4, 5], [3, 8], [4, 8]],
    "dropout": 0.5,
}
FCN_3: dict[str, Any] = {
    "n_mels": 128,
    "columns": 628,
    "channels": [128, 256, 512],
    "pools": [[3, 4], [4, 5], [5, 6]],
    "activation": "relu",
    "batch_norm": False,
    "input_norm": False,
    "leftover": "flatten",
}
VGG: dict[str, Any] = {
    "patch_columns": 187,
    "channels": [128] * 5,
    "pools": [[1, 4], [2, 2], [2, 2], [2, 2], [4, 4]],
    "pool_strides": [[2, 2], [2, 2], [2, 2], [2, 2], [4, 4]],
    "activation": "relu",
    "norm_last": True,
    "dropout": 0.25,
    "leftover": "flatten",
}
SMALL: dict[str, Any] = {"channels": [4, 4], "pools": [[8, 4], [12, 5]]}


def fcn(n_tags: int = 50, **config: Any) -> Any:
    torch.manual_seed(3)
    return plugin.FCN(n_tags, **config)


def map_shapes(model: nn.Module, *shape: int) -> list[tuple[int, ...]]:
    """Output shape, without the batch, of every layer of `cnn`."""
    seen: list[tuple[int, ...]] = []
    for child in model.get_submodule("cnn").children():
        child.register_forward_hook(lambda _m, _i, out: seen.append(tuple(out.shape[1:])))
    with torch.no_grad():
        model.eval()(torch.randn(shape))
    return seen


def test_shapes_of_fcn_5() -> None:
    assert map_shapes(fcn(), 1, 96, 1366) == [
        (1, 96, 1366),
        (32, 48, 341),
        (128, 24, 85),
        (128, 12, 21),
        (192, 4, 4),
        (256, 1, 1),
    ]


def test_shapes_of_fcn_4() -> None:
    assert map_shapes(fcn(**FCN_4), 1, 96, 1366) == [
        (1, 96, 1366),
        (128, 48, 341),
        (384, 12, 68),
        (768, 4, 8),
        (2048, 1, 1),
    ]


def test_shapes_of_fcn_3() -> None:
    assert map_shapes(fcn(**FCN_3), 1, 128, 628) == [(1, 128, 628), (128, 42, 157), (256, 10, 31), (512, 2, 5)]


def test_shapes_of_vgg() -> None:
    shapes = map_shapes(fcn(**VGG), 1, 96, 187)
    assert shapes == [(1, 96, 187), (128, 48, 92), (128, 24, 46), (128, 12, 23), (128, 6, 11), (128, 1, 2)]


def test_patches_are_scored_alone_and_their_scores_averaged() -> None:
    model = fcn(**SMALL, patch_columns=40).eval()
    mel = torch.randn(2, 96, 95)
    whole = model(mel)
    parts = [fcn(**SMALL) for _ in range(2)]
    for part in parts:
        part.load_state_dict(model.state_dict())
    each = [part.eval()(mel[:, :, start : start + 40]) for part, start in zip(parts, (0, 40), strict=True)]
    torch.testing.assert_close(whole.logits.sigmoid(), sum(out.logits.sigmoid() for out in each) / 2)
    torch.testing.assert_close(whole.embedding, sum(out.embedding for out in each) / 2)
    with torch.inference_mode():
        torch.testing.assert_close(model(mel).logits, whole.logits)


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_parameters_add_up() -> None:
    convolutions = 9 * (1 * 32 + 32 * 128 + 128 * 128 + 128 * 192 + 192 * 256)
    assert count(fcn()) == convolutions + 2 * (1 + 32 + 128 + 128 + 192 + 256) + 256 * 50 + 50 == 862_484
    convolutions = 9 * (1 * 128 + 128 * 384 + 384 * 768 + 768 * 2048)
    assert count(fcn(**FCN_4)) == convolutions + 2 * (1 + 128 + 384 + 768 + 2048) + 2048 * 50 + 50
    convolutions = 9 * (1 * 128 + 128 * 256 + 256 * 512) + 128 + 256 + 512
    assert count(fcn(**FCN_3)) == convolutions + 512 * 2 * 5 * 50 + 50


def test_every_parameter_lies_in_cnn_or_dense() -> None:
    assert {name.split(".")[0] for name, _ in fcn().named_parameters()} == {"cnn", "dense"}


def test_dropout_follows_every_pool_of_fcn_4() -> None:
    assert [m.p for m in fcn(**FCN_4).cnn.modules() if isinstance(m, nn.Dropout)] == [0.5] * 4


def test_output_and_embedding() -> None:
    model = fcn(7).eval()
    with torch.no_grad():
        logits, embedding = model(torch.randn(2, 96, 1366))
        assert embedding.shape == (2, 256)
        torch.testing.assert_close(logits, model.dense(embedding))


def test_leftover_changes_nothing_where_one_cell_is_left() -> None:
    mel = torch.randn(2, 96, 39)
    mean = fcn(**SMALL).eval()
    for other in (fcn(**SMALL, leftover="max"), fcn(**SMALL, leftover="flatten", columns=39)):
        other.load_state_dict(mean.state_dict())
        assert torch.equal(mean(mel).logits, other.eval()(mel).logits)


@pytest.mark.parametrize(("leftover", "reduce"), [("mean", torch.mean), ("max", torch.amax)])
def test_leftover_of_a_long_input(leftover: str, reduce: Any) -> None:
    model, mel = fcn(**SMALL, leftover=leftover).eval(), torch.randn(2, 96, 130)
    cells = model.cnn(mel)
    assert cells.shape == (2, 4, 1, 6)
    torch.testing.assert_close(model(mel).embedding, reduce(cells, dim=(2, 3)))


def test_a_frame_scores_the_same_alone_and_in_a_batch() -> None:
    model, mel = fcn().eval(), torch.randn(3, 96, 1366)
    with torch.no_grad():
        torch.testing.assert_close(model(mel[1:2]).logits[0], model(mel).logits[1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("config", [{}, {"batch_norm": False, "activation": "relu"}])
def test_a_training_step_lowers_the_loss_and_reaches_every_parameter(config: dict[str, Any]) -> None:
    model = fcn(5, channels=[8, 16, 16], pools=[[4, 4], [4, 4], [6, 4]], **config).train()
    mel, truth = torch.randn(4, 96, 128) * 20 - 40, torch.eye(5)[:4]
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    before = F.binary_cross_entropy_with_logits(model(mel).logits, truth)
    before.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    optimiser.step()
    assert F.binary_cross_entropy_with_logits(model(mel).logits, truth) < before


@pytest.mark.parametrize(
    "config",
    [
        {"n_tags": -1},
        {"channels": [32]},
        {"pools": [[2, 4]] * 4 + [[2, 0]]},
        {"activation": None},
        {"dropout": 2},
        {"leftover": "median"},
        {"leftover": "flatten"},
        {"n_mels": 64},
        {"columns": 100},
        {"columns": 0},
        {"columns": "many"},
        {"patch_columns": 0},
        {"patch_columns": 100},
        {"pool_strides": [[2, 4]]},
        {"pool_strides": [[2, 4]] * 4 + [[2, 0]]},
    ],
)
def test_invalid_configurations_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ModelError):
        fcn(**config)


def test_an_input_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ModelError, match="96 mel bands"):
        fcn()(torch.randn(1, 128, 1366))
    with pytest.raises(ModelError, match="too short"):
        fcn()(torch.randn(1, 96, 1000))
    with pytest.raises(ModelError, match="628 mel columns, not 600"):
        fcn(**FCN_3)(torch.randn(1, 128, 600))
