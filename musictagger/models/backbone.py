"""The contract of a backbone: architecture only, from a log-mel batch to logits and an embedding.

A plugin is one Python file with one class:

    class MyBackbone(Backbone):
        '''What it is. Source: authors, year.'''

        name = "mine"

        def __init__(self, n_tags: int, *, width: int = 64) -> None: ...
        def forward(self, mel: Tensor) -> Output: ...

It does no I/O and knows no vocabulary, no front end and no training loop. Every keyword of `__init__` must have
a default and be a JSON value: the model card stores them, and `Backbone(n_tags, **config)` builds it again.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

from torch import Tensor, nn


class Output(NamedTuple):
    """What a backbone returns for a batch of frames."""

    logits: Tensor
    """float32 [batch, n_tags]; a sigmoid (tags) or softmax (one genre) outside makes scores of them."""
    embedding: Tensor
    """float32 [batch, dim]; the features the last dense layer sees."""


class Backbone(nn.Module):
    """Base class of every backbone plugin.

    Sub-modules named `cnn`, `rnn` and `dense` (those it has) are what training freezes and regularises
    separately (Wang et al. 2019, III and V.G), so every parameter should lie in one of them.
    """

    name: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()

    def forward(self, mel: Tensor) -> Output:
        """Log-mel float32 [batch, n_mels, columns] -> Output(logits [batch, n_tags], embedding [batch, dim])."""
        raise NotImplementedError
