"""Optimisers, learning rates, losses and regularisation of a training, as plain functions; sources are the papers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from musictagger.errors import BadRequestError
from musictagger.models.backbone import Backbone
from musictagger.models.card import Task
from musictagger.training.distillation.targets import DECISION_QUANTILE, LOWEST
from musictagger.training.options import Freeze, TrainOptions

ONECYCLE_RISE = 0.3
ONECYCLE_START, ONECYCLE_END = 1 / 25, 1e-4
"""Share of the steps in which the rate rises, and the first and last rate as fractions of the highest (Smith & Topin
2018)."""

BATCH_NORM_MOMENTUM = 0.1
"""torch's default: the weight of a step's statistics in the running ones."""

_HIGHEST_TENTH = NormalDist().inv_cdf(DECISION_QUANTILE)
MIN_DEVIATION = 0.25
"""Lower bound of a tag's deviation, in logits: without it, rounding would matter for a tag that hardly varies."""
SHARPNESS = 2.0
"""Deviation of standardised logits, large enough that a typical track has a low score (0.07)."""


def make_optimiser(trained: Sequence[nn.Parameter], options: TrainOptions) -> torch.optim.Optimizer:
    """The optimiser of the options over these parameters."""
    if options.optimiser == "adam":
        return torch.optim.Adam(trained, lr=options.lr)
    if options.optimiser == "adamw":
        return torch.optim.AdamW(trained, lr=options.lr, weight_decay=options.weight_decay)
    return torch.optim.SGD(trained, lr=options.lr, momentum=options.momentum, nesterov=options.momentum > 0)


def lr_at(step: int, steps_per_epoch: int, options: TrainOptions) -> float:
    """The learning rate of a step, counted from 0 over the whole run."""
    epoch = step / steps_per_epoch
    if epoch < options.warmup_epochs:
        return options.lr * (step + 1) / (options.warmup_epochs * steps_per_epoch + 1)
    total = options.epochs * steps_per_epoch
    match options.schedule:
        case "constant":
            return options.lr
        case "exponential":
            return options.lr * options.lr_decay ** int(epoch)
        case "inverse":
            return options.lr / (1 + options.lr_decay * step)
        case "cosine":
            warmup = options.warmup_epochs * steps_per_epoch
            return options.lr * _half_cosine((step - warmup) / max(1.0, total - warmup))
        case "onecycle":
            return options.lr * _onecycle(step / max(1, total - 1))


def _half_cosine(progress: float) -> float:
    """Half a cosine from 1 to 0."""
    return (1 + math.cos(math.pi * min(1.0, progress))) / 2


def _onecycle(progress: float) -> float:
    if progress < ONECYCLE_RISE:
        return 1 - (1 - ONECYCLE_START) * _half_cosine(progress / ONECYCLE_RISE)
    return ONECYCLE_END + (1 - ONECYCLE_END) * _half_cosine((progress - ONECYCLE_RISE) / (1 - ONECYCLE_RISE))


def freeze_layers(backbone: Backbone, freeze: Freeze) -> list[nn.Module]:
    """Exclude layers of a backbone from training (Wang et al. 2019, V.G) and return them.

    "cnn" freezes the convolutions, "all" everything but the dense layer and the dropout before it. Frozen layers must
    also stay in evaluation mode, or their BatchNorm would adapt to the new data. Raises BadRequestError for a backbone
    without these layers.
    """
    if freeze == "none":
        return []
    frozen = [
        layer
        for name, layer in backbone.named_children()
        if (name == "cnn" or (freeze == "all" and name != "dense")) and not isinstance(layer, nn.Dropout)
    ]
    if not frozen:
        raise BadRequestError(f"backbone {backbone.name} has no layers that freeze {freeze} applies to")
    for layer in frozen:
        layer.requires_grad_(False)
    return frozen


def l2_penalty(backbone: Backbone, options: TrainOptions) -> Tensor | None:
    """Squared weights times their group's factor, as Keras adds it to the loss, without biases and BatchNorm."""
    terms = [
        factor * weight.square().sum()
        for group, factor in options.l2.items()
        for name, weight in getattr(backbone, group, nn.Identity()).named_parameters()
        # Stacked biases of several cells have more than one axis too.
        if factor and weight.requires_grad and weight.dim() > 1 and "bias" not in name.rpartition(".")[2]
    ]
    return torch.stack(terms).sum() if terms else None


def class_weights(target: Tensor, task: Task) -> Tensor:
    """Weights [outputs] from the targets of the training tracks, float [tracks, outputs] with NaN for unknown.

    Tags: the weight of a positive, negatives / positives, limited to 0.01..100. Genres: the inverse of their frequency,
    1 on average over the tracks.
    """
    known = target.nan_to_num(0.0)
    positives = known.sum(dim=0)
    if task == "genre":
        return len(target) / (target.shape[1] * positives.clamp(min=1.0))
    negatives = (~target.isnan()).sum(dim=0) - positives
    return (negatives / positives.clamp(min=1.0)).clamp(1e-2, 100.0)


@dataclass(frozen=True)
class LogitScale:
    """Mean and deviation of each output's soft targets, in logits, float32 [outputs] each."""

    mean: Tensor
    deviation: Tensor

    def standardised(self, logits: Tensor) -> Tensor:
        """Logits with deviation SHARPNESS and 0 at the output's 90th percentile, assuming a normal distribution."""
        return SHARPNESS * ((logits - self.mean) / self.deviation - _HIGHEST_TENTH)

    def to(self, device: torch.device) -> LogitScale:
        """This scale on a device."""
        return LogitScale(self.mean.to(device), self.deviation.to(device))


def logit_scale(target: Tensor) -> LogitScale:
    """The scale of the training tracks' targets, float [tracks, outputs] with NaN for unknown.

    An output whose targets are labels (0, 1 or unknown) keeps its logits when standardised.
    """
    logits = target.logit(LOWEST)
    mean = logits.nanmean(dim=0)
    deviation = (logits - mean).square().nanmean(dim=0).sqrt().clamp(min=MIN_DEVIATION)
    labels = ((target == 0) | (target == 1) | target.isnan()).all(dim=0)
    return LogitScale(torch.where(labels, -SHARPNESS * _HIGHEST_TENTH, mean), torch.where(labels, SHARPNESS, deviation))


def initialise_output_bias(backbone: Backbone, scale: LogitScale) -> bool:
    """Set the output bias to each output's mean logit, so that training starts there; False without an output layer."""
    layer = backbone.output_layer
    if layer is None or layer.bias is None or layer.out_features != len(scale.mean):
        return False
    with torch.no_grad():
        layer.bias.copy_(scale.mean)
    return True


def window_losses(
    logits: Tensor,
    target: Tensor,
    task: Task,
    weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    scale: LogitScale | None = None,
) -> Tensor:
    """Loss of each window, float32 [windows]: mean binary cross-entropy over the tags, or cross-entropy of the genre.

    `target` [windows, outputs] may be soft. A tag loss ignores outputs whose target is NaN; a genre loss takes NaN as
    zero. With a `scale`, logits and targets of tags are standardised before they are compared: otherwise a tag that
    teachers never score above 0.02 would hardly count beside one that they often score 0.5.
    """
    logits = logits.float()
    if scale is not None:
        logits, target = scale.standardised(logits), scale.standardised(target.logit(LOWEST)).sigmoid()
    if task == "genre":
        smoothed = target.nan_to_num(0.0) * (1 - label_smoothing) + label_smoothing / target.shape[1]
        weight = 1.0 if weights is None else (smoothed * weights).sum(dim=1)
        return -(smoothed * logits.log_softmax(dim=1)).sum(dim=1) * weight
    known = ~target.isnan()
    smoothed = torch.where(known, target, 0.0) * (1 - label_smoothing) + label_smoothing / 2
    each = F.binary_cross_entropy_with_logits(logits, smoothed, pos_weight=weights, reduction="none")
    return (each * known).sum(dim=1) / known.sum(dim=1).clamp(min=1)


def ema_decay(step: int, decay: float) -> float:
    """The decay of the EMA at a step of the run, counted from 0: lower at first, so that the initial weights fade soon.

    With a constant 0.999 and 16 steps an epoch they would still weigh a half after 43 epochs. Source: TensorFlow's
    ExponentialMovingAverage.
    """
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def update_ema(averaged: nn.Module, backbone: nn.Module, decay: float) -> None:
    """Move the averaged weights towards the present ones, and copy buffers (the statistics of BatchNorm).

    Not torch's AveragedModel: it copies the weights of the first step instead of averaging them with the initial ones,
    keeps one decay, and stores its tensors under other names than the checkpoints that exist.
    """
    get_ema_multi_avg_fn(decay)([*averaged.parameters()], [*backbone.parameters()], 0)  # type: ignore[no-untyped-call]
    for copy, buffer in zip(averaged.buffers(), backbone.buffers(), strict=True):
        copy.copy_(buffer)


def warm_up_batch_norm(backbone: nn.Module, step: int) -> None:
    """Make BatchNorm's running statistics the mean over all steps so far, in the first ten steps of a run.

    They start at mean 0 and deviation 1 while decibels lie around -40: with torch's momentum it would take 60 steps
    until evaluation normalises as training does, and a run on 50 tracks has two steps an epoch.
    """
    if step > 1 / BATCH_NORM_MOMENTUM:
        return
    for module in backbone.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = max(BATCH_NORM_MOMENTUM, 1 / (step + 1))
