"""Trained weights as a model that every command can use: a safetensors file and its card."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from musictagger.models.card import Card, Category, Tag, Task
from musictagger.models.vocabulary import tags_for
from musictagger.models.weights import save_weights
from musictagger.version import __version__

FIRST_THRESHOLD = 0.5
"""Of a tag whose threshold cannot be fitted (Panwar et al. 2017)."""


def export_model(weights: Path, tensors: Mapping[str, Tensor], card: Card) -> None:
    """Write `tensors`, and the card with their digest and the programs' versions. Raises ModelError (disk full)."""
    digest = save_weights({name: halved(name, tensor) for name, tensor in tensors.items()}, weights)
    versions = {"musictagger": __version__, "torch": torch.__version__.partition("+")[0]}
    card = dataclasses.replace(card, weights_sha256=digest, training={**card.training, **versions})
    card.save(weights.with_suffix(".json"))


def tags_of_outputs(
    outputs: tuple[str, ...], task: Task, categories: Mapping[str, Category], thresholds: Mapping[str, float]
) -> tuple[Tag, ...]:
    """The tags of a card: outputs with the same meaning merged, and FIRST_THRESHOLD where `thresholds` has none."""
    tags = tags_for(
        outputs, {**thresholds, "default": FIRST_THRESHOLD}, unknown="genre" if task == "genre" else "other"
    )
    # The category in the data takes precedence over the one in tags.toml.
    return tuple(
        dataclasses.replace(tag, category=next(filter(None, map(categories.get, tag.outputs)), tag.category))
        for tag in tags
    )


def halved(name: str, tensor: Tensor) -> Tensor:
    """The tensor as float16, unless that loses too much.

    Rounding a weight to 11 bits moves a score by less than 0.001. BatchNorm's running variances may be tiny or huge and
    are few, as are the tensors of a head, some of which are fitted to the last bit.
    """
    if tensor.dtype != torch.float32 or ".running_" in name or name.startswith("head."):
        return tensor
    half = tensor.half()
    return half if half.isfinite().all() else tensor
