"""The backbone a run begins with: fresh, or with what another model has learnt."""

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
    """What the backbone is before training: its name, configuration and front end, and the model it starts from."""

    backbone: str
    config: dict[str, Any]
    front_end: FrontEnd
    model: Model | None = None

    def keeps_dense(self, outputs: tuple[str, ...]) -> bool:
        """Whether the model's dense layer says these words; else it begins anew (Wang et al. 2019, V.G)."""
        return self.model is not None and self.model.card.outputs == outputs and self.model.card.head is None


def origin_of(options: TrainOptions, settings: Settings, progress: Progress) -> Origin:
    """What to begin with. A model in `options.init` brings its own backbone, configuration and front end.

    Raises BadRequestError where the options ask for others, or name a model nobody knows.
    """
    if not options.init:
        return Origin(options.backbone or DEFAULT_BACKBONE, dict(options.config), options.built_front_end)
    model = load_model(find_or_pull(options.init, settings.model_folders, progress), settings.plugin_folders)
    card = model.card
    for what, asked, there in (
        ("backbone", options.backbone, card.backbone),
        ("front end", options.front_end and options.built_front_end, card.front_end),
        ("configuration", dict(options.config), {name: card.config.get(name) for name in options.config}),
    ):
        if asked and asked != there:
            raise BadRequestError(
                f"model {card.name} has another {what} than asked for ({_differences(there, asked)}); "
                f"leave it out: a model brings its own"
            )
    return Origin(card.backbone, dict(card.config), card.front_end, model)


def build_backbone(origin: Origin, outputs: tuple[str, ...], seed: int, settings: Settings) -> Backbone:
    """The backbone with one output for each of `outputs`, its weights from `seed` or from the model."""
    torch.manual_seed(seed)
    backbone = build(origin.backbone, len(outputs), origin.config, settings.plugin_folders)
    if origin.model is not None:
        learnt = origin.model.bare.state_dict()
        kept = {
            name: tensor
            for name, tensor in learnt.items()
            if origin.keeps_dense(outputs) or not name.startswith("dense")
        }
        backbone.load_state_dict({**backbone.state_dict(), **kept})
    return backbone.requires_grad_(True)


def _differences(there: object, asked: object) -> str:
    """What is there and not what is asked for; of several numbers those that differ."""
    one, other = (value.to_json() if isinstance(value, FrontEnd) else value for value in (there, asked))
    if not isinstance(one, dict) or not isinstance(other, dict):
        return f"{clipped(one)}, not {clipped(other)}"
    return ", ".join(
        f"{name} {clipped(one[name])}, not {clipped(other[name])}" for name in one if one[name] != other[name]
    )
