"""CRNN: four convolutions, then two GRUs along time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from musictagger.errors import ModelError
from musictagger.models.backbone import Backbone, Output
from musictagger.models.layers import Fraction, MelInput, Size, conv_stack, map_size, stacked
from musictagger.values import Count, check_arguments


class CRNN(Backbone):
    """Convolutional recurrent network. Source: Choi, Fazekas, Sandler & Cho 2017; table: Panwar, Das, Roopaei & Rad.

    With the default configuration, channels x mel bands x columns:

        input                                               1 x 96 x 1366
        BatchNorm of the input, 37 zero columns each side   1 x 96 x 1440
        conv 3x3, BatchNorm, ELU, max-pool (2, 2)          64 x 48 x 720
        conv 3x3, BatchNorm, ELU, max-pool (3, 3)         128 x 16 x 240
        conv 3x3, BatchNorm, ELU, max-pool (4, 4)         128 x  4 x 60
        conv 3x3, BatchNorm, ELU, max-pool (4, 4)         128 x  1 x 15
        time first: steps x features                           15 x 128
        GRU, all steps                                         15 x 32
        GRU, last step: the embedding                               32
        dense                                                   n_tags

    Panwar et al. pad to 1400 in one table and to 1440 in the next; only 1440 gives their shapes. With more than 96 mel
    bands, several remain after the pools; they are concatenated in the features, channel by channel.

    channels, pools: one of each per convolution; pools are (mel bands, columns). activation: "elu" or "relu".
    gru_units: one per GRU. padded_columns: None for no padding. conv_dropout: after each pool; dropout: before the
    dense layer (0.1 and 0.3 in Choi's code; Panwar et al. name neither).
    input_norm: true, false, or "columns" as in Choi's code, which pads first and then normalises column by column.
    gru: "torch", or "keras1" as in Choi's code (see Keras1GRU). Raises ModelError for invalid values.
    """

    name = "crnn"

    def __init__(
        self,
        n_tags: Count,
        *,
        n_mels: Count = 96,
        input_norm: bool | str = True,
        padded_columns: Count | None = 1440,
        channels: tuple[Count, ...] = (64, 128, 128, 128),
        pools: tuple[Size, ...] = ((2, 2), (3, 3), (4, 4), (4, 4)),
        activation: Literal["elu", "relu"] = "elu",
        conv_dropout: Fraction = 0.1,
        gru_units: tuple[Count, ...] = (32, 32),
        gru: Literal["torch", "keras1"] = "torch",
        dropout: Fraction = 0.3,
    ) -> None:
        super().__init__()
        check_arguments(CRNN.__init__, locals(), ModelError)
        blocks = conv_stack(channels, pools, activation=activation, dropout=conv_dropout)
        self.cnn = stacked(MelInput(n_mels, norm=input_norm, padded_columns=padded_columns), blocks)
        bands, _ = map_size(n_mels, 1, blocks)
        if bands < 1:
            raise ModelError(f"the pools leave nothing of {n_mels} mel bands: {pools!r}")
        self.rnn = GRUStack(channels[-1] * bands, gru_units, gru)
        self.dropout = nn.Dropout(dropout)
        self.dense = nn.Linear(gru_units[-1], n_tags)

    def forward(self, features: Tensor) -> Output:
        steps = self.cnn(features).permute(0, 3, 1, 2).flatten(2)
        embedding = self.rnn(steps)
        return Output(self.dense(self.dropout(embedding)), embedding)


class GRUStack(nn.Module):
    """A stack of GRUs: [batch, steps, features] -> last step of the last GRU [batch, units]."""

    def __init__(self, features: int, units: Sequence[int], kind: str = "torch") -> None:
        super().__init__()
        if not units:
            raise ModelError("gru_units must have at least one number")
        pairs = zip((features, *units[:-1]), units, strict=True)
        self.layers = nn.ModuleList(GRUS[kind](before, size) for before, size in pairs)

    def forward(self, steps: Tensor) -> Tensor:
        for layer in self.layers:
            steps, _ = layer(steps)
        return steps[:, -1]


class Keras1GRU(nn.Module):
    """The GRU of Keras 1: [batch, steps, features] -> ([batch, steps, units], last step [batch, units]).

    It differs from torch.nn.GRU: gates are hard sigmoids, and reset is applied to the state before the recurrent
    product instead of to its result. Weights are ordered by gate: update, reset, candidate, with one bias each.
    Source: Cho et al. 2014; Keras 1.
    """

    def __init__(self, features: int, units: int) -> None:
        super().__init__()
        self.units = units
        self.weight_ih = nn.Parameter(torch.empty(3 * units, features))
        self.weight_hh = nn.Parameter(torch.empty(3 * units, units))
        self.bias = nn.Parameter(torch.zeros(3 * units))
        nn.init.xavier_uniform_(self.weight_ih)
        for gate in self.weight_hh.data.chunk(3):
            nn.init.orthogonal_(gate)

    def forward(self, steps: Tensor) -> tuple[Tensor, Tensor]:
        of_update, of_reset, of_candidate = self.weight_hh.t().chunk(3, dim=1)
        state = steps.new_zeros(len(steps), self.units)
        states = []
        for given in (steps @ self.weight_ih.t() + self.bias).unbind(1):
            update, reset, candidate = given.chunk(3, dim=1)
            update, reset = _hard_sigmoid(update + state @ of_update), _hard_sigmoid(reset + state @ of_reset)
            candidate = torch.tanh(candidate + (reset * state) @ of_candidate)
            state = update * state + (1 - update) * candidate
            states.append(state)
        return torch.stack(states, 1), state


def _hard_sigmoid(x: Tensor) -> Tensor:
    return (0.2 * x + 0.5).clamp(0, 1)


GRUS: dict[str, Callable[..., nn.Module]] = {"torch": partial(nn.GRU, batch_first=True), "keras1": Keras1GRU}
