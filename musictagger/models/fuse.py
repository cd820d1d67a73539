"""Make a backbone fast for inference, with the same results.

Four optimisations together take CRNN-TF from 290 to 1,400 x real time on two cores (float32, 8 frames). Three change
the order of operations, and results by rounding only:

- BatchNorm, a fixed affine map once trained, folded into the convolution before it;
- the max-pool before the activation: it commutes with every monotone function, and then the activation runs on an
  eighth of the values;
- channels-last memory, for which the CPU's convolution and pooling kernels are optimised.

The fourth saves memory traffic: a map larger than `WHOLE_BYTES` is convolved and pooled strip by strip, so that values
that the pool discards never leave the cache. The first layer of CRNN-TF on 8 frames: 120 ms at once, 21 ms in strips.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from musictagger.models.layers import ACTIVATIONS, ConvBlock, affine, max_pool, pooled

WHOLE_BYTES = 32 * 2**20
"""Larger maps are not processed at once: the C library would get new pages from the system for each result."""
STRIP_BYTES = 8 * 2**20
"""Size of one strip; from 5 to 22 MB there is no difference on 2 cores with 32 MB of shared cache."""


def fuse(backbone: nn.Module) -> nn.Module:
    """A copy of `backbone` for inference: in eval mode, without gradients, with every ConvBlock fused.

    The copy returns what `backbone.eval()` returns, up to rounding (1e-4), on any device. Modules that are not exactly
    of type ConvBlock stay unchanged. The copy has another state dict than the backbone: load weights before fusing.
    """
    fused = copy.deepcopy(backbone).eval().requires_grad_(False)
    replaced: dict[nn.Module, FusedConvBlock] = {}
    for parent in list(fused.modules()):
        for name, child in parent._modules.items():
            if type(child) is ConvBlock:
                parent._modules[name] = replaced.setdefault(child, FusedConvBlock(child))
    return FusedConvBlock(fused) if type(fused) is ConvBlock else fused


class FusedConvBlock(nn.Module):
    """A trained ConvBlock in eval mode, with fewer passes over memory. Created by `fuse`."""

    weight: Tensor
    bias: Tensor
    after: Tensor | None

    def __init__(self, block: ConvBlock) -> None:
        super().__init__()
        weight, bias = folded(block)
        self.register_buffer("weight", weight.contiguous(memory_format=torch.channels_last))
        self.register_buffer("bias", bias)
        self.register_buffer("after", norm_after(block))
        self.activation = block.activation
        self.pool = block.pool
        self.stride = block.stride
        self.ceil = block.ceil
        self.same = block.conv.padding == "same"

    def forward(self, x: Tensor) -> Tensor:
        x = channels_last(x)
        lost = (0, 0) if self.same else (self.weight.shape[2] - 1, self.weight.shape[3] - 1)
        rows, columns = x.shape[2] - lost[0], x.shape[3] - lost[1]
        frame_bytes = self.weight.shape[0] * rows * columns * x.element_size()
        if x.device.type != "cpu" or x.shape[0] * frame_bytes <= WHOLE_BYTES:
            return self._block(x, "same" if self.same else "valid")
        return self._strips(x, rows, columns, frame_bytes)

    def _block(self, x: Tensor, padding: str) -> Tensor:
        x = F.conv2d(x, self.weight, self.bias, padding=padding)
        x = max_pool(x, self.pool, stride=self.stride, ceil=self.ceil)
        activate = ACTIVATIONS[self.activation]
        if self.after is None:
            return activate(x)
        sign, scale, shift = self.after
        return torch.addcmul(shift, activate(x * sign), scale)

    def _strips(self, x: Tensor, rows: int, columns: int, frame_bytes: int) -> Tensor:
        """Apply `_block` to some frames and some mel bands at a time; strips end where pooling windows end."""
        tall, wide = self.weight.shape[2] - 1, self.weight.shape[3] - 1
        if self.same:
            x = channels_last(F.pad(x, (wide // 2, wide - wide // 2, tall // 2, tall - tall // 2)))
        (window, width), (step, across) = self.pool or (1, 1), self.stride or (1, 1)
        size = (
            x.shape[0],
            len(self.weight),
            pooled(rows, window, ceil=self.ceil, stride=step),
            pooled(columns, width, ceil=self.ceil, stride=across),
        )
        out = torch.empty(size, dtype=x.dtype, memory_format=torch.channels_last)
        frames = max(1, STRIP_BYTES // frame_bytes)
        windows = max(1, size[2] // -(-frame_bytes // STRIP_BYTES))
        for frame in range(0, size[0], frames):
            for top in range(0, max(1, size[2]), windows):
                strip = x[frame : frame + frames, :, top * step : (top + windows - 1) * step + window + tall]
                out[frame : frame + frames, :, top : top + windows] = self._block(strip, "valid")
        return out


def folded(block: ConvBlock) -> tuple[Tensor, Tensor]:
    """(weight [out, in, mel bands, columns], bias [out]) of one convolution equivalent to convolution and BatchNorm.

    A BatchNorm after the activation cannot be folded in; where its scale is negative, both are negated (`norm_after`).
    """
    weight, norm = block.conv.weight.detach().double(), block.norm
    bias = weight.new_zeros(len(weight)) if block.conv.bias is None else block.conv.bias.detach().double()
    if norm is not None:
        scale, shift = affine(norm, torch.float64)
        scale, shift = (_sign(scale), shift * 0) if block.norm_last else (scale, shift)
        weight = weight * scale[:, None, None, None]
        bias = shift + bias * scale
    return weight.to(block.conv.weight.dtype), bias.to(block.conv.weight.dtype)


def norm_after(block: ConvBlock) -> Tensor | None:
    """Sign, scale and shift [3, out, 1, 1] of a BatchNorm after the activation, None where there is none.

    With a negative scale the highest value of a window is the lowest before BatchNorm, which is the highest of the
    negated convolution, negated: so even then the pool can come first.
    """
    if block.norm is None or not block.norm_last:
        return None
    scale, shift = affine(block.norm, torch.float64)
    return torch.stack([_sign(scale), scale, shift]).to(block.conv.weight.dtype)[:, :, None, None]


def _sign(scale: Tensor) -> Tensor:
    return torch.where(scale < 0, -1.0, 1.0).to(scale.dtype)


def channels_last(x: Tensor) -> Tensor:
    """`x` [batch, channels, mel bands, columns] in channels-last memory.

    With one channel both layouts coincide, and torch then chooses the slow one: 176 ms against 84 for CRNN-TF's first
    convolution. The strides must therefore be explicit.
    """
    if x.shape[1] == 1:
        return x[:, 0].contiguous().unsqueeze(-1).permute(0, 3, 1, 2)
    return x.contiguous(memory_format=torch.channels_last)
