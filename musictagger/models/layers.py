"""The layers backbones share: the way in from a log-mel batch, and conv -> BatchNorm -> activation -> pool.

`musictagger.models.fuse` knows `ConvBlock` and makes it fast for inference; a backbone that uses it gets that for free.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from musictagger.errors import ModelError
from musictagger.models.backbone import Output

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"elu": F.elu, "relu": F.relu}
"""All of them monotone, and they must stay so: `fuse` pools before the activation."""

PATCHES_AT_ONCE = 12
"""Patches in one go without gradients: under 0.1 GB for musicnn, where 9 to 18 are within 3 % of it on two cores, and 4
and 36 slower."""


def whole(value: object, what: str, *, least: int = 1) -> int:
    """`value` if it is a whole number of at least `least`. Raises ModelError naming `what` if not."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ModelError(f"{what} must be a whole number of at least {least}, not {value!r}")
    return value


def wholes(values: object, what: str) -> tuple[int, ...]:
    """`values` (a list or tuple) as a tuple of whole numbers above 0. Raises ModelError if empty or anything else."""
    if not isinstance(values, list | tuple) or not values:
        raise ModelError(f"{what} must be a list of whole numbers, not {values!r}")
    return tuple(whole(value, f"each of {what}") for value in values)


def pair(values: object, what: str) -> tuple[int, int]:
    """`values` as (mel bands, columns), two whole numbers above 0. Raises ModelError if they are not."""
    numbers = wholes(values, what)
    if len(numbers) != 2:
        raise ModelError(f"{what} must be two numbers, (mel bands, columns), not {values!r}")
    return numbers[0], numbers[1]


def fraction(value: object, what: str) -> float:
    """`value` if it is a number in [0, 1), as a dropout must be. Raises ModelError if not."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ModelError(f"{what} must be a number from 0 up to but not including 1, not {value!r}")
    return float(value)


def pooled(size: int, pool: int, *, ceil: bool, stride: int | None = None) -> int:
    """Length of an axis of `size` cells after max-pooling windows of `pool`, `stride` apart (None: side by side)."""
    if ceil:
        return -(-size // pool)
    return max(0, (size - pool) // (stride or pool) + 1)


class MelInput(nn.Module):
    """The way into a CNN: log-mel [batch, n_mels, columns] -> one image channel [batch, 1, n_mels, columns].

    norm: True normalises all values by one running mean and deviation (BatchNorm2d(1)). Decibels lie around -40 with a
        deviation of 20; without this the first convolution trains slowly. "columns" gives each of `padded_columns`
        its own, the padding included, as Choi's code does.
    padded_columns: put zero columns on both sides (one more on the right if the number is odd) up to this many.
        An input that long or longer stays as it is. The zeros come after the normalisation, so they are the average
        level, where 0 dB would be a burst of noise; only with norm "columns" they come before it.
    Raises ModelError where the input is no batch of `n_mels` bands.
    """

    def __init__(self, n_mels: int, *, norm: bool | str = True, padded_columns: int | None = None) -> None:
        super().__init__()
        self.n_mels = whole(n_mels, "n_mels")
        self.padded_columns = 0 if padded_columns is None else whole(padded_columns, "padded_columns")
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
                "the front end must have as many mel bands as n_mels says"
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


class ConvBlock(nn.Module):
    """Convolution -> BatchNorm -> activation -> max-pool -> dropout on [batch, channels, mel bands, columns].

    kernel: (mel bands, columns). pool: window, None for none. stride: of the pool, None for as far as its window.
    ceil: keep what does not fill a last window.
    padding: "same" (zeros; output as large as the input) or "valid". activation: "elu" (alpha 1) or "relu".
    batch_norm: the convolution has a bias of its own only without it, since BatchNorm would take it away again.
    norm_last: BatchNorm after the activation instead of before it, and then with a bias before that.
    Raises ModelError on a value that makes no sense, and where the input is smaller than one pooling window.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel: Sequence[int] = (3, 3),
        padding: str = "same",
        pool: Sequence[int] | None = None,
        stride: Sequence[int] | None = None,
        ceil: bool = False,
        activation: str = "elu",
        batch_norm: bool = True,
        norm_last: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if stride is not None and (pool is None or ceil):
            raise ModelError("a pool's stride goes with a pool that drops what does not fill a window")
        if padding not in {"same", "valid"}:
            raise ModelError(f"padding must be 'same' or 'valid', not {padding!r}")
        if not isinstance(activation, str) or activation not in ACTIVATIONS:
            raise ModelError(f"activation must be one of {', '.join(sorted(ACTIVATIONS))}, not {activation!r}")
        self.conv = nn.Conv2d(
            whole(in_channels, "in_channels"),
            whole(out_channels, "each of channels"),
            pair(kernel, "kernel"),
            padding=padding,
            bias=norm_last or not batch_norm,
        )
        self.norm = nn.BatchNorm2d(out_channels) if batch_norm else None
        self.norm_last = norm_last and batch_norm
        self.activation = activation
        self.pool = None if pool is None else pair(pool, "each of pools")
        self.stride = self.pool if stride is None else pair(stride, "each of pool_strides")
        self.ceil = ceil
        self.dropout = nn.Dropout(fraction(dropout, "dropout"))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        activate = ACTIVATIONS[self.activation]
        if self.norm is not None and self.norm_last:
            return self.dropout(self._pooled(self.norm(activate(x))))  # type: ignore[no-any-return]
        if self.norm is not None:
            x = self.norm(x)
        # Pooled before the activation, which is the same because it is monotone, and has an eighth of the values to go
        # through: a training step of FCN takes 0.55, of CRNN-TF 0.78 of the time.
        return self.dropout(activate(self._pooled(x)))  # type: ignore[no-any-return]

    def _pooled(self, x: Tensor) -> Tensor:
        return max_pool(x, self.pool, stride=self.stride, ceil=self.ceil)


def max_pool(
    x: Tensor, pool: tuple[int, int] | None, *, stride: tuple[int, int] | None = None, ceil: bool = False
) -> Tensor:
    """Maximum of each window of `pool` = (mel bands, columns), `stride` apart (None: side by side).

    Raises ModelError where not one window fits.
    """
    if pool is None:
        return x
    if not ceil and (x.shape[2] < pool[0] or x.shape[3] < pool[1]):
        raise ModelError(
            f"the input is too short for this backbone: a map of {x.shape[2]} x {x.shape[3]} "
            f"(mel bands x columns) is left where it pools {pool[0]} x {pool[1]}"
        )
    return F.max_pool2d(x, pool, stride, ceil_mode=ceil)


def conv_stack(
    channels: Sequence[int],
    pools: Sequence[Sequence[int]],
    *,
    strides: Sequence[Sequence[int]] | None = None,
    kernel: Sequence[int] = (3, 3),
    ceil: bool = False,
    activation: str = "elu",
    batch_norm: bool = True,
    norm_last: bool = False,
    dropout: float = 0.0,
) -> list[ConvBlock]:
    """One ConvBlock for each of `channels`, each with its pool (and the pool's stride, None for side by side).

    Raises ModelError on values that make no sense.
    """
    widths = wholes(channels, "channels")
    for values, what in ((pools, "pools"), (strides, "pool_strides")):
        if values is not None and (not isinstance(values, list | tuple) or len(values) != len(widths)):
            raise ModelError(
                f"{what} must be a list with one pair for each of the {len(widths)} channels, not {values!r}"
            )
    return [
        ConvBlock(
            before,
            width,
            kernel=kernel,
            pool=pool,
            stride=stride,
            ceil=ceil,
            activation=activation,
            batch_norm=batch_norm,
            norm_last=norm_last,
            dropout=dropout,
        )
        for before, width, pool, stride in zip(
            (1, *widths), widths, pools, strides or (None,) * len(widths), strict=False
        )
    ]


def stacked(entrance: MelInput, blocks: Sequence[ConvBlock]) -> nn.Sequential:
    """`entrance`, then `blocks`; weights on disk know them as input, block1, block2 and so on."""
    layers: list[tuple[str, nn.Module]] = [("input", entrance)]
    return nn.Sequential(OrderedDict([*layers, *((f"block{number}", block) for number, block in enumerate(blocks, 1))]))


def affine(norm: nn.BatchNorm2d, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """BatchNorm in evaluation as scale [channels] and shift [channels], computed in `dtype`; no gradients."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.detach().to(dtype) / (norm.running_var.to(dtype) + norm.eps).sqrt()
    return scale, norm.bias.detach().to(dtype) - norm.running_mean.to(dtype) * scale


def map_size(n_mels: int, columns: int, blocks: Sequence[ConvBlock]) -> tuple[int, int]:
    """(mel bands, columns) that `blocks` with "same" padding leave of an input that large; 0 for none."""
    rows = n_mels
    for block in blocks:
        pool, stride = block.pool or (1, 1), block.stride or (1, 1)
        rows = pooled(rows, pool[0], ceil=block.ceil, stride=stride[0])
        columns = pooled(columns, pool[1], ceil=block.ceil, stride=stride[1])
    return rows, columns


def cut(mel: Tensor, columns: int) -> Tensor:
    """Frames [batch, n_mels, any] -> consecutive patches [batch, patches, n_mels, columns], at least one a frame.

    Columns after the last whole patch are left out; a frame shorter than a patch is repeated.
    """
    if mel.shape[-1] < columns:
        mel = mel.repeat(1, 1, -(-columns // mel.shape[-1]))
    return mel.unfold(2, columns, columns).transpose(1, 2)


def mean_score_logits(logits: Tensor) -> Tensor:
    """Patch logits [batch, patches, tags] -> the logits [batch, tags] whose sigmoid is the mean patch score.

    In log space, since a score of 1 - 1e-9 is 1 in float32 and would come back as an infinite logit.
    """
    return F.logsigmoid(logits).logsumexp(1) - F.logsigmoid(-logits).logsumexp(1)


def over_patches(mel: Tensor, columns: int, scored: Callable[[Tensor], Sequence[Tensor]], *, training: bool) -> Output:
    """A frame judged by its patches: the mean of their scores, and the mean of their embeddings.

    mel: [batch, n_mels, any], cut into patches of `columns`. scored: patches [n, n_mels, columns] -> logits [n, tags]
    and embeddings [n, dim]. training: give it all at once, as BatchNorm then needs; so do gradients.
    """
    patches = cut(mel, columns)
    flat = patches.flatten(0, 1)
    at_once = len(flat) if training or torch.is_grad_enabled() else PATCHES_AT_ONCE
    parts = [scored(part) for part in torch.split(flat, max(at_once, 1))]
    logits, embedding = (torch.cat(of_patches).view(*patches.shape[:2], -1) for of_patches in zip(*parts, strict=True))
    return Output(mean_score_logits(logits), embedding.mean(1))
