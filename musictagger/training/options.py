"""The options of a training run as one plain value, as recipes, checkpoints and cards store them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from msgspec import Meta

from musictagger.audio.frontend import FrontEnd
from musictagger.errors import BadRequestError, hint
from musictagger.models.calibration import CalibrationKind
from musictagger.values import Share, check, convert, field_types

Optimiser = Literal["adam", "adamw", "sgd"]
Schedule = Literal["constant", "exponential", "inverse", "cosine", "onecycle"]
Freeze = Literal["none", "cnn", "all"]
HeadKind = Literal["dense", "svm", "logistic", "knn"]
Precision = Literal["auto", "float32", "bfloat16"]
Metric = Literal["auto", "auc", "accuracy", "loss"]

DEFAULT_BACKBONE = "fcn"

LEAST_STEPS = 16
"""Minimum of steps in an epoch by default. 50 tracks would be two steps: too few between two validations."""

Group = Literal["cnn", "rnn", "dense"]
"""The sub-modules of a backbone that are frozen and regularised separately (Wang et al. 2019, III and V.G)."""

_Count = Annotated[int, Meta(ge=1, le=10**9)]
_Number = Annotated[int, Meta(ge=0, le=10**9)]
_Decibels = Annotated[float, Meta(ge=0, le=60)]
_Decay = Annotated[float, Meta(ge=0, le=1e3)]
_Masks = Annotated[int, Meta(ge=0, le=100)]


@dataclass(frozen=True)
class TrainOptions:
    """The options of one run, except for its surroundings (folders, device, processes)."""

    backbone: str = ""
    """Name of the backbone; by default that of the model `init`, else DEFAULT_BACKBONE."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the backbone."""
    front_end: Mapping[str, Any] = field(default_factory=dict)
    """Settings that differ from FrontEnd's defaults."""

    dataset: str = "folders"
    dataset_options: Mapping[str, Any] = field(default_factory=dict)
    allow_leak: bool = False
    """Train although an artist or a recording is in two splits."""

    epochs: _Count = 40
    batch_size: _Count = 32
    """Windows in one step, summed over all processes."""
    windows_per_track: _Number = 0
    """Windows at random offsets from each track in an epoch; 0 for as many as LEAST_STEPS requires."""
    optimiser: Optimiser = "adamw"
    lr: Annotated[float, Meta(ge=1e-12, le=1e3)] = 1e-3
    """Maximum learning rate of the schedule."""
    momentum: Annotated[float, Meta(ge=0, le=0.9999)] = 0.9
    """Nesterov momentum of SGD."""
    weight_decay: _Decay = 0.01
    """Decoupled weight decay of AdamW; the other optimisers have none."""
    l2: Mapping[Group, Annotated[float, Meta(ge=0, le=1e9)]] = field(default_factory=dict)
    """Factors of the squared weights added to the loss, by group: cnn, rnn, dense."""
    schedule: Schedule = "onecycle"
    lr_decay: _Decay = 0.9
    """exponential: factor per epoch. inverse: lr / (1 + lr_decay * steps). The other schedules ignore it."""
    warmup_epochs: Annotated[float, Meta(ge=0, le=1e9)] = 0.0
    """Epochs over which the learning rate rises to its first value; not with onecycle, which has its own warm-up."""
    clip_norm: Annotated[float, Meta(ge=1e-9, le=1e9)] | None = 5.0
    """Maximum norm of gradients, to which larger ones are scaled down."""
    ema: Annotated[float, Meta(ge=0, le=0.99999)] = 0.0
    """Decay per step of the exponential moving average of the weights, which is validated and saved (see `ema_decay`);
    0 for the weights themselves."""
    class_weights: bool = False
    """Weight tags (or genres) so that rare ones count as much as frequent ones."""
    label_smoothing: Annotated[float, Meta(ge=0, le=0.5)] = 0.0
    precision: Precision = "auto"
    """Precision of activations; "auto" is bfloat16 on devices that are fast in it, else float32."""
    patience: _Count | None = 10
    """Epochs without a better validation metric after which training stops; None never stops early."""
    metric: Metric = "auto"
    """Validation metric that selects the best epoch: "auto" is auc for tags, accuracy for a genre."""
    seed: Annotated[int, Meta(ge=0, le=2**31)] = 0

    gain_db: _Decibels = 0.0
    """Maximum random gain of a window, up or down."""
    tilt_db: _Decibels = 0.0
    """Maximum random spectral tilt between the lowest and the highest mel band, up or down."""
    stretch: Annotated[float, Meta(ge=0, le=0.5)] = 0.0
    """Maximum random time stretch, as a share of the duration."""
    pitch_semitones: Annotated[float, Meta(ge=0, le=12)] = 0.0
    """Maximum random pitch shift, up or down."""
    noise: Share = 0.0
    """Share of windows to which noise is added, 5 to 40 dB below the music."""
    mixup: Annotated[float, Meta(ge=0, le=100)] = 0.0
    """Alpha of the beta distribution by which two windows and their targets are mixed; 0 for no mixup."""
    time_masks: _Masks = 0
    time_mask_columns: _Count = 100
    band_masks: _Masks = 0
    band_mask_bands: _Count = 12
    """SpecAugment: the number of masks of a window, and the maximum width of each."""

    init: str = ""
    """Model whose weights training starts from: a name or a path."""
    freeze: Freeze = "none"
    head: HeadKind = "dense"
    """svm, logistic and knn are fitted on the frozen embedding, without gradient descent."""

    teachers: tuple[str, ...] = ()
    """Models whose scores are the soft targets."""
    hard_weight: Share = 0.5
    """Weight of a track's labels in its target; the rest is the soft targets. Tracks without labels have only those."""
    balanced: bool = False
    """Standardised targets: scores relative to the start of their highest tenth, so that all tags count alike."""

    min_precision: Share = 0.0
    """Minimum precision of thresholds on the validation split, wherever a threshold reaches it."""
    calibration: CalibrationKind = "none"
    """Calibration of track scores: fitted to labels (platt, isotonic), or relative to their usual level (lift)."""

    def __post_init__(self) -> None:
        """Raises BadRequestError for invalid values and for options that exclude each other."""
        check(self)
        convert(self.front_end, FrontEnd, "front_end")
        if self.head != "dense" and self.teachers:
            raise BadRequestError(f"head {self.head} is fitted to labels, not to soft targets; leave --teacher out")
        if self.balanced and not self.teachers:
            raise BadRequestError("balanced standardises soft targets; name some with --teacher, or use class_weights")
        if self.balanced and self.class_weights:
            raise BadRequestError("balanced weights all tags equally already; leave class_weights out")
        if self.calibration == "lift" and self.min_precision:
            raise BadRequestError("calibration lift sets its own thresholds; leave min_precision out")
        if self.schedule == "onecycle" and self.warmup_epochs:
            raise BadRequestError(
                "schedule onecycle has its own warm-up; leave warmup_epochs out, or choose another one"
            )
        if self.freeze != "none" and not self.init:
            raise BadRequestError(f"freeze {self.freeze} keeps weights of a trained model; name the model with --init")

    @property
    def built_front_end(self) -> FrontEnd:
        """The front end with these settings. Raises ModelError if they exclude each other or are out of range."""
        return FrontEnd.from_json(self.front_end)

    def windows(self, tracks: int) -> int:
        """Number of windows in an epoch of `tracks` training tracks."""
        return tracks * (self.windows_per_track or max(1, round(LEAST_STEPS * self.batch_size / max(1, tracks))))

    def to_json(self) -> dict[str, Any]:
        """All options as JSON values, equal to those read back from a card or a checkpoint."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return plain


def options_from(values: Mapping[str, Any], base: TrainOptions | None = None) -> TrainOptions:
    """Return `base` (the defaults) updated with `values` from a recipe, a checkpoint or a command line.

    Texts are converted to the type of the option. Mappings are merged, so that `config` of a recipe and of the command
    line add up. Raises BadRequestError for an unknown option, with a suggestion, and for an invalid value.
    """
    base = base or TrainOptions()
    kinds = field_types(TrainOptions)
    changes: dict[str, Any] = {}
    for name, value in values.items():
        if name not in kinds:
            raise BadRequestError(f"there is no training option {name!r}{hint(name, kinds)}")
        if name == "teachers" and isinstance(value, str):
            value = [each.strip() for each in value.split(",") if each.strip()]
        changes[name] = convert(value, kinds[name], f"training option {name}", lenient=True)
        if isinstance(present := getattr(base, name), Mapping):
            changes[name] = {**present, **changes[name]}
    return dataclasses.replace(base, **changes)
