"""Installing a converted model: by one process at a time, tested first, and completely or not at all.

Importing this module imports neither torch nor numpy.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from musictagger.errors import ModelError, printable, reason_of
from musictagger.paths import hold_lock
from musictagger.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor

    from musictagger.models.published.catalogue import CatalogueEntry
    from musictagger.models.published.convert import Converted
    from musictagger.models.weights import Model


@contextlib.contextmanager
def install_lock(name: str, folder: Path, progress: Progress) -> Iterator[bool]:
    """Hold the right to install a model `name` into `folder`, which is created; yields whether that took waiting.

    Raises ModelError where the folder cannot be written, before anything is fetched.
    """
    waited = False

    def waiting() -> None:
        nonlocal waited
        waited = True
        progress.say(f"another process is installing {name}; waiting for it")

    path = folder / f".{name}.lock"
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = hold_lock(path, waiting=waiting)
    with lock:
        try:
            yield waited
        finally:
            with contextlib.suppress(OSError):
                path.unlink()


def install(wanted: CatalogueEntry, converted: Converted, folder: Path, source: str) -> None:
    """Write weights and card into a scratch folder, load and run them, and only then move them into `folder`.

    The weights are moved last, because models are found by them: a crash in between leaves no model instead of one
    without a card. Raises ModelError, naming `source`, where the weights do not fit their backbone or give no scores,
    and where the folder cannot be written.
    """
    import torch
    from safetensors.torch import save

    from musictagger.models.card import sha256_of
    from musictagger.models.weights import load_model

    tensors = {key: torch.from_numpy(tensor) for key, tensor in converted.tensors.items()}
    if reason := _unusable(converted, tensors):
        raise ModelError(f"{source}: does not fit backbone {converted.backbone}: {reason}")
    with contextlib.ExitStack() as stack:
        with disk_errors(folder):
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix=".musictagger-", dir=folder))
            weights = Path(scratch) / f"{wanted.name}.safetensors"
            weights.write_bytes(save(tensors))
            wanted.card(converted.config, sha256_of(weights)).save(weights.with_suffix(".json"))
        if reason := _no_scores(load_model(weights)):
            raise ModelError(f"{source}: {reason}; the weights are damaged, or of another model")
        with disk_errors(folder):
            for path in (weights.with_suffix(".json"), weights):
                path.replace(folder / path.name)


def _unusable(converted: Converted, tensors: dict[str, Tensor]) -> str:
    """The first tensor that does not fit the backbone or is not finite; empty where there is none.

    The backbone they are compared with is on the meta device: sizes read from a damaged file could fill any memory.
    """
    import torch

    from musictagger.models.registry import build
    from musictagger.models.weights import misfit, not_finite

    try:
        with torch.device("meta"):
            backbone = build(converted.backbone, converted.n_tags, converted.config)
    except ModelError as error:
        return str(error)
    return misfit(tensors, backbone.state_dict()) or not_finite(tensors)


def _no_scores(model: Model) -> str:
    """The reason why the scores of a frame of noise and a frame of a tone are unusable; empty where they are usable."""
    import torch

    from musictagger.audio.logmel import LogMel

    front_end = model.card.front_end
    samples = front_end.frame_samples
    noise = 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(1))
    tone = 0.3 * torch.sin(torch.arange(samples) * (440 * 2 * torch.pi / front_end.sample_rate_hz))
    with torch.inference_mode():
        logits = model.backbone(LogMel(front_end)(torch.stack([noise, tone]))).logits
    if logits.shape != (2, len(model.card.outputs)) or not torch.isfinite(logits).all():
        return "gives no scores"
    return "gives noise and a tone the same scores" if torch.equal(logits[0], logits[1]) else ""


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn errors of the system into a ModelError that names the folder instead of a hidden file in it."""
    try:
        yield
    except OSError as error:
        raise ModelError(f"{printable(folder)}: cannot be written: {reason_of(error)}") from error
