"""musicnn: musically motivated convolutions, timbral and temporal, over patches of three seconds.

Source: Pons & Serra 2019, "musicnn: Pre-trained Convolutional Neural Networks for Music Audio Tagging"; its front
comes from Pons et al. 2018, "End-to-end Learning for Music Audio Tagging at Scale".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from msgspec import Meta
from torch import Tensor, nn
from torch.nn import functional as F

from musictagger.errors import ModelError
from musictagger.models.backbone import Backbone, Output
from musictagger.models.layers import Fraction, MelInput, affine, over_patches
from musictagger.values import Count, check_arguments

_MID_STEPS = 7
_STRIP_STEPS = 8
"""Output steps of a temporal filter per matrix product; 4 and 16 are within 5 % of its speed, 32 is 20 % slower."""


@dataclass(frozen=True)
class _Norm:
    """The variant of BatchNorm: its eps, and whether it comes before the ReLU (`first`) or after it."""

    eps: float
    first: bool

    def after(self, norm: nn.Module, x: Tensor) -> Tensor:
        """Apply ReLU and BatchNorm, in their order, to the output of a convolution or dense layer."""
        normed: Tensor = F.relu(norm(x)) if self.first else norm(F.relu(x))
        return normed


class MusiCNN(Backbone):
    """Scores a frame as the mean over its patches. Source: Pons & Serra 2019 (`patch_columns` 187 = 3 s at 16 kHz).

    The defaults are theirs. In the version of Won et al. 2020 the temporal filters have `temporal_steps` 129, 65 and 33
    and filter the mean of all bands (`temporal_bands` "mean") instead of each band, keeping the highest response
    ("each"); BatchNorm comes before the ReLU (`norm_first`), and there is none after pooling (`pooled_norm`).
    `norm_eps`: TensorFlow's BatchNorm has 1e-3, torch's 1e-5. `n_mels` is at least 3: the timbral filters span 0.4 and
    0.7 of the bands. Raises ModelError for invalid values.
    """

    name = "musicnn"
    patch_columns: int

    def __init__(
        self,
        n_tags: Count,
        *,
        n_mels: Annotated[int, Meta(ge=3)] = 96,
        patch_columns: Count = 187,
        timbral_channels: Count = 204,
        temporal_channels: Count = 51,
        temporal_steps: tuple[Count, ...] = (128, 64, 32),
        temporal_bands: Literal["each", "mean"] = "each",
        mid_channels: Count = 64,
        units: Count = 200,
        norm_first: bool = False,
        pooled_norm: bool = True,
        norm_eps: Fraction = 1e-3,
        dropout: Fraction = 0.5,
    ) -> None:
        super().__init__()
        check_arguments(MusiCNN.__init__, locals(), ModelError)
        if not temporal_steps:
            raise ModelError("temporal_steps must have at least one number")
        self.input = MelInput(n_mels, norm=False)
        self.patch_columns = patch_columns
        norm = _Norm(norm_eps, norm_first)
        timbral = [_Timbral(timbral_channels, int(share * n_mels), norm) for share in (0.4, 0.7)]
        mean = temporal_bands == "mean"
        temporal = [_Temporal(temporal_channels, steps, norm, mean=mean) for steps in temporal_steps]
        self.cnn = _Cnn(timbral, temporal, mid_channels, norm)
        self.dense = _Dense((self.cnn.channels, units, n_tags), dropout, norm, pooled_norm=pooled_norm)

    def forward(self, features: Tensor) -> Output:
        """Log-mel [batch, n_mels, columns] -> logits [batch, n_tags], embedding [batch, units].

        The score of a frame, sigmoid(logits), is the mean of its patches' scores, and its embedding the mean of
        theirs. Columns after the last whole patch are left out; a frame shorter than a patch is repeated.
        """
        features = self.input(features)[:, 0]
        return over_patches(
            features, self.patch_columns, lambda patches: self.dense(self.cnn(patches)), training=self.training
        )


class _Cnn(nn.Module):
    """Patches [n, n_mels, steps] -> features [n, steps, channels] of the front and the three middle layers."""

    def __init__(self, timbral: list[_Timbral], temporal: list[_Temporal], mid: int, norm: _Norm) -> None:
        super().__init__()
        front = sum(block.conv.out_channels for block in (*timbral, *temporal))
        self.channels = front + 3 * mid
        self.norm = nn.BatchNorm2d(1, eps=norm.eps)
        self.timbral, self.temporal = nn.ModuleList(timbral), nn.ModuleList(temporal)
        self.mid = nn.ModuleList(_Mid(n, mid, norm) for n in (front, mid, mid))

    def forward(self, patches: Tensor) -> Tensor:
        x = self.norm(patches[:, None])[:, 0]
        front = torch.cat([block(x) for block in (*self.timbral, *self.temporal)], dim=2)
        features = [front, self.mid[0](front)]
        for layer in list(self.mid)[1:]:
            features.append(features[-1] + layer(features[-1]))
        return torch.cat(features, dim=2)


class _Front(nn.Module):
    """Convolution, ReLU and BatchNorm (in either order), and each channel's maximum over frequency.

    [n, n_mels, steps] -> [n, steps, channels].

    Without gradients the maximum is taken first, of the plain convolution: ReLU and BatchNorm are monotone functions of
    each channel. They decrease where BatchNorm's scale is negative; there the filter is negated, so that the maximum is
    the minimum. ReLU and BatchNorm then process 1/30 to 1/96 of the values, and the convolution becomes matrix products
    whose results never leave the cache: on two cores 210 x real time instead of 64.
    """

    def __init__(self, channels: int, bands: int, steps: int, norm: _Norm) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, channels, (bands, steps))
        self.norm, self.how = nn.BatchNorm2d(channels, eps=norm.eps), norm
        self.before, self.after = (steps - 1) // 2, steps // 2

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (self.before, self.after))
        if self.training or torch.is_grad_enabled():
            return self.how.after(self.norm, self.conv(x[:, None])).amax(2).transpose(1, 2)
        scale, shift = affine(self.norm, self.conv.weight.dtype)
        sign = torch.where(scale < 0, -1.0, 1.0)
        filters = self.conv.weight[:, 0] * sign[:, None, None]
        # One convolution is faster on accelerators than the matrix products of the subclasses.
        highest = self.highest(x, filters) if x.is_cpu else _Front.highest(self, x, filters)
        assert self.conv.bias is not None
        response = torch.addcmul(self.conv.bias, highest, sign)
        if self.how.first:
            return F.relu(torch.addcmul(shift, response, scale))
        return torch.addcmul(shift, F.relu(response), scale)

    def highest(self, x: Tensor, filters: Tensor) -> Tensor:
        """Padded patches [n, n_mels, x], filters [c, bands, steps] -> maximum over frequency [n, x - steps + 1, c]."""
        return F.conv2d(x[:, None], filters[:, None]).amax(2).transpose(1, 2)


class _Timbral(_Front):
    """Filters of seven steps and many bands, for timbre."""

    def __init__(self, channels: int, bands: int, norm: _Norm) -> None:
        super().__init__(channels, bands, 7, norm)

    def highest(self, x: Tensor, filters: Tensor) -> Tensor:
        """Compute two adjacent frequencies with three matrix products of half the length instead of four.

        With even and odd bands e, o of the input and h, k of the filter, the responses h*e + k*o and h*o + k*(next e)
        are (h + k)*o + h*(e - o) and (h + k)*o + k*(next e - o): a fast FIR algorithm, 1.25 times as fast here as one
        frequency at a time, and equal up to 4e-6. The shared term is added after the maximum of the two is taken.
        """
        frequencies = x.shape[1] - filters.shape[1] + 1
        x = F.pad(x, (0, 0, 0, x.shape[1] % 2 + 2))
        even, odd, next_even = x[:, :-2:2], x[:, 1:-1:2], x[:, 2::2]
        filters = F.pad(filters, (0, 0, 0, filters.shape[1] % 2))
        h, k = filters[:, ::2], filters[:, 1::2]
        shared, first, second = _Windows(odd, h + k), _Windows(even - odd, h), _Windows(next_even - odd, k)
        highest = torch.full_like(shared.response, -torch.inf)
        for at in range(0, frequencies, 2):
            response = first(at // 2)
            if at + 1 < frequencies:
                torch.maximum(response, second(at // 2), out=response)
            torch.maximum(highest, response.add_(shared(at // 2)), out=highest)
        return highest.view(len(x), -1, highest.shape[1])


class _Windows:
    """Responses of filters [c, bands, steps] to patches [n, any, x], one frequency at a time, for all steps.

    The patches become a matrix [n * steps out, any * steps] in which a filter's window at any frequency is a range of
    columns, so that nothing is copied again. Each call overwrites `response` [n * steps out, c].
    """

    def __init__(self, x: Tensor, filters: Tensor) -> None:
        self.steps = filters.shape[2]
        weights = filters.flatten(1).t().contiguous()
        rows = x.unfold(2, self.steps, 1).permute(0, 2, 1, 3).reshape(-1, x.shape[1] * self.steps)
        self.response = rows[:, : len(weights)] @ weights
        dtype = self.response.dtype  # that of autocast, which does not convert `out=`
        self.rows, self.weights = rows.to(dtype), weights.to(dtype)

    def __call__(self, frequency: int) -> Tensor:
        start = frequency * self.steps
        window = self.rows[:, start : start + len(self.weights)]
        return torch.mm(window, self.weights, out=self.response)


class _Temporal(_Front):
    """Filters of one band and many steps, on each band or on the mean of all."""

    def __init__(self, channels: int, steps: int, norm: _Norm, *, mean: bool) -> None:
        super().__init__(channels, 1, steps, norm)
        self.mean = mean

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mean(1, keepdim=True) if self.mean else x)

    def highest(self, x: Tensor, filters: Tensor) -> Tensor:
        channels, _, steps = filters.shape
        n, n_mels, padded = x.shape
        out_steps = padded - steps + 1
        x = F.pad(x, (0, -out_steps % _STRIP_STEPS))
        width = steps + _STRIP_STEPS - 1
        banded = filters.new_zeros(_STRIP_STEPS, channels, width)  # row t: the filters, shifted by t steps
        for t in range(_STRIP_STEPS):
            banded[t, :, t : t + steps] = filters[:, 0]
        weights = banded.flatten(0, 1).t()
        strips = [
            (x[:, :, start : start + width].reshape(-1, width) @ weights).view(n, n_mels, -1, channels).amax(1)
            for start in range(0, out_steps, _STRIP_STEPS)
        ]
        return torch.cat(strips, dim=1)[:, :out_steps]


class _Mid(nn.Module):
    """Convolution over seven steps, ReLU, BatchNorm (or BatchNorm, ReLU): [n, steps, any] -> [n, steps, channels]."""

    def __init__(self, inputs: int, channels: int, norm: _Norm) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, channels, _MID_STEPS, padding=_MID_STEPS // 2)
        self.norm, self.how = nn.BatchNorm1d(channels, eps=norm.eps), norm

    def forward(self, x: Tensor) -> Tensor:
        return self.how.after(self.norm, self.conv(x.transpose(1, 2))).transpose(1, 2)


class _Dense(nn.Module):
    """Features [n, steps, channels] -> patch logits [n, tags] and the penultimate layer [n, units]."""

    def __init__(self, sizes: tuple[int, int, int], dropout: float, norm: _Norm, *, pooled_norm: bool) -> None:
        super().__init__()
        channels, units, n_tags = sizes
        self.norm = nn.BatchNorm1d(2 * channels, eps=norm.eps) if pooled_norm else nn.Identity()
        self.hidden = nn.Linear(2 * channels, units)
        self.hidden_norm, self.how = nn.BatchNorm1d(units, eps=norm.eps), norm
        self.output = nn.Linear(units, n_tags)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        # Maximum and mean of a channel lie side by side, as the published weights expect them.
        pooled = torch.stack([features.amax(1), features.mean(1)], dim=2).flatten(1)
        embedding = self.how.after(self.hidden_norm, self.hidden(self.dropout(self.norm(pooled))))
        return self.output(self.dropout(embedding)), embedding
