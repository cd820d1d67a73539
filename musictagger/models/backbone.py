"""The contract of a backbone: architecture only, from a batch of log-mel frames to logits and an embedding.

A plugin is one Python file with one class:

    class MyBackbone(Backbone):
        '''What it is. Source: authors, year.'''

        name = "mine"

        def __init__(self, n_tags: int, *, width: int = 64) -> None: ...
        def forward(self, features: Tensor) -> Output: ...

It does no I/O and does not depend on a vocabulary, front end or training loop. Every keyword of `__init__` must have a
default and be a JSON value: the model card stores them, and `Backbone(n_tags, **config)` builds the backbone again. At
its start `values.check_arguments(MyBackbone.__init__, locals(), ModelError)` refuses values that the annotations
exclude.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

from torch import Tensor, nn


class Output(NamedTuple):
    """The output of a backbone for a batch of frames."""

    logits: Tensor
    """float32 [batch, n_tags]; the caller turns them into scores with a sigmoid (tags) or a softmax (one genre)."""
    embedding: Tensor
    """float32 [batch, dim]; the input of the last dense layer."""


class Backbone(nn.Module):
    """Base class of every backbone plugin.

    Training freezes and regularises the sub-modules `cnn`, `rnn` and `dense` separately (Wang et al. 2019, III and
    V.G), so every parameter should belong to one of them; a backbone need not have all three.
    """

    name: ClassVar[str]
    patch_columns: int | None = None
    """Length of the patches that the backbone scores separately and averages; None when it reads a frame as a whole."""

    @property
    def output_layer(self) -> nn.Linear | None:
        """The dense layer that computes the logits: the last nn.Linear, unless a backbone overrides this.

        Training initialises its bias. None for a backbone without such a layer.
        """
        layers = [module for module in self.modules() if isinstance(module, nn.Linear)]
        return layers[-1] if layers else None

    def forward(self, features: Tensor) -> Output:
        """Log-mel float32 [batch, n_mels, columns] -> Output(logits [batch, n_tags], embedding [batch, dim])."""
        raise NotImplementedError
