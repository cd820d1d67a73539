"""The layers backbones share: the way in from a log-mel batch, and conv -> BatchNorm -> activation -> pool.

`musictagger.models.fuse` knows `ConvBlock` and makes it fast for inference; a backbone that uses it gets that for free.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from musictagger.errors import ModelError

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"elu": F.elu, "relu": F.relu}
"""All of them monotone, and they must stay so: `fuse` pools before the activation."""


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


def pooled(size: int, pool: int, *, ceil: bool) -> int:
    """Length of an axis of `size` cells after max-pooling windows of `pool` side by side."""
    return -(-size // pool) if ceil else size // pool


class MelInput(nn.Module):
    """The way into a CNN: log-mel [batch, n_mels, columns] -> one image channel [batch, 1, n_mels, columns].

    norm: normalise all values by one running mean and deviation (BatchNorm2d(1)). Decibels lie around -40 with a
        deviation of 20; without this the first convolution trains slowly.
    padded_columns: put zero columns on both sides (one more on the right if the number is odd) up to this many.
        An input that long or longer stays as it is. The zeros come after the normalisation, so they are the average
        level, where 0 dB would be a burst of noise.
    Raises ModelError where the input is no batch of `n_mels` bands.
    """

    def __init__(self, n_mels: int, *, norm: bool = True, padded_columns: int | None = None) -> None:
        super().__init__()
        self.n_mels = whole(n_mels, "n_mels")
        self.padded_columns = 0 if padded_columns is None else whole(padded_columns, "padded_columns")
        self.norm = nn.BatchNorm2d(1) if norm else nn.Identity()

    def forward(self, mel: Tensor) -> Tensor:
        if mel.dim() != 3 or mel.shape[1] != self.n_mels:
            raise ModelError(
                f"this backbone reads [batch, {self.n_mels} mel bands, columns], not {list(mel.shape)}: "
                "the front end must have as many mel bands as n_mels says"
            )
        image: Tensor = self.norm(mel.unsqueeze(1))
        missing = max(0, self.padded_columns - mel.shape[2])
        return F.pad(image, (missing // 2, missing - missing // 2)) if missing else image


class ConvBlock(nn.Module):
    """Convolution -> BatchNorm -> activation -> max-pool -> dropout on [batch, channels, mel bands, columns].

    kernel: (mel bands, columns). pool: window and stride, None for none. ceil: keep what does not fill a last window.
    padding: "same" (zeros; output as large as the input) or "valid". activation: "elu" (alpha 1) or "relu".
    batch_norm: the convolution has a bias of its own only without it, since BatchNorm would take it away again.
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
        ceil: bool = False,
        activation: str = "elu",
        batch_norm: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if padding not in {"same", "valid"}:
            raise ModelError(f"padding must be 'same' or 'valid', not {padding!r}")
        if not isinstance(activation, str) or activation not in ACTIVATIONS:
            raise ModelError(f"activation must be one of {', '.join(sorted(ACTIVATIONS))}, not {activation!r}")
        self.conv = nn.Conv2d(
            whole(in_channels, "in_channels"),
            whole(out_channels, "each of channels"),
            pair(kernel, "kernel"),
            padding=padding,
            bias=not batch_norm,
        )
        self.norm = nn.BatchNorm2d(out_channels) if batch_norm else None
        self.activation = activation
        self.pool = None if pool is None else pair(pool, "each of pools")
        self.ceil = ceil
        self.dropout = nn.Dropout(fraction(dropout, "dropout"))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.norm is not None:
            x = self.norm(x)
        # Pooled before the activation, which is the same because it is monotone, and has an eighth of the values to go
        # through: a training step of FCN takes 0.55, of CRNN-TF 0.78 of the time.
        return self.dropout(ACTIVATIONS[self.activation](max_pool(x, self.pool, ceil=self.ceil)))  # type: ignore[no-any-return]


def max_pool(x: Tensor, pool: tuple[int, int] | None, *, ceil: bool) -> Tensor:
    """Maximum of each window of `pool` = (mel bands, columns). Raises ModelError where not one window fits."""
    if pool is None:
        return x
    if not ceil and (x.shape[2] < pool[0] or x.shape[3] < pool[1]):
        raise ModelError(
            f"the input is too short for this backbone: a map of {x.shape[2]} x {x.shape[3]} "
            f"(mel bands x columns) is left where it pools {pool[0]} x {pool[1]}"
        )
    return F.max_pool2d(x, pool, ceil_mode=ceil)


def conv_stack(
    channels: Sequence[int],
    pools: Sequence[Sequence[int]],
    *,
    kernel: Sequence[int] = (3, 3),
    ceil: bool = False,
    activation: str = "elu",
    batch_norm: bool = True,
    dropout: float = 0.0,
) -> list[ConvBlock]:
    """One ConvBlock for each of `channels`, each with its pool. Raises ModelError on values that make no sense."""
    widths = wholes(channels, "channels")
    if not isinstance(pools, list | tuple) or len(pools) != len(widths):
        raise ModelError(f"pools must be a list with one pair for each of the {len(widths)} channels, not {pools!r}")
    return [
        ConvBlock(
            before,
            width,
            kernel=kernel,
            pool=pool,
            ceil=ceil,
            activation=activation,
            batch_norm=batch_norm,
            dropout=dropout,
        )
        for before, width, pool in zip((1, *widths), widths, pools, strict=False)
    ]


def map_size(n_mels: int, columns: int, blocks: Sequence[ConvBlock]) -> tuple[int, int]:
    """(mel bands, columns) that `blocks` with "same" padding leave of an input that large; 0 for none."""
    rows = n_mels
    for block in blocks:
        pool = block.pool or (1, 1)
        rows, columns = pooled(rows, pool[0], ceil=block.ceil), pooled(columns, pool[1], ceil=block.ceil)
    return rows, columns
