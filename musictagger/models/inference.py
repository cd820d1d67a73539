"""From waves to scores on a device: front end, backbone and output activation in one fused, batched step."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from musictagger.audio.frames import Wave
from musictagger.audio.logmel import LogMel
from musictagger.config import Settings
from musictagger.errors import BadRequestError, ModelError, MusictaggerError
from musictagger.models.backbone import Output
from musictagger.models.find import DEFAULT, find_or_pull
from musictagger.models.fuse import fuse
from musictagger.models.registry import failure, origin_of, quiet_output
from musictagger.models.weights import Model, load_model
from musictagger.progress import SILENT, Progress
from musictagger.records import FloatArray

BATCH_FRAMES = {"cpu": 8, "cuda": 64, "mps": 16}
"""Default number of frames per batch. On two CPU cores 8 frames are within 3 % of the best of 1..32; a GPU needs more
to hide the latency of its launches."""


@dataclass(frozen=True)
class Prediction:
    """A model's output for n frames."""

    scores: FloatArray
    """float32 [n, outputs], each 0..1."""
    embedding: FloatArray
    """float32 [n, dim]."""


class Predictor:
    """A model on a device. It batches any number of frames, in smaller batches when memory is full."""

    def __init__(
        self, model: Model, device: str = "auto", batch_frames: int | None = None, *, bfloat16: bool = False
    ) -> None:
        """`bfloat16`: compute the backbone in bfloat16, which is faster where the device supports it. Scores of three
        published models changed by at most 0.009 (CPU, one track).

        Raises BadRequestError for a device that does not exist, ModelError for a backbone that cannot be copied.
        """
        self.device = pick_device(device)
        self._bfloat16 = bfloat16
        self.batch_frames = batch_frames or BATCH_FRAMES.get(self.device.type, 8)
        self.card = model.card
        self._log_mel = LogMel(model.card.front_end).to(self.device)
        self._label = f"backbone {model.card.backbone} ({origin_of(type(model.backbone))})"
        try:
            self._backbone: nn.Module = fuse(model.backbone).to(self.device)
        except (TypeError, ValueError) as error:
            raise ModelError(f"{self._label} cannot be copied: {failure(error)}") from error

    def __call__(self, waves: Sequence[Wave]) -> Prediction:
        """Scores and embeddings of frames, each float32 [frame_samples] at the model's sample rate.

        Raises MusictaggerError when not even one frame fits into memory, ModelError when the backbone fails.
        """
        scores: list[Tensor] = []
        embeddings: list[Tensor] = []
        start = 0
        while start < len(waves):
            batch = waves[start : start + self.batch_frames]
            try:
                frame_scores, embedding = self._predict(batch)
            except RuntimeError as error:
                self._make_room(error, len(batch))
                continue
            scores.append(frame_scores)
            embeddings.append(embedding)
            start += len(batch)
        return Prediction(_stacked(scores, len(self.card.outputs)), _stacked(embeddings, 0))

    @torch.inference_mode()
    def _predict(self, waves: Sequence[Wave]) -> tuple[Tensor, Tensor]:
        batch = torch.from_numpy(np.stack(waves)).to(self.device)
        output = self._forward(self._log_mel(batch))
        logits = output.logits.float()
        activated = logits.sigmoid() if self.card.task == "tags" else logits.softmax(dim=-1)
        return activated.cpu(), output.embedding.float().cpu()

    def _forward(self, mel: Tensor) -> Output:
        """Run the backbone. It may be a user's code, so its errors name it."""
        try:
            rounded = torch.autocast(self.device.type, torch.bfloat16) if self._bfloat16 else nullcontext()
            with quiet_output(), rounded:
                output: Output = self._backbone(mel)
            _require_shapes(output, len(mel), len(self.card.outputs))
        except (Exception, SystemExit) as error:
            if _is_out_of_memory(error):
                raise
            raise ModelError(f"{self._label} failed: {failure(error)}") from error
        return output

    def _make_room(self, error: RuntimeError, frames: int) -> None:
        """Halve the batch after an allocation failed; raise any other error again."""
        if not _is_out_of_memory(error):
            raise error
        if frames == 1:
            raise MusictaggerError(
                f"not enough memory on {self.device} for one frame; close other programs or use --device cpu"
            ) from error
        self.batch_frames = max(1, frames // 2)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def _is_out_of_memory(error: BaseException) -> bool:
    # The CPU allocator raises a plain RuntimeError.
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _require_shapes(output: Output, frames: int, outputs: int) -> None:
    logits, embedding = list(output.logits.shape), list(output.embedding.shape)
    if logits != [frames, outputs] or len(embedding) != 2 or embedding[0] != frames:
        raise ValueError(
            f"for {frames} frames it gives logits {logits} and an embedding {embedding}, "
            f"instead of [{frames}, {outputs}] and [{frames}, any]"
        )


def load_predictor(settings: Settings, progress: Progress = SILENT) -> Predictor:
    """The model and device of the settings; a published model that is not installed is fetched.

    Raises BadRequestError for a model or device that does not exist, ModelError when it cannot be fetched or loaded.
    """
    device = pick_device(settings.device)
    weights = find_or_pull(settings.model or DEFAULT, settings.model_folders, progress)
    return Predictor(load_model(weights, settings.plugin_folders), str(device), settings.batch_size)


def pick_device(name: str) -> torch.device:
    """The device named `auto`, `cpu`, `cuda`, `cuda:1` or `mps`. Raises BadRequestError if it does not exist."""
    cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    counts = {"cuda": cuda, "mps": int(torch.backends.mps.is_available()), "cpu": 1}
    usable = [kind for kind, count in counts.items() if count]
    if name == "auto":
        return torch.device(usable[0])
    if name not in {*usable, *(f"{kind}:{index}" for kind in usable for index in range(counts[kind]))}:
        raise BadRequestError(
            f"there is no device {name!r} on this machine (available: {', '.join(usable)}); use --device auto"
        )
    return torch.device(name)


def has_bfloat16(device: torch.device) -> bool:
    """Return whether the device has bfloat16 instructions, so that bfloat16 is faster."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _stacked(parts: list[Tensor], width: int) -> FloatArray:
    if not parts:
        return np.zeros((0, width), np.float32)
    stacked: FloatArray = torch.cat(parts).numpy()
    return stacked
