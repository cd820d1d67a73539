"""The shared layers: their inputs and outputs, and the values they refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from musictagger.errors import ModelError
from musictagger.models.layers import PATCHES_AT_ONCE, ConvBlock, MelInput, affine, conv_stack, map_size, over_patches


def test_mel_input_pads_both_sides_and_an_odd_column_on_the_right() -> None:
    mel = torch.ones(2, 3, 5)
    padded = MelInput(3, norm=False, padded_columns=10)(mel)
    assert padded.shape == (2, 1, 3, 10)
    assert padded[0, 0, 0].tolist() == [0, 0, 1, 1, 1, 1, 1, 0, 0, 0]


@pytest.mark.parametrize("padded_columns", [None, 4, 5])
def test_mel_input_does_not_pad_long_inputs(padded_columns: int | None) -> None:
    mel = torch.randn(2, 3, 5)
    assert torch.equal(MelInput(3, norm=False, padded_columns=padded_columns)(mel), mel.unsqueeze(1))


def test_mel_input_pads_after_normalising() -> None:
    mel = torch.randn(4, 3, 6) * 20 - 40
    padded = MelInput(3, padded_columns=8)(mel).detach()
    assert torch.equal(padded[..., [0, 7]], torch.zeros(4, 1, 3, 2))
    assert padded[..., 1:7].mean().abs() < 1e-4
    assert padded[..., 1:7].std(correction=0) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("shape", [(2, 4, 5), (2, 1, 3, 5), (3, 5)])
def test_mel_input_refuses_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="3 mel bands"):
        MelInput(3)(torch.zeros(shape))


def test_block_is_convolution_norm_activation_pool_in_this_order() -> None:
    block = ConvBlock(1, 1, kernel=(1, 1), pool=(1, 2)).eval()
    assert block.norm is not None
    torch.nn.init.constant_(block.conv.weight, -2.0)
    torch.nn.init.constant_(block.norm.bias, 1.0)
    block.norm.running_mean, block.norm.running_var = torch.tensor([4.0]), torch.tensor([4.0 - block.norm.eps])
    given = torch.tensor([[[[1.0, 2.0, -3.0, -4.0]]]])
    normalised = (-2 * given - 4) / 2 + 1
    expected = torch.nn.functional.elu(normalised).reshape(2, 2).amax(1)
    torch.testing.assert_close(block(given).flatten(), expected)


def test_convolution_has_a_bias_only_without_batch_norm() -> None:
    assert ConvBlock(1, 2).conv.bias is None
    assert ConvBlock(1, 2, batch_norm=False).conv.bias is not None
    assert ConvBlock(1, 2, batch_norm=False).norm is None


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (9, 11)),
        ({"pool": [2, 4]}, (4, 2)),
        ({"pool": [2, 4], "ceil": True}, (5, 3)),
        ({"kernel": [1, 5]}, (9, 11)),
        ({"kernel": [9, 1], "padding": "valid"}, (1, 11)),
        ({"activation": "relu", "dropout": 0.5}, (9, 11)),
        ({"pool": [1, 4], "stride": [2, 2]}, (5, 4)),
    ],
)
def test_block_output_size(options: dict[str, Any], expected: tuple[int, int]) -> None:
    assert ConvBlock(1, 2, **options)(torch.randn(2, 1, 9, 11)).shape == (2, 2, *expected)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"activation": "gelu"}, "activation must be one of elu, relu, not 'gelu'"),
        ({"activation": ["elu"]}, "activation"),
        ({"padding": "full"}, "'full'"),
        ({"pool": [2]}, r"pool must be a list of 2 whole numbers, not \[2\]"),
        ({"pool": [0, 2]}, r"pool must be a list of 2 whole numbers, not \[0, 2\]"),
        ({"pool": 2}, "pool must be a list of 2 whole numbers, not 2"),
        ({"kernel": [3, 3.0]}, "3.0"),
        ({"kernel": [True, 3]}, "True"),
        ({"dropout": 1}, "dropout"),
        ({"stride": [2, 2]}, "stride"),
        ({"pool": [2, 2], "stride": [2, 2], "ceil": True}, "stride"),
        ({"pool": [2, 2], "stride": [2]}, r"stride must be a list of 2 whole numbers, not \[2\]"),
        ({"dropout": "some"}, "dropout must be a number from 0 to below 1, not 'some'"),
        ({"dilation": 2}, "the convolution has unknown fields: dilation"),
    ],
)
def test_block_refuses(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ModelError, match=text):
        ConvBlock(1, 2, **options)


def test_block_refuses_inputs_smaller_than_its_pool() -> None:
    with pytest.raises(ModelError, match=r"4 x 3 .* cannot be pooled by 2 x 4"):
        ConvBlock(1, 2, pool=(2, 4))(torch.zeros(1, 1, 4, 3))


@pytest.mark.parametrize(
    ("channels", "pools", "text"),
    [
        ([], [], "channels must have at least one number"),
        ([4, 8], [[2, 2]], "each of the 2 channels"),
        ([4, -8], [[2, 2], [2, 2]], r"channels\[1\] must be a whole number of at least 1, not -8"),
        (4, [[2, 2]], "channels must be a list of whole numbers, not 4"),
        ([4], "no", "pools must be a list of lists, not 'no'"),
        ([4], [[2]], r"pools\[0\] must be a list of 2 whole numbers, not \[2\]"),
        ([4], [[0, 2]], r"pools\[0\]\[0\] must be a whole number of at least 1, not 0"),
    ],
)
def test_stack_refuses(channels: Any, pools: Any, text: str) -> None:
    with pytest.raises(ModelError, match=text):
        conv_stack(channels, pools)


def test_norm_last_comes_after_activation_and_before_pool() -> None:
    block = ConvBlock(1, 2, pool=[2, 2], norm_last=True, activation="relu").eval()
    assert block.conv.bias is not None and block.norm is not None and block.norm.running_mean is not None
    block.norm.weight.data = torch.tensor([1.0, -1.0])
    torch.nn.init.normal_(block.norm.running_mean)
    x = torch.randn(2, 1, 6, 6)
    expected = torch.nn.functional.max_pool2d(block.norm(torch.relu(block.conv(x))), 2)
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize(("ceil", "expected"), [(False, (6, 5)), (True, (6, 6))])
def test_map_size_is_the_output_size_of_the_blocks(ceil: bool, expected: tuple[int, int]) -> None:
    blocks = conv_stack((1,) * 4, ((2, 4),) * 4, ceil=ceil)
    assert map_size(96, 1366, blocks) == expected
    assert torch.nn.Sequential(*blocks)(torch.randn(1, 1, 96, 1366)).shape[2:] == expected


def test_patches_are_scored_in_one_batch_in_training_and_in_small_batches_otherwise() -> None:
    seen: list[int] = []

    def scored(patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(len(patches))
        return patches[:, :, 0], patches[:, 0]

    mel = torch.randn(4, 3, 20)
    with torch.no_grad():
        in_parts = over_patches(mel, 4, scored, training=False)
        assert seen == [PATCHES_AT_ONCE, 20 - PATCHES_AT_ONCE]
        whole = over_patches(mel, 4, scored, training=True)
    over_patches(mel, 4, scored, training=False)
    assert seen[2:] == [20, 20]
    assert torch.equal(in_parts.logits, whole.logits) and torch.equal(in_parts.embedding, whole.embedding)


def test_scale_and_shift_equal_a_batch_norm() -> None:
    norm = torch.nn.BatchNorm2d(3, eps=0.5).eval()
    assert norm.running_mean is not None and norm.running_var is not None
    for values in (norm.weight.data, norm.bias.data, norm.running_mean):
        torch.nn.init.normal_(values)
    torch.nn.init.uniform_(norm.running_var)
    x = torch.randn(2, 3, 4, 5)
    scale, shift = affine(norm, torch.float64)
    torch.testing.assert_close(norm(x).double(), x * scale[:, None, None] + shift[:, None, None], atol=1e-5, rtol=1e-5)
