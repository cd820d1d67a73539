"""Find models by path, or by name among those on this machine. Does not import torch."""

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
"""The model used when none is named: the best of the bundled ones, which are about equally fast
(docs/decisions/0009-models-that-ship.md)."""


@dataclass(frozen=True)
class FoundModel:
    """A model's weights file with its card, or the error of one of the two."""

    name: str
    weights: Path
    size_bytes: int = 0
    card: Card | None = None
    error: str = ""
    hides: tuple[Path, ...] = ()
    """Weights of the same name in later folders, which can only be selected by their path."""


def find_models(folders: Sequence[Path]) -> list[FoundModel]:
    """Bundled models and those in `folders`, sorted by name; the first one of each name is used."""
    found: dict[str, FoundModel] = {}
    for folder in (bundled_folder("weights"), *folders):
        # A trained model is in the folder of its run, which has its name and contains other weights as well.
        runs = (weights for weights in folder.glob("*/*.safetensors") if weights.stem == weights.parent.name)
        for weights in sorted([*folder.glob("*.safetensors"), *runs]):
            if weights.name.startswith("."):
                continue
            first = found.get(weights.stem)
            found[weights.stem] = replace(first, hides=(*first.hides, weights)) if first else _examine(weights)
    return [found[name] for name in sorted(found)]


def _examine(weights: Path) -> FoundModel:
    try:
        return FoundModel(weights.stem, weights, weights.stat().st_size, Card.load(weights.with_suffix(".json")))
    except (OSError, ModelError) as error:
        # An OSError is usually a broken link.
        reason = f"{weights}: cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)
        return FoundModel(weights.stem, weights, error=reason)


def verified(model: FoundModel) -> FoundModel:
    """The model, without its card and with an error if the weights do not match the card's digest.

    Reads the whole file, which is not needed to find a model.
    """
    if model.card is None:
        return model
    try:
        model.card.require_weights(model.weights)
    except ModelError as error:
        return replace(model, card=None, error=str(error))
    return model


def unreadable(folders: Sequence[Path]) -> list[str]:
    """An error for each existing folder that cannot be read; a search for models skips them."""
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
    """The weights file of a model given by name or path; None for a published one that is not installed.

    Raises BadRequestError, with a suggestion, for an unknown name, and ModelError if a folder where the model may be
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
    """The weights file of a model given by name or path; a published one that is not installed is fetched.

    Raises BadRequestError as `find_model` does, and ModelError when the model cannot be fetched.
    """
    from musictagger.models.published.pull import pull

    return find_model(name, folders) or pull(name, folders[0], progress=progress)
