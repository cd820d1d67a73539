"""Optimisers, learning rates, loss and regularisation of a run: the papers' procedures as plain functions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from statistics import NormalDist

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from musictagger.errors import BadRequestError
from musictagger.models.backbone import Backbone
from musictagger.models.card import Task
from musictagger.models.inference import has_bfloat16
from musictagger.training.distillation.targets import DECISION_QUANTILE, LOWEST
from musictagger.training.options import GROUPS, Freeze, TrainOptions

ONECYCLE_RISE = 0.3
ONECYCLE_START, ONECYCLE_END = 1 / 25, 1e-4
"""Share of the steps that go up, and the first and last rate as parts of the highest (Smith & Topin 2018)."""


_HIGHEST_TENTH = NormalDist().inv_cdf(DECISION_QUANTILE)
LEAST_DEVIATION = 0.25
"""Of a tag's logits: one that teachers say the same of everywhere is not to count for its rounding."""
SHARPNESS = 2.0
"""Standardised logits run from no to yes within one deviation of them, so that a usual track is a clear no (0.07)."""


def make_optimiser(parameters: Iterable[nn.Parameter], options: TrainOptions) -> torch.optim.Optimizer:
    """The optimiser of the options over these parameters."""
    trained = list(parameters)
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
            begin = options.warmup_epochs * steps_per_epoch
            return options.lr * _falling((step - begin) / max(1.0, total - begin))
        case "onecycle":
            return options.lr * _onecycle(step / max(1, total - 1))


def _falling(part: float) -> float:
    """Half a cosine from 1 to 0."""
    return (1 + math.cos(math.pi * min(1.0, part))) / 2


def _onecycle(part: float) -> float:
    if part < ONECYCLE_RISE:
        return 1 - (1 - ONECYCLE_START) * _falling(part / ONECYCLE_RISE)
    return ONECYCLE_END + (1 - ONECYCLE_END) * _falling((part - ONECYCLE_RISE) / (1 - ONECYCLE_RISE))


def freeze_parts(backbone: Backbone, freeze: Freeze) -> list[nn.Module]:
    """Take the frozen parts out of training (Wang et al. 2019, V.G) and return them.

    "cnn": the convolutions keep what they learnt; "all": everything but the dense layer does. What is frozen must also
    stay in evaluation mode, or its BatchNorm would go on following the new data; dropout before the dense layer is that
    layer's, and goes on. Raises BadRequestError for a backbone
    without these parts.
    """
    if freeze == "none":
        return []
    frozen = [
        part
        for name, part in backbone.named_children()
        if (name == "cnn" or (freeze == "all" and name != "dense")) and not isinstance(part, nn.Dropout)
    ]
    if not frozen:
        raise BadRequestError(f"backbone {backbone.name} has no part that freeze {freeze} could keep as it is")
    for part in frozen:
        part.requires_grad_(False)
    return frozen


def l2_penalty(backbone: Backbone, options: TrainOptions) -> Tensor | None:
    """Squared weights times their group's factor, as Keras adds it to the loss; biases and BatchNorm are left alone."""
    terms = [
        factor * weight.square().sum()
        for group, factor in options.l2.items()
        if factor
        for weight in _weights(backbone, group)
    ]
    return torch.stack(terms).sum() if terms else None


def _weights(backbone: Backbone, group: str) -> Iterator[nn.Parameter]:
    assert group in GROUPS
    part = getattr(backbone, group, None)
    if part is not None:
        # Biases of several cells side by side have more than one axis too.
        yield from (
            weight
            for name, weight in part.named_parameters()
            if weight.dim() > 1 and "bias" not in name.rpartition(".")[2] and weight.requires_grad
        )


def class_weights(target: Tensor, task: Task) -> Tensor:
    """Weights [outputs] from the targets of the training tracks, float [tracks, outputs] with NaN for unknown.

    Tags: how much a positive counts, negatives / positives, from 0.01 to 100. Genres: the inverse of how many tracks
    have it, 1 on average over the tracks.
    """
    known = target.nan_to_num(0.0)
    positives = known.sum(dim=0)
    if task == "genre":
        return len(target) / (target.shape[1] * positives.clamp(min=1.0))
    negatives = (~target.isnan()).sum(dim=0) - positives
    return (negatives / positives.clamp(min=1.0)).clamp(1e-2, 100.0)


@dataclass(frozen=True)
class LogitScale:
    """Where each output's soft targets lie, as logits, float32 [outputs] each."""

    mean: Tensor
    deviation: Tensor

    def standardised(self, logits: Tensor) -> Tensor:
        """0 where a track enters the output's highest tenth (were they normally distributed), and its deviation 0.5."""
        return SHARPNESS * ((logits - self.mean) / self.deviation - _HIGHEST_TENTH)

    def to(self, device: torch.device) -> LogitScale:
        """The same on a device."""
        return LogitScale(self.mean.to(device), self.deviation.to(device))


def logit_scale(target: Tensor) -> LogitScale:
    """The scale of the training tracks' targets, float [tracks, outputs] with NaN for unknown.

    Of an output that is 0 or 1 throughout, or unknown, standardised logits are the logits themselves: labels are no
    scores.
    """
    logits = target.logit(LOWEST)
    mean = logits.nanmean(dim=0)
    deviation = (logits - mean).square().nanmean(dim=0).sqrt().clamp(min=LEAST_DEVIATION)
    labels = ((target == 0) | (target == 1) | target.isnan()).all(dim=0)
    return LogitScale(torch.where(labels, -SHARPNESS * _HIGHEST_TENTH, mean), torch.where(labels, SHARPNESS, deviation))


def begin_usual(backbone: Backbone, scale: LogitScale) -> bool:
    """Let a fresh dense layer say the usual of each output instead of 0.5; False where there is no such layer."""
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

    `target` [windows, outputs] may be soft. An output whose target is NaN has no part in a tag loss; in a genre target
    NaN counts as zero. With a `scale`, logits and targets of tags are standardised by it before they are compared: else
    a tag that teachers never give more than 0.02 hardly counts beside one that they often give 0.5.
    """
    logits = logits.float()
    if scale is not None:
        logits, target = scale.standardised(logits), scale.standardised(target.logit(LOWEST)).sigmoid()
    if task == "genre":
        wanted = target.nan_to_num(0.0)
        wanted = wanted * (1 - label_smoothing) + label_smoothing / target.shape[1]
        weight = 1.0 if weights is None else (wanted * weights).sum(dim=1)
        return -(wanted * logits.log_softmax(dim=1)).sum(dim=1) * weight
    known = ~target.isnan()
    wanted = torch.where(known, target, 0.0) * (1 - label_smoothing) + label_smoothing / 2
    each = F.binary_cross_entropy_with_logits(logits, wanted, pos_weight=weights, reduction="none")
    return (each * known).sum(dim=1) / known.sum(dim=1).clamp(min=1)


def computes_in_bfloat16(device: torch.device, precision: str) -> bool:
    """Whether to compute in bfloat16: as told, or, for "auto", where the device has instructions for it."""
    return has_bfloat16(device) if precision == "auto" else precision == "bfloat16"


def average_decay(step: int, decay: float) -> float:
    """The decay of a step of the run, from 0: never so slow that the fresh weights count for most of the average.

    With 0.999 and 16 steps an epoch they would still be a half of it after 43 epochs. Source: TensorFlow's
    ExponentialMovingAverage.
    """
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def average(averaged: nn.Module, backbone: nn.Module, decay: float) -> None:
    """Move the averaged weights towards the present ones; buffers (BatchNorm's statistics) are taken as they are."""
    present = dict(backbone.named_parameters())
    for name, weight in averaged.named_parameters():
        weight.lerp_(present[name], 1 - decay)
    for mean, buffer in zip(averaged.buffers(), backbone.buffers(), strict=True):
        mean.copy_(buffer)


BATCH_NORM_MOMENTUM = 0.1
"""torch's own: the part of a step's statistics in the running ones."""


def follow_fast(backbone: nn.Module, step: int) -> None:
    """Let BatchNorm's running statistics begin at those of the first step instead of at mean 0 and deviation 1.

    For ten steps they are the mean over all steps so far. Decibels lie around -40: at the usual pace it takes 60 steps
    until evaluation sees what training sees, and a run on 50 tracks has two steps an epoch.
    """
    if step > 1 / BATCH_NORM_MOMENTUM:
        return
    for part in backbone.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.momentum = max(BATCH_NORM_MOMENTUM, 1 / (step + 1))
