"""Which model to use: by path, or by name among those on this machine. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from musictagger.errors import BadRequestError, ModelError, printable
from musictagger.models.card import Card
from musictagger.models.published import catalogue
from musictagger.paths import bundled_folder
from musictagger.progress import SILENT, Progress

DEFAULT = "fcn"
"""Used when none is named: of those that come with the program the best, at about the same speed
(docs/decisions/0009-models-that-ship.md)."""


@dataclass(frozen=True)
class FoundModel:
    """A model's weights file and its card, or what is wrong with one of the two."""

    name: str
    weights: Path
    size_bytes: int = 0
    card: Card | None = None
    error: str = ""
    hides: tuple[Path, ...] = ()
    """Weights of the same name in folders looked into later: only their path finds them."""


def find_models(folders: Sequence[Path]) -> list[FoundModel]:
    """Models embedded in the program, then those in `folders`; sorted by name, the first of a name wins."""
    found: dict[str, FoundModel] = {}
    for folder in (bundled_folder("weights"), *folders):
        # A trained model lies in the folder of its run, which bears its name and holds other weights as well.
        runs = (weights for weights in folder.glob("*/*.safetensors") if weights.stem == weights.parent.name)
        for weights in sorted([*folder.glob("*.safetensors"), *runs]):
            if weights.name.startswith("."):
                continue
            first = found.get(weights.stem)
            found[weights.stem] = replace(first, hides=(*first.hides, weights)) if first else _examine(weights)
    return [found[name] for name in sorted(found)]


def _examine(weights: Path) -> FoundModel:
    try:
        size_bytes = weights.stat().st_size
        return FoundModel(weights.stem, weights, size_bytes, Card.load(weights.with_suffix(".json")))
    except OSError as error:
        # A link to nothing, mostly.
        return FoundModel(weights.stem, weights, error=f"{weights}: cannot be read: {error.strerror}")
    except ModelError as error:
        return FoundModel(weights.stem, weights, error=str(error))


def verified(model: FoundModel) -> FoundModel:
    """The same, or without a card and with the reason where the weights are not those that it describes.

    Reads the whole file, which a model that is only looked for does not need.
    """
    if model.card is None:
        return model
    try:
        model.card.require_weights(model.weights)
    except ModelError as error:
        return replace(model, card=None, error=str(error))
    return model


def unreadable(folders: Sequence[Path]) -> list[str]:
    """Of each folder that is there and cannot be read, which it is and why. Looking for models passes over them."""
    reasons = []
    for folder in folders:
        try:
            os.scandir(folder).close()
        except FileNotFoundError:
            continue
        except OSError as error:
            reasons.append(f"{printable(folder)}: cannot be read: {error.strerror}")
    return reasons


def find_model(name: str, folders: Sequence[Path]) -> Path | None:
    """The weights file of a model given by name or by path; None for a published one that is not here yet.

    Raises BadRequestError, with a suggestion, for a name nobody knows; ModelError where it may lie in a folder that
    cannot be read.
    """
    if name.endswith(".safetensors") or "/" in name:
        path = Path(name).expanduser()
        if not path.is_file():
            raise BadRequestError(f"{name}: there is no such model file")
        return path
    here = {model.name: model.weights for model in find_models(folders)}
    if name in here:
        return here[name]
    if reasons := unreadable(folders):
        raise ModelError(reasons[0])
    if name in catalogue.names():
        return None
    raise catalogue.no_model("model", name, [*here, *catalogue.names()])


def find_or_pull(name: str, folders: Sequence[Path], progress: Progress = SILENT) -> Path:
    """The weights file of a model given by name or by path; a published one that is not here yet is fetched.

    Raises BadRequestError as `find_model` does, ModelError when it cannot be fetched.
    """
    from musictagger.models.published.pull import pull

    return find_model(name, folders) or pull(name, folders[0], progress=progress)
