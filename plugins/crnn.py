"""CRNN: four convolutions, then two GRUs along time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from musictagger.errors import ModelError
from musictagger.models.backbone import Backbone, Output
from musictagger.models.layers import MelInput, conv_stack, fraction, map_size, whole, wholes


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

    Panwar et al. pad to 1400 in one table and to 1440 in the next; only 1440 gives their shapes. Mel bands that are
    left over (more than 96 at the input) go side by side into the features, channel by channel.

    channels, pools: a convolution each; pools are (mel bands, columns). activation: "elu" or "relu".
    gru_units: a GRU each. padded_columns: None for no padding. conv_dropout: after each pool; dropout: before the
    dense layer (0.1 and 0.3 in Choi's code, which pads first and normalises column by column; Panwar et al. name
    neither). Raises ModelError on values that make no sense.
    """

    name = "crnn"

    def __init__(
        self,
        n_tags: int,
        *,
        n_mels: int = 96,
        input_norm: bool = True,
        padded_columns: int | None = 1440,
        channels: Sequence[int] = (64, 128, 128, 128),
        pools: Sequence[Sequence[int]] = ((2, 2), (3, 3), (4, 4), (4, 4)),
        activation: str = "elu",
        conv_dropout: float = 0.1,
        gru_units: Sequence[int] = (32, 32),
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        entrance = MelInput(n_mels, norm=input_norm, padded_columns=padded_columns)
        blocks = conv_stack(channels, pools, activation=activation, dropout=conv_dropout)
        bands, _ = map_size(n_mels, 1, blocks)
        if bands < 1:
            raise ModelError(f"the pools leave nothing of {n_mels} mel bands: {pools!r}")
        layers: list[tuple[str, nn.Module]] = [("input", entrance)]
        layers += [(f"block{number}", block) for number, block in enumerate(blocks, 1)]
        self.cnn = nn.Sequential(OrderedDict(layers))
        self.rnn = GRUStack(channels[-1] * bands, gru_units)
        self.dropout = nn.Dropout(fraction(dropout, "dropout"))
        self.dense = nn.Linear(gru_units[-1], whole(n_tags, "n_tags"))

    def forward(self, mel: Tensor) -> Output:
        steps = self.cnn(mel).permute(0, 3, 1, 2).flatten(2)
        embedding = self.rnn(steps)
        return Output(self.dense(self.dropout(embedding)), embedding)


class GRUStack(nn.Module):
    """GRUs on top of each other: [batch, steps, features] -> last step of the last one [batch, units]."""

    def __init__(self, features: int, units: Sequence[int]) -> None:
        super().__init__()
        sizes = wholes(units, "gru_units")
        inputs = (features, *sizes[:-1])
        self.layers = nn.ModuleList(nn.GRU(i, size, batch_first=True) for i, size in zip(inputs, sizes, strict=True))

    def forward(self, steps: Tensor) -> Tensor:
        for layer in self.layers:
            steps, _ = layer(steps)
        return steps[:, -1]
