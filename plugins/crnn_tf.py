"""CRNN-TF: a CRNN that scans the map of its convolutions in eight directions over time and frequency."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from musictagger.errors import ModelError
from musictagger.models.backbone import Backbone, Output
from musictagger.models.layers import Fraction, MelInput, Size, conv_stack, stacked
from musictagger.values import Count, check_arguments

SCANS = ("A_r", "A_c", "B_r", "B_c", "C_r", "C_c", "D_r", "D_c")
"""The corner where a scan starts (A top left, B top right, C bottom left, D bottom right), and rows or columns first.

In the order of the paper's equation 1. The map is a matrix: its top row is row 0, the LOWEST mel bands (which plots of
spectrograms show at the bottom); its left column is the first in time.
"""


class CRNNTF(Backbone):
    """CRNN in time and frequency. Source: Wang, Muknahallipatna, Fan, Okray & Lan 2019.

    With the default configuration, channels x mel bands x columns; pools keep an incomplete last window:

        input, BatchNorm of the input                   1 x 96 x 1366
        conv 3x3, BatchNorm, ELU, max-pool (2, 4)      64 x 48 x 342
        conv 3x3, BatchNorm, ELU, max-pool (2, 4)     128 x 24 x 86
        conv 3x3, BatchNorm, ELU, max-pool (2, 4)     128 x 12 x 22
        conv 3x3, BatchNorm, ELU, max-pool (2, 4)     128 x  6 x 6
        eight scans: scans x steps x features          8 x 36 x 128
        a Grid LSTM block for each, last step          8 x 32
        concatenated in the order of SCANS: the embedding   256
        dropout 0.5, dense                               n_tags

    scans: a selection of SCANS, in any order (figure 5 of the paper compares subsets).
    channels, pools: one of each per convolution; pools are (mel bands, columns). activation: "elu" or "relu".
    units: size of the two LSTMs in a block. conv_dropout: after each pool; dropout: before the dense layer. Any number
    of columns works. Raises ModelError for invalid values.
    """

    name = "crnn_tf"

    def __init__(
        self,
        n_tags: Count,
        *,
        n_mels: Count = 96,
        input_norm: bool = True,
        channels: tuple[Count, ...] = (64, 128, 128, 128),
        pools: tuple[Size, ...] = ((2, 4), (2, 4), (2, 4), (2, 4)),
        activation: Literal["elu", "relu"] = "elu",
        conv_dropout: Fraction = 0.0,
        scans: tuple[str, ...] = SCANS,
        units: Count = 32,
        dropout: Fraction = 0.5,
    ) -> None:
        super().__init__()
        check_arguments(CRNNTF.__init__, locals(), ModelError)
        if not scans or not set(scans) <= set(SCANS) or len(set(scans)) < len(scans):
            raise ModelError(f"scans must name one or more of {', '.join(SCANS)}, each once, not {scans!r}")
        self.scans = tuple(scans)
        blocks = conv_stack(channels, pools, ceil=True, activation=activation, dropout=conv_dropout)
        self.cnn = stacked(MelInput(n_mels, norm=input_norm), blocks)
        self.rnn = GridLSTMBlocks(len(scans), channels[-1], units)
        self.dropout = nn.Dropout(dropout)
        self.dense = nn.Linear(len(scans) * units, n_tags)

    def forward(self, features: Tensor) -> Output:
        embedding = self.rnn(scan(self.cnn(features), self.scans))
        return Output(self.dense(self.dropout(embedding)), embedding)


def scan(cells: Tensor, scans: Sequence[str]) -> Tensor:
    """Read a map [batch, channels, rows, columns] in several orders -> [scans, rows * columns, batch, channels].

    A row-wise scan reads a row, then the next one away from the starting corner; a column-wise scan likewise.
    """
    numbers = torch.arange(cells.shape[2] * cells.shape[3], device=cells.device).view(cells.shape[2:])
    return cells.flatten(2).permute(2, 0, 1)[torch.stack([_order(numbers, name) for name in scans])]


def _order(numbers: Tensor, name: str) -> Tensor:
    """The entries of `numbers` [rows, columns] in the order of scan `name`."""
    corner, direction = name.split("_")
    numbers = numbers.flip(0) if corner in "CD" else numbers
    numbers = numbers.flip(1) if corner in "BD" else numbers
    return (numbers.T if direction == "c" else numbers).flatten()


class GridLSTMBlocks(nn.Module):
    """Several 2-D Grid LSTMs of one layer in parallel. Source: Kalchbrenner, Danihelka & Graves 2015.

    Each block has an LSTM along time and one along depth, both of `units`. At a step with features x:

        depth hidden = x P_h, depth memory = x P_m                    the input enters along depth
        time hidden, time memory   <- LSTM([time hidden,     depth hidden], time memory)
        depth hidden, depth memory <- LSTM([new time hidden, depth hidden], depth memory)

    Time before depth is the paper's priority of the depth dimension (3.2). Its LSTM ends in tanh(o * memory) instead of
    the usual o * tanh(memory). The output of a block is the depth hidden vector of the last step.

    With one layer, the depth result of a step is only an output, so it is computed for the last step only, and the loop
    contains only the product with the time hidden vector. All blocks run as one batch of stacked weights. Each LSTM's
    weights are [blocks, units of time then units of depth, gates], with gates in the order input, forget, output,
    candidate.
    """

    def __init__(self, blocks: int, features: int, units: int) -> None:
        super().__init__()
        self.units = units
        self.project_hidden = nn.Parameter(torch.empty(blocks, features, units))
        self.project_memory = nn.Parameter(torch.empty(blocks, features, units))
        self.time_weight = nn.Parameter(torch.empty(blocks, 2 * units, 4 * units))
        self.time_bias = nn.Parameter(torch.empty(blocks, 1, 4 * units))
        self.depth_weight = nn.Parameter(torch.empty(blocks, 2 * units, 4 * units))
        self.depth_bias = nn.Parameter(torch.empty(blocks, 1, 4 * units))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise weights by Glorot for each gate; biases are 0, except 1 for the forget gate, to keep memory."""
        for weights in (self.project_hidden, self.project_memory, self.time_weight, self.depth_weight):
            for block in weights.detach():
                for gate in torch.split(block, self.units, dim=1):
                    nn.init.xavier_uniform_(gate)
        for bias in (self.time_bias, self.depth_bias):
            nn.init.zeros_(bias)
            nn.init.ones_(bias.detach()[..., self.units : 2 * self.units])

    def forward(self, sequences: Tensor) -> Tensor:
        """[blocks, steps, batch, features] -> [batch, blocks * units], block after block."""
        blocks, steps, batch, _ = sequences.shape
        depth_hidden = torch.bmm(sequences.flatten(1, 2), self.project_hidden)
        from_time, from_depth = self.time_weight.chunk(2, dim=1)
        gates = torch.baddbmm(self.time_bias, depth_hidden, from_depth).view(blocks, steps, batch, -1)
        hidden = memory = sequences.new_zeros(blocks, batch, self.units)
        for step in gates.unbind(1):
            hidden, memory = lstm(torch.baddbmm(step, hidden, from_time), memory)
        last = torch.cat([hidden, depth_hidden[:, -batch:]], dim=2)
        depth_memory = torch.bmm(sequences[:, -1], self.project_memory)
        out, _ = lstm(torch.baddbmm(self.depth_bias, last, self.depth_weight), depth_memory)
        return out.transpose(0, 1).flatten(1)


def lstm(gates: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    """One LSTM step: `gates` before their activations [..., 4 * units], old memory -> (hidden, memory)."""
    candidate = gates.narrow(-1, 3 * memory.shape[-1], memory.shape[-1]).tanh()
    take, keep, emit = gates.narrow(-1, 0, 3 * memory.shape[-1]).sigmoid().chunk(3, dim=-1)
    memory = keep * memory + take * candidate
    return (emit * memory).tanh(), memory
