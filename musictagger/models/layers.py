"""Layers shared by backbones: the input from a log-mel batch, and conv -> BatchNorm -> activation -> pool.

`musictagger.models.fuse` makes `ConvBlock` fast for inference; backbones built from it need no changes for that.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from msgspec import Meta
from torch import Tensor, nn

from musictagger.errors import ModelError
from musictagger.models.backbone import Output
from musictagger.values import Count, check_arguments, load

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"elu": F.elu, "relu": F.relu}
"""All are monotone, as they must be: max-pooling comes before the activation."""

PATCHES_AT_ONCE = 12
"""Patches in one batch without gradients: under 0.1 GB for musicnn. On two cores 9 to 18 are within 3 % of each other;
4 and 36 are slower."""


Size = tuple[Count, Count]
"""(mel bands, columns)"""

Fraction = Annotated[float, Meta(ge=0, lt=1)]


def pooled(size: int, pool: int, *, ceil: bool, stride: int | None = None) -> int:
    """Length of an axis of `size` cells after max-pooling with windows of `pool` cells; `stride` None means `pool`."""
    if ceil:
        return -(-size // pool)
    return max(0, (size - pool) // (stride or pool) + 1)


class MelInput(nn.Module):
    """The input of a CNN: log-mel [batch, n_mels, columns] -> one image channel [batch, 1, n_mels, columns].

    norm: True normalises all values by one running mean and deviation (BatchNorm2d(1)). Decibels lie around -40 with a
        deviation of 20; without this the first convolution trains slowly. "columns" normalises each of
        `padded_columns` by its own mean and deviation, the padding included, as Choi's code does.
    padded_columns: zero columns are added on both sides (one more on the right if the number is odd) up to this
        number; longer inputs are left unchanged. The padding follows the normalisation, so that zeros are the average
        level, whereas 0 dB would be a burst of noise; with norm "columns" it precedes it.
    Raises ModelError for an input that is not a batch of `n_mels` bands.
    """

    def __init__(self, n_mels: Count, *, norm: bool | str = True, padded_columns: Count | None = None) -> None:
        super().__init__()
        check_arguments(MelInput.__init__, locals(), ModelError)
        self.n_mels = n_mels
        self.padded_columns = padded_columns or 0
        if norm not in {True, False, "columns"}:
            raise ModelError(f'input_norm must be true, false or "columns", not {norm!r}')
        self.by_column = norm == "columns"
        if self.by_column and not self.padded_columns:
            raise ModelError('input_norm "columns" needs padded_columns: the number of columns that have a norm')
        self.norm: nn.Module = nn.BatchNorm2d(1) if norm else nn.Identity()
        if self.by_column:
            self.norm = nn.BatchNorm1d(self.padded_columns)

    def forward(self, mel: Tensor) -> Tensor:
        if mel.dim() != 3 or mel.shape[1] != self.n_mels:
            raise ModelError(
                f"this backbone reads [batch, {self.n_mels} mel bands, columns], not {list(mel.shape)}: "
                "n_mels must equal the number of mel bands of the front end"
            )
        if not self.by_column:
            return self._padded(self.norm(mel.unsqueeze(1)))
        if mel.shape[2] > self.padded_columns:
            raise ModelError(f"this backbone reads at most {self.padded_columns} mel columns, not {mel.shape[2]}")
        normed: Tensor = self.norm(self._padded(mel).transpose(1, 2))
        return normed.transpose(1, 2).unsqueeze(1)

    def _padded(self, x: Tensor) -> Tensor:
        missing = max(0, self.padded_columns - x.shape[-1])
        return F.pad(x, (missing // 2, missing - missing // 2)) if missing else x


@dataclass(frozen=True)
class ConvOptions:
    """The options of a ConvBlock.

    kernel: (mel bands, columns). padding: "same" (zeros; output as large as the input) or "valid".
    pool: window, None for none. stride: of the pool, None for the size of its window.
    ceil: also pool a last window that is not full. activation: "elu" (alpha 1) or "relu".
    batch_norm: only without it the convolution has a bias, which BatchNorm would cancel.
    norm_last: BatchNorm after the activation instead of before it; the convolution then has a bias.
    """

    kernel: Size = (3, 3)
    pool: Size | None = None
    stride: Size | None = None
    padding: Literal["same", "valid"] = "same"
    ceil: bool = False
    activation: Literal["elu", "relu"] = "elu"
    batch_norm: bool = True
    norm_last: bool = False
    dropout: Fraction = 0.0


class ConvBlock(nn.Module):
    """Convolution -> BatchNorm -> activation -> max-pool -> dropout on [batch, channels, mel bands, columns].

    `options` are the fields of ConvOptions. Raises ModelError for an invalid value, and for an input that is smaller
    than one pooling window.
    """

    def __init__(self, in_channels: int, out_channels: int, **options: Any) -> None:
        super().__init__()
        chosen: ConvOptions = load(options, ConvOptions, "the convolution", ModelError)
        if chosen.stride is not None and (chosen.pool is None or chosen.ceil):
            raise ModelError("a stride needs a pool, and one without ceil")
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            chosen.kernel,
            padding=chosen.padding,
            bias=chosen.norm_last or not chosen.batch_norm,
        )
        self.norm = nn.BatchNorm2d(out_channels) if chosen.batch_norm else None
        self.norm_last = chosen.norm_last and chosen.batch_norm
        self.activation = chosen.activation
        self.pool = chosen.pool
        self.stride = chosen.stride or chosen.pool
        self.ceil = chosen.ceil
        self.dropout = nn.Dropout(chosen.dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        activate = ACTIVATIONS[self.activation]
        if self.norm is not None and self.norm_last:
            return self.dropout(self._pooled(self.norm(activate(x))))  # type: ignore[no-any-return]
        if self.norm is not None:
            x = self.norm(x)
        # Pooling before a monotone activation gives the same result, and the activation has an eighth of the values to
        # compute: a training step of FCN takes 0.55, one of CRNN-TF 0.78 of the time.
        return self.dropout(activate(self._pooled(x)))  # type: ignore[no-any-return]

    def _pooled(self, x: Tensor) -> Tensor:
        return max_pool(x, self.pool, stride=self.stride, ceil=self.ceil)


def max_pool(
    x: Tensor, pool: tuple[int, int] | None, *, stride: tuple[int, int] | None = None, ceil: bool = False
) -> Tensor:
    """Max-pool `x` with windows of `pool` = (mel bands, columns); `stride` None means `pool`.

    Raises ModelError if the input is smaller than one window.
    """
    if pool is None:
        return x
    if not ceil and (x.shape[2] < pool[0] or x.shape[3] < pool[1]):
        raise ModelError(
            f"the input is too short for this backbone: a map of {x.shape[2]} x {x.shape[3]} "
            f"(mel bands x columns) cannot be pooled by {pool[0]} x {pool[1]}"
        )
    return F.max_pool2d(x, pool, stride, ceil_mode=ceil)


def conv_stack(
    channels: tuple[Count, ...],
    pools: tuple[Size, ...],
    *,
    pool_strides: tuple[Size, ...] | None = None,
    **options: Any,
) -> list[ConvBlock]:
    """One ConvBlock for each of `channels`, with its pool and stride; `options` are the other fields of ConvOptions.

    Raises ModelError for invalid values.
    """
    check_arguments(conv_stack, locals(), ModelError)
    if not channels:
        raise ModelError("channels must have at least one number")
    for name, values in (("pools", pools), ("pool_strides", pool_strides)):
        if values is not None and len(values) != len(channels):
            raise ModelError(
                f"{name} must be a list with one pair for each of the {len(channels)} channels, not {values!r}"
            )
    inputs, strides = (1, *channels[:-1]), pool_strides or (None,) * len(channels)
    return [
        ConvBlock(before, width, pool=pool, stride=stride, **options)
        for before, width, pool, stride in zip(inputs, channels, pools, strides, strict=True)
    ]


def stacked(entrance: MelInput, blocks: Sequence[ConvBlock]) -> nn.Sequential:
    """`entrance`, then `blocks`; in weights on disk their names are input, block1, block2 and so on."""
    layers: list[tuple[str, nn.Module]] = [("input", entrance)]
    return nn.Sequential(OrderedDict([*layers, *((f"block{number}", block) for number, block in enumerate(blocks, 1))]))


def affine(norm: nn.BatchNorm2d, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """BatchNorm in evaluation mode as scale [channels] and shift [channels], computed in `dtype`, without gradients."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.detach().to(dtype) / (norm.running_var.to(dtype) + norm.eps).sqrt()
    return scale, norm.bias.detach().to(dtype) - norm.running_mean.to(dtype) * scale


def map_size(n_mels: int, columns: int, blocks: Sequence[ConvBlock]) -> tuple[int, int]:
    """Size (mel bands, columns) of the output of `blocks` with "same" padding; 0 where nothing is left."""
    rows = n_mels
    for block in blocks:
        pool, stride = block.pool or (1, 1), block.stride or (1, 1)
        rows = pooled(rows, pool[0], ceil=block.ceil, stride=stride[0])
        columns = pooled(columns, pool[1], ceil=block.ceil, stride=stride[1])
    return rows, columns


def cut(mel: Tensor, columns: int) -> Tensor:
    """Frames [batch, n_mels, any] -> consecutive patches [batch, patches, n_mels, columns], at least one per frame.

    Columns after the last whole patch are dropped; a frame shorter than a patch is repeated.
    """
    if mel.shape[-1] < columns:
        mel = mel.repeat(1, 1, -(-columns // mel.shape[-1]))
    return mel.unfold(2, columns, columns).transpose(1, 2)


def mean_score_logits(logits: Tensor) -> Tensor:
    """Patch logits [batch, patches, tags] -> the logits [batch, tags] whose sigmoid is the mean patch score.

    In log space, since a score of 1 - 1e-9 is 1 in float32, whose logit is infinite.
    """
    return F.logsigmoid(logits).logsumexp(1) - F.logsigmoid(-logits).logsumexp(1)


def over_patches(mel: Tensor, columns: int, scored: Callable[[Tensor], Sequence[Tensor]], *, training: bool) -> Output:
    """Predict frames from their patches: the mean of their scores, and the mean of their embeddings.

    mel: [batch, n_mels, any], cut into patches of `columns`. scored: patches [n, n_mels, columns] -> logits [n, tags]
    and embeddings [n, dim]. training: score all patches in one batch, as BatchNorm and gradients then need.
    """
    patches = cut(mel, columns)
    flat = patches.flatten(0, 1)
    at_once = len(flat) if training or torch.is_grad_enabled() else PATCHES_AT_ONCE
    batches = [scored(batch) for batch in torch.split(flat, max(at_once, 1))]
    logits, embedding = (torch.cat(found).view(*patches.shape[:2], -1) for found in zip(*batches, strict=True))
    return Output(mean_score_logits(logits), embedding.mean(1))
