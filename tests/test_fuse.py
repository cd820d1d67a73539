"""The fused copy computes the same, in channels-last memory, and keeps unknown modules."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from musictagger.errors import ModelError
from musictagger.models import fuse as fuse_module
from musictagger.models.backbone import Backbone, Output
from musictagger.models.fuse import FusedConvBlock, channels_last, fuse
from musictagger.models.layers import ConvBlock, MelInput

PLUGINS = Path(__file__).parents[1] / "plugins"
FCN_3 = {
    "n_mels": 128,
    "columns": 628,
    "channels": [128, 256, 512],
    "pools": [[3, 4], [4, 5], [5, 6]],
    "activation": "relu",
    "batch_norm": False,
    "input_norm": False,
    "leftover": "flatten",
}
VGG = {
    "patch_columns": 90,
    "channels": [8] * 5,
    "pools": [[1, 4], [2, 2], [2, 2], [2, 2], [4, 4]],
    "pool_strides": [[2, 2], [2, 2], [2, 2], [2, 2], [4, 4]],
    "activation": "relu",
    "norm_last": True,
}
CASES = [
    ("crnn", "CRNN", {}, (96, 1366)),
    ("crnn", "CRNN", {"padded_columns": None, "activation": "relu"}, (96, 500)),
    ("crnn_tf", "CRNNTF", {}, (96, 1366)),
    ("crnn_tf", "CRNNTF", {"scans": ["D_c"]}, (96, 333)),
    ("fcn", "FCN", {}, (96, 1366)),
    ("fcn", "FCN", {"leftover": "max"}, (96, 2800)),
    ("fcn", "FCN", FCN_3, (128, 628)),
    ("fcn", "FCN", VGG, (96, 300)),
    ("crnn", "CRNN", {"input_norm": "columns", "gru": "keras1"}, (96, 1366)),
]


def load(file: str, cls: str) -> Callable[..., Backbone]:
    spec = importlib.util.spec_from_file_location(f"plugin_{file}", PLUGINS / f"{file}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Callable[..., Backbone] = getattr(module, cls)
    return found


def shaken(module: nn.Module) -> nn.Module:
    """`module` in eval mode, with random statistics and weights in every BatchNorm, some scales negative."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            norm.weight.data *= torch.randn_like(norm.weight).sign()
            nn.init.normal_(norm.bias)
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.3, 3)
    return module.eval()


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    torch.manual_seed(7)
    with torch.no_grad():
        yield


@pytest.mark.parametrize(("file", "cls", "config", "shape"), CASES)
def test_every_backbone_fused_equals_itself(
    file: str, cls: str, config: dict[str, Any], shape: tuple[int, int]
) -> None:
    plain = shaken(load(file, cls)(10, **config))
    fused = fuse(plain)
    mel = torch.randn(2, *shape)
    for expected, got in zip(plain(mel), fused(mel), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
    assert not any(type(module) is ConvBlock for module in fused.modules())
    assert sum(isinstance(module, FusedConvBlock) for module in fused.modules()) >= 3


def test_a_negative_scale_reverses_the_order() -> None:
    block = shaken(ConvBlock(1, 8, pool=(2, 2)))
    x = torch.randn(2, 1, 8, 8)
    assert (block.norm.weight < 0).any()  # type: ignore[union-attr, operator]
    torch.testing.assert_close(fuse(block)(x), block(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("strip_bytes", [1, 1000, 5000, 10**9])
@pytest.mark.parametrize(
    "options",
    [
        {"pool": [2, 4]},
        {"pool": [2, 4], "ceil": True},
        {"pool": [3, 5], "padding": "valid", "kernel": [4, 3]},
        {"pool": [13, 1]},
        {"pool": None, "kernel": [5, 1]},
        {"pool": [4, 3], "ceil": True, "batch_norm": False, "activation": "relu", "kernel": [2, 4]},
        {"pool": [1, 4], "stride": [2, 2], "norm_last": True, "activation": "relu"},
        {"pool": [3, 3], "stride": [2, 1], "norm_last": True, "padding": "valid"},
    ],
)
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_strips_equal_the_whole(options: dict[str, Any], strip_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuse_module, "WHOLE_BYTES", 0)
    monkeypatch.setattr(fuse_module, "STRIP_BYTES", strip_bytes)
    for channels, rows in ((1, 13), (3, 16), (3, 17)):
        block = shaken(ConvBlock(channels, 4, **options))
        x = torch.randn(3, channels, rows, 21)
        got = fuse(block)(x)
        torch.testing.assert_close(got, block(x), atol=1e-5, rtol=1e-5)
        assert got.is_contiguous(memory_format=torch.channels_last)


def test_strips_also_refuse_a_map_smaller_than_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuse_module, "WHOLE_BYTES", 0)
    for rows, columns in ((4, 9), (9, 4)):
        with pytest.raises(ModelError, match="too short"):
            fuse(ConvBlock(1, 2, pool=(5, 5)))(torch.zeros(1, 1, rows, columns))


@pytest.mark.parametrize("file", ["crnn CRNN", "crnn_tf CRNNTF", "fcn FCN"])
def test_every_map_is_channels_last(file: str) -> None:
    fused = fuse(load(*file.split())(10))
    seen: list[bool] = []
    for module in fused.modules():
        if isinstance(module, FusedConvBlock):
            module.register_forward_hook(
                lambda _m, _i, out: seen.append(out.is_contiguous(memory_format=torch.channels_last))
            )
    fused(torch.randn(2, 96, 1366))
    assert len(seen) >= 4
    assert all(seen)


@pytest.mark.parametrize("shape", [(2, 1, 4, 5), (1, 1, 4, 5), (2, 3, 4, 5)])
def test_channels_last_strides_are_explicit_for_one_channel(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    assert torch.equal(channels_last(x), x)
    assert channels_last(x).stride() == (shape[1] * 20, 1, shape[1] * 5, shape[1])


class Stranger(Backbone):
    """A backbone with other layers, and one ConvBlock used twice."""

    name = "stranger"

    def __init__(self, blocks: bool) -> None:
        super().__init__()
        block = ConvBlock(1, 1) if blocks else nn.Identity()
        self.cnn = nn.Sequential(MelInput(4), block, nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.Dropout(0.5))
        self.again = block
        self.dense = nn.Linear(3, 2)

    def forward(self, features: Tensor) -> Output:
        embedding = self.cnn(features).mean((2, 3)) + self.again(features.unsqueeze(1)).mean()
        return Output(self.dense(embedding), embedding)


@pytest.mark.parametrize("blocks", [False, True])
def test_unknown_modules_are_unchanged(blocks: bool) -> None:
    plain = shaken(Stranger(blocks))
    fused = fuse(plain)
    mel = torch.randn(3, 4, 6)
    torch.testing.assert_close(fused(mel).logits, plain(mel).logits, atol=1e-5, rtol=1e-5)
    assert isinstance(fused, Stranger)
    assert type(fused.cnn[2]) is nn.Conv2d
    assert torch.equal(fused.cnn[2].weight, plain.cnn[2].weight)  # type: ignore[union-attr, index]
    assert fused.again is fused.cnn[1]


def test_the_original_is_untouched() -> None:
    plain = load("fcn", "FCN")(10)
    before = copy.deepcopy(plain.state_dict())
    fused = fuse(plain)
    assert plain.training
    assert not fused.training
    assert all(parameter.requires_grad for parameter in plain.parameters())
    assert not any(parameter.requires_grad for parameter in fused.parameters())
    assert all(torch.equal(value, before[key]) for key, value in plain.state_dict().items())
