"""Classifiers that replace a backbone's dense layer: logistic regression, SVM and nearest neighbours as tensors.

Source: Roy et al. 2020 and Wang et al. 2019 (V.G) put such classifiers on the features of a frozen network.

A head maps an embedding [batch, dim] to logits [batch, n_tags], whose sigmoid (tags) or softmax (one genre) gives the
probabilities of the classifier. It standardises the embedding itself. Its tensors are in the model's file, with names
that begin with `head.`; its sizes are in the card's `head`:

    kind              linear, kernel or neighbours
    dim               length of the embedding
    normalise         true: outputs are separate probabilities, to be divided by their sum (one genre)
    support, gamma    kernel only: number of support vectors, width of the kernel
    stored, k         neighbours only: number of stored embeddings, number of neighbours that vote
    backbone_outputs  outputs of the backbone's own dense layer. It stays in the file and is computed, since every
                      backbone names it differently and some compute their embedding in it; its logits are not used
    fitted            hyperparameters and results of the fit, for information only
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from musictagger.errors import ModelError
from musictagger.models.backbone import Backbone, Output
from musictagger.values import Count, Positive, convert, load

PREFIX = "head."
"""Prefix of the names of a head's tensors in a model's file."""
NEAR = 0.01
"""Added to a cosine distance before its inverse weights a neighbour's vote: a duplicate must not outvote the rest."""
PRIOR_VOTES = 1.0
"""Weight of the prior, in neighbours: a tag that no neighbour has is unlikely, not impossible."""


class Head(nn.Module):
    """Base class of heads: it standardises embeddings and turns margins into logits.

    margins: the outputs of the classifier before its probabilities. logit = slope * margin + offset (Platt 1999;
    slope 1 and offset 0 for margins that are log-odds). With `normalise` the logits are the log-sigmoid of that, so
    that a softmax divides the probabilities by their sum.
    """

    mean: Tensor
    deviation: Tensor
    slope: Tensor
    offset: Tensor

    def __init__(self, dim: int, n_tags: int, *, normalise: bool = False) -> None:
        super().__init__()
        self.normalise = normalise
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("deviation", torch.ones(dim))
        self.register_buffer("slope", torch.ones(n_tags))
        self.register_buffer("offset", torch.zeros(n_tags))

    def standardised(self, embedding: Tensor) -> Tensor:
        """float32 [batch, dim] -> the same, standardised by the mean and deviation of the training data.

        Raises ModelError for embeddings of another length than the head was fitted on.
        """
        if embedding.dim() != 2 or embedding.shape[1] != len(self.mean):
            raise ModelError(
                f"this head reads embeddings [batch, {len(self.mean)}], the backbone gives {list(embedding.shape)}: "
                "they belong to different models"
            )
        return (embedding - self.mean) / self.deviation

    def margins(self, embedding: Tensor) -> Tensor:
        """float32 [batch, dim] -> float32 [batch, n_tags]."""
        raise NotImplementedError

    def forward(self, embedding: Tensor) -> Tensor:
        """Embedding float32 [batch, dim] -> logits float32 [batch, n_tags]."""
        logits = self.slope * self.margins(embedding) + self.offset
        return F.logsigmoid(logits) if self.normalise else logits


class LinearHead(Head):
    """Logistic regression, or a linear SVM for each tag: margin = weight . embedding + bias."""

    weight: Tensor
    bias: Tensor

    def __init__(self, dim: int, n_tags: int, *, normalise: bool = False) -> None:
        super().__init__(dim, n_tags, normalise=normalise)
        self.register_buffer("weight", torch.zeros(n_tags, dim))
        self.register_buffer("bias", torch.zeros(n_tags))

    def margins(self, embedding: Tensor) -> Tensor:
        return F.linear(self.standardised(embedding), self.weight, self.bias)


class KernelHead(Head):
    """An RBF SVM for each tag: margin = sum over support vectors of dual * exp(-gamma * distance^2), plus intercept.

    The tags' SVMs share one list of support vectors; where a tag's SVM does not use one, its dual coefficient is 0.
    """

    vectors: Tensor
    dual: Tensor
    intercept: Tensor

    def __init__(self, dim: int, n_tags: int, support: int, gamma: float, *, normalise: bool = False) -> None:
        super().__init__(dim, n_tags, normalise=normalise)
        self.gamma = gamma
        self.register_buffer("vectors", torch.zeros(support, dim))
        self.register_buffer("dual", torch.zeros(n_tags, support))
        self.register_buffer("intercept", torch.zeros(n_tags))

    def margins(self, embedding: Tensor) -> Tensor:
        return F.linear(rbf(self.standardised(embedding), self.vectors, self.gamma), self.dual, self.intercept)


def rbf(one: Tensor, other: Tensor, gamma: float) -> Tensor:
    """exp(-gamma * squared distance) of [n, dim] and [m, dim] -> [n, m].

    In float32 by differences, since squares and products cancel: margins were off by 7e-5. Float64 is exact enough.
    """
    mode = "use_mm_for_euclid_dist" if one.dtype == torch.float64 else "donot_use_mm_for_euclid_dist"
    return torch.exp(-gamma * torch.cdist(one, other, compute_mode=mode).square())


class NeighbourHead(Head):
    """k nearest neighbours: the stored embeddings with the smallest cosine distance after standardisation vote.

    A neighbour at distance d = 1 - cosine has the weight 1 / (d + NEAR). The share of a tag in these weights is
    smoothed towards its share in all stored embeddings. The logit is the log of that for one genre, else its log-odds.
    """

    vectors: Tensor
    labels: Tensor
    prior: Tensor

    def __init__(self, dim: int, n_tags: int, stored: int, k: int, *, normalise: bool = False) -> None:
        super().__init__(dim, n_tags, normalise=normalise)
        self.k = k
        self.register_buffer("vectors", torch.zeros(stored, dim))
        self.register_buffer("labels", torch.zeros(stored, n_tags, dtype=torch.uint8))
        self.register_buffer("prior", torch.full((n_tags,), 0.5))

    def shares(self, embedding: Tensor) -> Tensor:
        """float32 [batch, dim] -> each tag's share of the k neighbours' weighted votes, [batch, n_tags]."""
        cosine, nearest = (F.normalize(self.standardised(embedding)) @ self.vectors.T).topk(self.k, dim=1)
        weights = 1 / ((1 - cosine).clamp(min=0) + NEAR)
        votes = torch.einsum("bk,bkt->bt", weights, self.labels[nearest].to(weights.dtype))
        return votes / weights.sum(1, keepdim=True)

    def margins(self, embedding: Tensor) -> Tensor:
        """Embedding float32 [batch, dim] -> logits float32 [batch, n_tags]; slope and offset stay 1 and 0."""
        smooth = (self.k * self.shares(embedding) + PRIOR_VOTES * self.prior) / (self.k + PRIOR_VOTES)
        return smooth.log() if self.normalise else smooth.log() - torch.log1p(-smooth)

    def forward(self, embedding: Tensor) -> Tensor:
        return self.margins(embedding)


class WithHead(nn.Module):
    """A backbone with a head: `forward` is that of a Backbone. It is part of a model and not a plugin."""

    def __init__(self, backbone: Backbone, head: Head) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, mel: Tensor) -> Output:
        """Log-mel float32 [batch, n_mels, columns] -> Output(the head's logits, the backbone's embedding)."""
        embedding: Tensor = self.backbone(mel).embedding
        return Output(self.head(embedding), embedding)


@dataclass(frozen=True, kw_only=True)
class _LinearCard:
    """The `head` of a card, as the module's docstring describes it."""

    kind: str
    dim: Count
    normalise: bool
    backbone_outputs: Count | None = None
    fitted: Any = None


@dataclass(frozen=True, kw_only=True)
class _KernelCard(_LinearCard):
    support: Count
    gamma: Positive


@dataclass(frozen=True, kw_only=True)
class _NeighbourCard(_LinearCard):
    stored: Count
    k: Count


_CARDS = {"linear": _LinearCard, "kernel": _KernelCard, "neighbours": _NeighbourCard}


def build_head(description: Mapping[str, Any], n_tags: int) -> Head:
    """Build the head that the card's `head` describes, without its tensors. Raises ModelError if it is invalid."""
    kind = description.get("kind")
    if not isinstance(kind, str) or kind not in _CARDS:
        raise ModelError(
            f"the card's head is of unknown kind {kind!r} (known: {', '.join(_CARDS)}); update musictagger"
        )
    card = load(description, _CARDS[kind], f"the card's head (kind {kind})", ModelError)
    if isinstance(card, _KernelCard):
        return KernelHead(card.dim, n_tags, card.support, card.gamma, normalise=card.normalise)
    if not isinstance(card, _NeighbourCard):
        return LinearHead(card.dim, n_tags, normalise=card.normalise)
    if card.k > card.stored:
        raise ModelError(f"the card's head: k is {card.k}, but only {card.stored} embeddings are stored")
    return NeighbourHead(card.dim, n_tags, card.stored, card.k, normalise=card.normalise)


def backbone_outputs(description: Mapping[str, Any]) -> int:
    """Outputs of the backbone's own dense layer below a head. Raises ModelError if the description lacks it."""
    outputs: int = convert(description.get("backbone_outputs"), Count, "the card's head: backbone_outputs", ModelError)
    return outputs
