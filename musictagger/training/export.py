"""Trained weights as a model that every command can use: a safetensors file and its card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from musictagger.audio.frontend import FrontEnd
from musictagger.models.card import Card, Category, Task
from musictagger.models.vocabulary import tags_for
from musictagger.models.weights import save_weights
from musictagger.version import __version__

FIRST_THRESHOLD = 0.5
"""Of a tag whose own cannot be fitted (Panwar et al. 2017)."""


def export_model(
    weights: Path,
    tensors: Mapping[str, Tensor],
    *,
    backbone: str,
    config: Mapping[str, Any],
    front_end: FrontEnd,
    outputs: tuple[str, ...],
    categories: Mapping[str, Category],
    task: Task,
    training: Mapping[str, Any],
    description: str,
    head: Mapping[str, Any] | None = None,
    thresholds: Mapping[str, float] | None = None,
) -> Card:
    """Write `tensors` and a card with `thresholds` by tag, FIRST_THRESHOLD for the others; return the card.

    Raises ModelError (disk full).
    """
    digest = save_weights({name: halved(name, tensor) for name, tensor in tensors.items()}, weights)
    tags = tags_for(
        outputs, {**(thresholds or {}), "default": FIRST_THRESHOLD}, unknown="genre" if task == "genre" else "other"
    )
    # What the data say of a word outweighs what the program thinks of it.
    known = [next((categories[word] for word in tag.outputs if word in categories), tag.category) for tag in tags]
    card = Card(
        name=weights.stem,
        backbone=backbone,
        config=config,
        front_end=front_end,
        outputs=outputs,
        tags=tuple(
            type(tag)(tag.name, category, tag.outputs, tag.threshold) for tag, category in zip(tags, known, strict=True)
        ),
        task=task,
        weights_sha256=digest,
        description=description,
        licence="as the music and labels it was trained on allow",
        training={**training, "musictagger": __version__, "torch": torch.__version__.partition("+")[0]},
        head=head,
    )
    card.save(weights.with_suffix(".json"))
    return card


def halved(name: str, tensor: Tensor) -> Tensor:
    """The tensor as float16, unless that would lose what matters.

    Rounding a weight to 11 bits moves a score by less than 0.001. BatchNorm's running variances may be tiny or huge and
    are few, as are the tensors of a head, some of which are fitted to the last bit.
    """
    if tensor.dtype != torch.float32 or ".running_" in name or name.startswith("head."):
        return tensor
    fits = bool(tensor.abs().max() < torch.finfo(torch.float16).max) if tensor.numel() else True
    return tensor.half() if fits else tensor
