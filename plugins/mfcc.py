"""MFCC: statistics of cepstral coefficients, without trainable weights before the dense layer."""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn

from musictagger.errors import ModelError
from musictagger.models.backbone import Backbone, Output
from musictagger.models.layers import MelInput
from musictagger.values import Count, check_arguments


class MFCC(Backbone):
    """Classic features for a linear classifier. Source: the MFCC + SVM baseline of Wang et al. 2019, table III.

        mel bands x columns                                       96 x 1366
        cosine transform (II, orthonormal) of each column         20 x 1366
        mean and deviation over columns                                  40
        mean and deviation of differences between columns                40
        concatenated: the embedding                                      80
        BatchNorm, dense                                             n_tags

    Wang et al. state neither the number of coefficients nor how they become one vector per track; 20 is librosa's
    default, and these statistics are the usual ones. An SVM on the embedding is the baseline itself; with the dense
    layer it can be trained like any other backbone. The front end must give decibels (compression "db").

    n_mfcc: number of coefficients, the lowest of at most n_mels. Raises ModelError for invalid values.
    """

    name = "mfcc"
    transform: Tensor

    def __init__(self, n_tags: Count, *, n_mels: Count = 96, n_mfcc: Count = 20) -> None:
        super().__init__()
        check_arguments(MFCC.__init__, locals(), ModelError)
        if n_mfcc > n_mels:
            raise ModelError(f"n_mfcc is {n_mfcc}; {n_mels} mel bands have no more than {n_mels} coefficients")
        self.cnn = MelInput(n_mels, norm=False)
        self.register_buffer("transform", cosine_transform(n_mfcc, n_mels), persistent=False)
        # The first coefficient is a hundred times as large as the last and would dominate gradients without BatchNorm.
        layers = OrderedDict(norm=nn.BatchNorm1d(4 * n_mfcc), out=nn.Linear(4 * n_mfcc, n_tags))
        self.dense = nn.Sequential(layers)

    def forward(self, features: Tensor) -> Output:
        """Log-mel float32 [batch, n_mels, columns] dB -> logits [batch, n_tags], embedding [batch, 4 * n_mfcc]."""
        cepstra = self.transform @ self.cnn(features).squeeze(1)
        # A single column has no differences; they count as 0.
        changes = cepstra.diff(dim=2) if cepstra.shape[2] > 1 else torch.zeros_like(cepstra)
        embedding = torch.cat([*_statistics(cepstra), *_statistics(changes)], dim=1)
        return Output(self.dense(embedding), embedding)


def _statistics(values: Tensor) -> tuple[Tensor, Tensor]:
    return values.mean(dim=2), values.std(dim=2, correction=0)


def cosine_transform(coefficients: int, bands: int) -> Tensor:
    """The first rows of the orthonormal DCT-II matrix: float32 [coefficients, bands]."""
    row = torch.arange(coefficients, dtype=torch.float64)[:, None]
    middle = torch.arange(bands, dtype=torch.float64) + 0.5
    matrix = math.sqrt(2 / bands) * torch.cos(math.pi / bands * row * middle)
    matrix[0] /= math.sqrt(2)
    return matrix.float()
