"""Load, verify and save trained models: NAME.safetensors with its card NAME.json beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from musictagger.errors import ModelError, clipped, reason_of
from musictagger.models.backbone import Backbone
from musictagger.models.card import Card
from musictagger.models.heads import PREFIX, WithHead, backbone_outputs, build_head
from musictagger.models.registry import build
from musictagger.paths import replacing


@dataclass(frozen=True)
class Model:
    """A trained backbone in evaluation mode, and its card."""

    card: Card
    backbone: Backbone | WithHead
    """The network that predicts: the backbone, with a head where the card has one."""

    @property
    def bare(self) -> Backbone:
        """The backbone without a head, from which another training can start."""
        return self.backbone.backbone if isinstance(self.backbone, WithHead) else self.backbone


def load_model(weights: Path, plugin_folders: Sequence[Path] = ()) -> Model:
    """Load NAME.safetensors and its card. Raises ModelError, naming the file, if one is missing, damaged or foreign."""
    card = Card.load(weights.with_suffix(".json"))
    card.require_weights(weights)
    try:
        backbone = _built(card, plugin_folders)
    except ModelError as error:
        raise ModelError(f"{weights}: {error}") from error
    try:
        # Shipped weights are float16 to be small; computing in float16 would cost accuracy, and speed on a CPU.
        tensors = {name: _widened(tensor) for name, tensor in load_file(weights).items()}
        if isinstance(backbone, WithHead):
            tensors = {name if name.startswith(PREFIX) else f"backbone.{name}": tensors[name] for name in tensors}
    except (SafetensorError, RuntimeError, OSError) as error:
        raise ModelError(f"{weights}: does not fit backbone {card.backbone}: {error}") from error
    try:
        backbone.load_state_dict(tensors)
    except RuntimeError as error:
        # torch's message has a line for every tensor.
        reason = misfit(tensors, backbone.state_dict()) or next(iter(str(error).splitlines()), "")
        raise ModelError(f"{weights}: does not fit backbone {card.backbone}: {reason}") from error
    if reason := not_finite(tensors):
        raise ModelError(f"{weights}: {reason}; fetch or train the model again")
    return Model(card, backbone.eval().requires_grad_(False))


def misfit(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """The first tensor of `wanted`, a backbone's state, that is missing in `given` or has another shape there.

    If there is none, the first tensor that only `given` has, or "".
    """
    for name, tensor in wanted.items():
        if name not in given:
            return f"{name} is missing"
        if given[name].shape != tensor.shape:
            return f"{name} is {_shape(given[name])} instead of {_shape(tensor)}"
    unknown = sorted(given.keys() - wanted.keys())
    return f"the backbone has no tensor {clipped(unknown[0])}" if unknown else ""


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "one number"


def not_finite(tensors: Mapping[str, Tensor]) -> str:
    """The first tensor with infinities or NaN, as a reason; "" if there is none."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            return f"{name} holds values that are not finite"
    return ""


def _built(card: Card, plugin_folders: Sequence[Path]) -> Backbone | WithHead:
    """The network that the card describes, with fresh weights. Raises ModelError if it cannot be built."""
    if card.head is None:
        return build(card.backbone, len(card.outputs), card.config, plugin_folders)
    head = build_head(card.head, len(card.outputs))
    return WithHead(build(card.backbone, backbone_outputs(card.head), card.config, plugin_folders), head)


def save_weights(tensors: Mapping[str, Tensor], weights: Path) -> str:
    """Write tensors as safetensors, atomically; returns the file's SHA-256. Raises ModelError (disk full)."""
    content = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    try:
        weights.parent.mkdir(parents=True, exist_ok=True)
        with replacing(weights) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise ModelError(f"{weights}: cannot be written: {reason_of(error)}") from error
    return hashlib.sha256(content).hexdigest()


def _widened(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in {torch.float16, torch.bfloat16} else tensor
