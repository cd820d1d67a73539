"""The backbone that a training starts from: fresh weights, or those of another model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from musictagger.audio.frontend import FrontEnd
from musictagger.config import Settings
from musictagger.errors import BadRequestError, clipped
from musictagger.models.backbone import Backbone
from musictagger.models.find import find_or_pull
from musictagger.models.registry import build
from musictagger.models.weights import Model, load_model
from musictagger.progress import Progress
from musictagger.training.options import DEFAULT_BACKBONE, TrainOptions


@dataclass(frozen=True)
class Origin:
    """The backbone before training: its name, configuration and front end, and the model it starts from."""

    backbone: str
    config: dict[str, Any]
    front_end: FrontEnd
    model: Model | None = None

    def keeps_dense(self, outputs: tuple[str, ...]) -> bool:
        """True if the model has these outputs; otherwise its dense layer is reinitialised (Wang et al. 2019, V.G)."""
        return self.model is not None and self.model.card.outputs == outputs and self.model.card.head is None


def origin_of(options: TrainOptions, settings: Settings, progress: Progress) -> Origin:
    """The origin that the options name. A model in `options.init` brings its own backbone, configuration and front end.

    Raises BadRequestError where the options ask for others, or name an unknown model.
    """
    if not options.init:
        return Origin(options.backbone or DEFAULT_BACKBONE, dict(options.config), options.built_front_end)
    model = load_model(find_or_pull(options.init, settings.model_folders, progress), settings.plugin_folders)
    card = model.card
    for name, asked, own in (
        ("backbone", options.backbone, card.backbone),
        ("front end", options.front_end and options.built_front_end, card.front_end),
        ("configuration", dict(options.config), {key: card.config.get(key) for key in options.config}),
    ):
        if asked and asked != own:
            raise BadRequestError(
                f"model {card.name} has another {name} than requested ({_differences(own, asked)}); "
                f"leave it out: a model brings its own"
            )
    return Origin(card.backbone, dict(card.config), card.front_end, model)


def build_backbone(origin: Origin, outputs: tuple[str, ...], seed: int, settings: Settings) -> Backbone:
    """The backbone with one output for each of `outputs`, its weights from `seed` or from the model."""
    torch.manual_seed(seed)
    backbone = build(origin.backbone, len(outputs), origin.config, settings.plugin_folders)
    if origin.model is not None:
        kept = {
            name: tensor
            for name, tensor in origin.model.bare.state_dict().items()
            if origin.keeps_dense(outputs) or not name.startswith("dense")
        }
        backbone.load_state_dict({**backbone.state_dict(), **kept})
    return backbone.requires_grad_(True)


def _differences(own: object, asked: object) -> str:
    """A model's own value and the one asked for; of several values, those that differ."""
    one, other = (value.to_json() if isinstance(value, FrontEnd) else value for value in (own, asked))
    if not isinstance(one, dict) or not isinstance(other, dict):
        return f"{clipped(one)}, not {clipped(other)}"
    return ", ".join(
        f"{name} {clipped(one[name])}, not {clipped(other[name])}" for name in one if one[name] != other[name]
    )
