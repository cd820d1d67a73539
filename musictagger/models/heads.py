"""Classifiers in the place of a backbone's dense layer: logistic regression, SVM and nearest neighbours as tensors.

Source: Roy et al. 2020 and Wang et al. 2019 (V.G) put such classifiers on the features of a frozen network.

A head takes an embedding [batch, dim] and gives logits [batch, n_tags], such that the sigmoid (tags) or softmax (one
genre) outside makes the classifier's own probabilities of them. It standardises the embedding itself. Its tensors lie
in the model's file under `head.`, its sizes in the card's `head`:

    kind              linear, kernel or neighbours
    dim               numbers in the embedding
    normalise         true: every output is a probability of its own, to be divided by their sum (one genre)
    support, gamma    kernel only: number of support vectors, width of the kernel
    stored, k         neighbours only: number of stored embeddings, how many of them vote
    backbone_outputs  outputs of the backbone's own dense layer. It stays in the file and is computed, since every
                      backbone names it differently and some compute their embedding in it; nobody looks at its logits
    fitted            what fitting chose and found, for people only
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from musictagger.errors import ModelError
from musictagger.models.backbone import Backbone, Output
from musictagger.models.layers import whole

PREFIX = "head."
"""What the names of a head's tensors begin with in a model's file."""
NEAR = 0.01
"""Added to a cosine distance before its inverse weighs a neighbour's vote, so that a copy does not outvote all."""
PRIOR_VOTES = 1.0
"""Neighbours that all stored embeddings together count as: a tag that no neighbour has is unlikely, not impossible."""


class Head(nn.Module):
    """What heads share: the standardisation of the embedding, and the way from margins to logits.

    margins: what the classifier computes, before its probabilities. logit = slope * margin + offset (Platt 1999;
    slope 1 and offset 0 where margins are log-odds already), and its log-sigmoid under `normalise`, which the softmax
    outside then divides by the sum.
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
        """float32 [batch, dim] -> the same with the mean and deviation of the training data taken out.

        Raises ModelError where the backbone gives other embeddings than the head was fitted on.
        """
        if embedding.dim() != 2 or embedding.shape[1] != len(self.mean):
            raise ModelError(
                f"this head reads embeddings [batch, {len(self.mean)}], the backbone gives {list(embedding.shape)}: "
                "they do not belong together"
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

    In float32 by differences: squares and products cancel, and margins were off by 7e-5. In float64 that harms nobody.
    """
    mode = "use_mm_for_euclid_dist" if one.dtype == torch.float64 else "donot_use_mm_for_euclid_dist"
    return torch.exp(-gamma * torch.cdist(one, other, compute_mode=mode).square())


class NeighbourHead(Head):
    """The k nearest of the stored embeddings vote, by cosine after standardising.

    A neighbour at distance d = 1 - cosine weighs 1 / (d + NEAR); the share of these weights that have a tag is then
    smoothed towards the tag's share of all stored embeddings. One genre: logit = log of that share, else its log-odds.
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
        """float32 [batch, dim] -> for each tag its share of the k neighbours' weighted votes, [batch, n_tags]."""
        cosine, places = (F.normalize(self.standardised(embedding)) @ self.vectors.T).topk(self.k, dim=1)
        weights = 1 / ((1 - cosine).clamp(min=0) + NEAR)
        votes = torch.einsum("bk,bkt->bt", weights, self.labels[places].to(weights.dtype))
        return votes / weights.sum(1, keepdim=True)

    def margins(self, embedding: Tensor) -> Tensor:
        """Logits already. `normalise` only says which kind: slope and offset stay 1 and 0."""
        smooth = (self.k * self.shares(embedding) + PRIOR_VOTES * self.prior) / (self.k + PRIOR_VOTES)
        return smooth.log() if self.normalise else smooth.log() - torch.log1p(-smooth)

    def forward(self, embedding: Tensor) -> Tensor:
        return self.margins(embedding)


class WithHead(nn.Module):
    """A backbone whose logits are a head's: `forward` is that of a Backbone. A part of a model, no plugin."""

    def __init__(self, backbone: Backbone, head: Head) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, mel: Tensor) -> Output:
        """Log-mel float32 [batch, n_mels, columns] -> Output(the head's logits, the backbone's embedding)."""
        embedding: Tensor = self.backbone(mel).embedding
        return Output(self.head(embedding), embedding)


_KEYS: Mapping[str, frozenset[str]] = {
    "linear": frozenset(),
    "kernel": frozenset({"support", "gamma"}),
    "neighbours": frozenset({"stored", "k"}),
}
_SHARED_KEYS = frozenset({"kind", "dim", "normalise"})
_OTHER_KEYS = frozenset({"backbone_outputs", "fitted"})


def build_head(description: Mapping[str, Any], n_tags: int) -> Head:
    """An empty head as `description` has it (see the module's text). Raises ModelError where it makes no sense."""
    _check_keys(description)
    kind, normalise = description["kind"], description["normalise"]
    if not isinstance(normalise, bool):
        raise ModelError(f"the card's head: normalise must be true or false, not {normalise!r}")
    dim = _size(description, "dim")
    if kind == "linear":
        return LinearHead(dim, n_tags, normalise=normalise)
    if kind == "kernel":
        return KernelHead(dim, n_tags, _size(description, "support"), _width(description["gamma"]), normalise=normalise)
    stored, k = _size(description, "stored"), _size(description, "k")
    if k > stored:
        raise ModelError(f"the card's head: k is {k}, but only {stored} embeddings are stored")
    return NeighbourHead(dim, n_tags, stored, k, normalise=normalise)


def backbone_outputs(description: Mapping[str, Any]) -> int:
    """Outputs of the backbone's own dense layer under a head. Raises ModelError where the description lacks it."""
    return _size(description, "backbone_outputs")


def _check_keys(description: object) -> None:
    if not isinstance(description, Mapping):
        raise ModelError(f"the card's head must be an object, not {description!r}")
    kind = description.get("kind")
    if not isinstance(kind, str) or kind not in _KEYS:
        raise ModelError(f"the card's head is of unknown kind {kind!r} (known: {', '.join(_KEYS)}); update musictagger")
    needed = _SHARED_KEYS | _KEYS[kind]
    wrong = [f"lacks {key}" for key in sorted(needed - set(description))]
    wrong += [f"has an unknown {key}" for key in sorted(map(str, set(description) - needed - _OTHER_KEYS))]
    if wrong:
        raise ModelError(f"the card's head (kind {kind}) {', '.join(wrong)}")


def _size(description: Mapping[str, Any], key: str) -> int:
    return whole(description.get(key), f"the card's head: {key}")


def _width(gamma: object) -> float:
    if isinstance(gamma, bool) or not isinstance(gamma, int | float) or not 0 < gamma < float("inf"):
        raise ModelError(f"the card's head: gamma must be a number above 0, not {gamma!r}")
    return float(gamma)
