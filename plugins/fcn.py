"""FCN: convolutions and pools down to one cell (or a few), and a dense layer on it."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from musictagger.errors import ModelError
from musictagger.models.backbone import Backbone, Output
from musictagger.models.layers import Fraction, MelInput, Size, conv_stack, map_size, over_patches, stacked
from musictagger.values import Count, check_arguments


class FCN(Backbone):
    """Fully convolutional network. Source: Choi, Fazekas & Sandler 2016; four variants by configuration.

    FCN-5, compact (the default; the convolutions of Choi's released tagger), channels x mel bands x columns:

        input, BatchNorm of the input               1 x 96 x 1366
        conv 3x3, BatchNorm, ELU, max-pool (2, 4)  32 x 48 x 341
        conv 3x3, BatchNorm, ELU, max-pool (2, 4) 128 x 24 x 85
        conv 3x3, BatchNorm, ELU, max-pool (2, 4) 128 x 12 x 21
        conv 3x3, BatchNorm, ELU, max-pool (3, 5) 192 x  4 x 4
        conv 3x3, BatchNorm, ELU, max-pool (4, 4) 256 x  1 x 1
        dense on the single cell, the embedding        256 -> n_tags

    FCN-4 (Choi et al. 2016; the FCN of Wang et al. 2019): channels 128, 384, 768, 2048, pools (2,4), (4,5), (3,8),
    (4,8), dropout 0.5 after each:

        1 x 96 x 1366 -> 128 x 48 x 341 -> 384 x 12 x 68 -> 768 x 4 x 8 -> 2048 x 1 x 1 -> n_tags

    FCN-3 (Flores 2017): 128 mel bands, channels 128, 256, 512, pools (3,4), (4,5), (5,6), ReLU, no BatchNorm, no
    input normalisation (its front end standardises), the last map flattened. A 29.12 s frame at 22,050 Hz and hop 1024
    has 628 columns:

        1 x 128 x 628 -> 128 x 42 x 157 -> 256 x 10 x 31 -> 512 x 2 x 5 -> flat 5120 -> n_tags

    VGG (Pons & Serra 2019, published with musicnn): 128 channels five times, ReLU before BatchNorm, pools
    (1,4), (2,2), (2,2), (2,2), (4,4), the first with stride (2,2); on patches of 187 columns (3 s):

        1 x 96 x 187 -> 48 x 92 -> 24 x 46 -> 12 x 23 -> 6 x 11 -> 128 x 1 x 2 -> flat 256 -> n_tags

    leftover: how a map of more than one cell after the last pool is reduced. "mean" and "max" take one value per
        channel, so inputs of any length work; a single cell stays unchanged. "mean" is the default: a longer frame then
        gets the average of its parts, as a track gets the average of its frames. "flatten" keeps all cells and needs a
        fixed number of `columns`.
    channels, pools: one of each per convolution; pools are (mel bands, columns) and drop an incomplete last window.
    pool_strides: the distance between the pools' windows, where it is not their size.
    patch_columns: cut a frame into patches of this length, score each separately, and average the scores.
    norm_last: BatchNorm after the activation. activation: "elu" or "relu".
    Raises ModelError for invalid values, and for an input that does not fit them.
    """

    name = "fcn"

    def __init__(
        self,
        n_tags: Count,
        *,
        n_mels: Count = 96,
        columns: Count | None = None,
        input_norm: bool = True,
        channels: tuple[Count, ...] = (32, 128, 128, 192, 256),
        pools: tuple[Size, ...] = ((2, 4), (2, 4), (2, 4), (3, 5), (4, 4)),
        pool_strides: tuple[Size, ...] | None = None,
        patch_columns: Count | None = None,
        activation: Literal["elu", "relu"] = "elu",
        batch_norm: bool = True,
        norm_last: bool = False,
        dropout: Fraction = 0.0,
        leftover: Literal["mean", "max", "flatten"] = "mean",
    ) -> None:
        super().__init__()
        check_arguments(FCN.__init__, locals(), ModelError)
        self.leftover = leftover
        self.patch_columns = patch_columns
        self.columns = columns = columns if patch_columns is None else patch_columns
        if leftover == "flatten" and columns is None:
            raise ModelError('leftover "flatten" needs columns: the number of mel columns of a frame')
        blocks = conv_stack(
            channels,
            pools,
            pool_strides=pool_strides,
            activation=activation,
            batch_norm=batch_norm,
            norm_last=norm_last,
            dropout=dropout,
        )
        self.cnn = stacked(MelInput(n_mels, norm=input_norm), blocks)
        bands, steps = map_size(n_mels, columns or 0, blocks)
        if bands < 1 or (columns is not None and steps < 1):
            raise ModelError(f"the pools leave nothing of {n_mels} mel bands x {columns or 'any'} columns: {pools!r}")
        cells = bands * steps if leftover == "flatten" else 1
        self.dense = nn.Linear(channels[-1] * cells, n_tags)

    def forward(self, features: Tensor) -> Output:
        if self.patch_columns is not None:
            return over_patches(features, self.patch_columns, self._score, training=self.training)
        return self._score(features)

    def _score(self, mel: Tensor) -> Output:
        if self.columns is not None and mel.shape[-1] != self.columns:
            raise ModelError(f"this backbone reads frames of {self.columns} mel columns, not {mel.shape[-1]}")
        embedding = self._embedding(self.cnn(mel))
        return Output(self.dense(embedding), embedding)

    def _embedding(self, left: Tensor) -> Tensor:
        """[batch, channels, mel bands, columns] -> [batch, dim]."""
        if self.leftover == "mean":
            return left.mean(dim=(2, 3))
        return left.amax(dim=(2, 3)) if self.leftover == "max" else left.flatten(1)
