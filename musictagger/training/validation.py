"""The metrics by which epochs are compared, measured on the cached validation tracks."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from musictagger.audio.logmel import LogMel
from musictagger.evaluation.bootstrap import mean_defined
from musictagger.evaluation.metrics import auc_roc, predict_genres
from musictagger.models.card import Task
from musictagger.progress import Progress
from musictagger.records import FloatArray
from musictagger.training.optimise import LogitScale, window_losses
from musictagger.training.options import Metric
from musictagger.training.windows import Material

MAX_FRAMES = 8
"""Frames taken from a track, evenly spaced: enough to choose an epoch, if not for a published metric."""


@torch.inference_mode()
def validate(
    network: nn.Module,
    material: Material,
    log_mel: LogMel,
    device: torch.device,
    precision: AbstractContextManager[object],
    progress: Progress,
    scale: LogitScale | None = None,
) -> dict[str, float | None]:
    """Mean loss of the frames, AUC and, for genres, accuracy of the tracks (mean score over their frames)."""
    progress.start("validation", len(material.valid), "tracks")
    network.eval()
    scores: list[FloatArray] = []
    losses: list[float] = []
    for number, frames in material.spaced_frames(material.valid, MAX_FRAMES):
        mel = log_mel.normalise(torch.from_numpy(np.stack(frames)).to(device))
        with precision:
            logits: Tensor = network(mel).logits.float()
        target = torch.from_numpy(material.target(material.valid[number], 0.0, math.inf))
        target = target.to(device).expand(len(frames), -1)
        losses += window_losses(logits, target, material.task, scale=scale).tolist()
        activated = logits.sigmoid() if material.task == "tags" else logits.softmax(dim=1)
        scores.append(activated.mean(dim=0).cpu().numpy())
        progress.advance(number + 1)
    return {"valid_loss": float(np.mean(losses)), **_metrics(np.stack(scores), material)}


def _metrics(scores: FloatArray, material: Material) -> dict[str, float | None]:
    if not np.isfinite(scores).all():
        # So is the loss then, and the next training step stops the run and names the tracks.
        return {"auc": None}
    macro = float(mean_defined(auc_roc(material.valid_truth, scores, material.outputs)))
    metrics: dict[str, float | None] = {"auc": None if math.isnan(macro) else macro}
    if material.task == "genre":
        predicted = predict_genres(scores, material.outputs)
        metrics["accuracy"] = float((predicted == material.valid_truth.argmax(axis=1)).mean())
    return metrics


def quality(record: dict[str, Any], metric: Metric, task: Task) -> float:
    """An epoch's metric as a number that is better when larger."""
    if metric == "auto":
        metric = "auc" if task == "tags" else "accuracy"
    loss = float(record["valid_loss"])
    if not math.isfinite(loss):
        return -math.inf
    if metric == "loss" or record.get(metric) is None:
        return -loss
    # With few tracks equal accuracies are common; then the loss decides.
    return float(record[metric]) - 1e-6 * math.tanh(loss)
