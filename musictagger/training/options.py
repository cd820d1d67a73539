"""Everything that shapes a training run as one plain value: what recipes hold, checkpoints keep and cards tell."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_type_hints

from musictagger.audio.frontend import FrontEnd
from musictagger.errors import BadRequestError, hint
from musictagger.models.calibration import CalibrationKind

Optimiser = Literal["adam", "adamw", "sgd"]
Schedule = Literal["constant", "exponential", "inverse", "cosine", "onecycle"]
Freeze = Literal["none", "cnn", "all"]
HeadKind = Literal["dense", "svm", "logistic", "knn"]
Precision = Literal["auto", "float32", "bfloat16"]
Metric = Literal["auto", "auc", "accuracy", "loss"]

DEFAULT_BACKBONE = "fcn"

LEAST_STEPS = 16
"""An epoch of 50 tracks would be two steps: too few between two looks at the validation split to tell them apart."""

GROUPS = ("cnn", "rnn", "dense")
"""The sub-modules of a backbone that are frozen and regularised apart (Wang et al. 2019, III and V.G)."""


@dataclass(frozen=True)
class TrainOptions:
    """Settings of one run. Whatever says where it happens (folders, device, processes) is not among them."""

    backbone: str = ""
    """Which one; the model's own where `init` names one, else DEFAULT_BACKBONE."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Keywords of the backbone."""
    front_end: Mapping[str, Any] = field(default_factory=dict)
    """Numbers that differ from FrontEnd's defaults."""

    dataset: str = "folders"
    dataset_options: Mapping[str, Any] = field(default_factory=dict)
    allow_leak: bool = False
    """Train although an artist or a sound stands in two splits."""

    epochs: int = 40
    batch_size: int = 32
    """Windows in one step, over all processes together."""
    windows_per_track: int = 0
    """Windows at random offsets that an epoch takes from each track; 0 for as many as LEAST_STEPS need."""
    optimiser: Optimiser = "adamw"
    lr: float = 1e-3
    """The highest learning rate of the schedule."""
    momentum: float = 0.9
    """SGD's, with Nesterov."""
    weight_decay: float = 0.01
    """AdamW's own decay, which the others do not have."""
    l2: Mapping[str, float] = field(default_factory=dict)
    """Squared weights added to the loss, by group: cnn, rnn, dense."""
    schedule: Schedule = "onecycle"
    lr_decay: float = 0.9
    """exponential: factor an epoch. inverse: lr / (1 + lr_decay * steps). The other schedules have none."""
    warmup_epochs: float = 0.0
    """The learning rate rises to its first value over so many epochs; not with onecycle, which rises by itself."""
    clip_norm: float | None = 5.0
    """Gradients longer than this are shortened to it."""
    ema: float = 0.0
    """Decay a step of the averaged weights that are judged and saved, lower in the first steps (`average_decay`); 0 for
    the weights themselves."""
    class_weights: bool = False
    """Weigh tags (or genres) that few tracks have as much as those that many have."""
    label_smoothing: float = 0.0
    precision: Precision = "auto"
    """bfloat16 where the device computes in it fast ("auto"), always, or never."""
    patience: int | None = 10
    """Stop after so many epochs without a better validation figure; None never stops early."""
    metric: Metric = "auto"
    """Which validation figure picks the best epoch: "auto" is auc for tags, accuracy for a genre."""
    seed: int = 0

    gain_db: float = 0.0
    """Windows get louder or quieter by up to so much."""
    tilt_db: float = 0.0
    """Windows get brighter or darker by up to so much between the lowest and the highest mel band."""
    stretch: float = 0.0
    """Windows get faster or slower by up to this share."""
    pitch_semitones: float = 0.0
    """Windows get higher or lower by up to so much."""
    noise: float = 0.0
    """The share of windows under which noise is laid, 5 to 40 dB below the music."""
    mixup: float = 0.0
    """Alpha of the beta distribution that mixes two windows and their targets; 0 for none."""
    time_masks: int = 0
    time_mask_columns: int = 100
    band_masks: int = 0
    band_mask_bands: int = 12
    """SpecAugment: how many masks a window gets, and how wide each is at most."""

    init: str = ""
    """Start from this model: a name or a path."""
    freeze: Freeze = "none"
    head: HeadKind = "dense"
    """svm, logistic and knn are fitted on the frozen embedding instead of training by gradient."""

    teachers: tuple[str, ...] = ()
    """Models whose scores are learnt."""
    hard_weight: float = 0.5
    """Where a track has tags of its own, their share in its target beside the teachers' scores."""
    balanced: bool = False
    """Learn each tag's scores as distances from what makes its highest tenth, so that all tags count alike."""

    min_precision: float = 0.0
    """Thresholds with less precision on the validation split are not taken where another has more."""
    calibration: CalibrationKind = "none"
    """What track scores become: what they are worth against labels, or by how much more than usual a tag is heard."""

    def __post_init__(self) -> None:
        """Raises BadRequestError for a value out of range."""
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise BadRequestError(f"{name} is {value:g}; it must lie between {low:g} and {high:g}")
        for name, hinted in get_type_hints(type(self)).items():
            if (choices := get_args(hinted)) and isinstance(choices[0], str) and getattr(self, name) not in choices:
                raise BadRequestError(f"{name} is {getattr(self, name)!r}; there are: {', '.join(choices)}")
        if unknown := set(self.l2) - set(GROUPS):
            raise BadRequestError(f"l2 names {', '.join(sorted(unknown))}; there are: {', '.join(GROUPS)}")
        for group, factor in self.l2.items():
            if isinstance(factor, (int, float)) and not 0 <= factor <= _LARGE:
                raise BadRequestError(f"l2.{group} is {factor:g}; it must lie between 0 and {_LARGE:g}")
        if self.head != "dense" and self.teachers:
            raise BadRequestError(f"head {self.head} is fitted to labels, not to scores; leave --teacher out")
        if self.balanced and not self.teachers:
            raise BadRequestError("balanced is for teachers' scores; name some with --teacher, or use class_weights")
        if self.balanced and self.class_weights:
            raise BadRequestError("balanced weighs all tags alike already; leave class_weights out")
        if self.calibration == "lift" and self.min_precision:
            raise BadRequestError("calibration lift sets thresholds by itself; leave min_precision out")
        if self.schedule == "onecycle" and self.warmup_epochs:
            raise BadRequestError("schedule onecycle rises by itself; leave warmup_epochs out, or take another one")
        if self.freeze != "none" and not self.init:
            raise BadRequestError(f"freeze {self.freeze} keeps what a model has learnt; name the model with --init")

    @property
    def built_front_end(self) -> FrontEnd:
        """The front end with these numbers. Raises ModelError on one it does not have."""
        return FrontEnd.from_json(self.front_end)

    def windows(self, tracks: int) -> int:
        """Windows in an epoch of so many training tracks."""
        return tracks * (self.windows_per_track or max(1, round(LEAST_STEPS * self.batch_size / max(1, tracks))))

    def to_json(self) -> dict[str, Any]:
        """Every option as a JSON value: what a card and a checkpoint give back is equal to it."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return plain


_LARGE = 1e9
_RANGES: Mapping[str, tuple[float, float]] = {
    "epochs": (1, _LARGE),
    "batch_size": (1, _LARGE),
    "windows_per_track": (0, _LARGE),
    "lr": (1e-12, 1e3),
    "momentum": (0, 0.9999),
    "weight_decay": (0, 1e3),
    "lr_decay": (0, 1e3),
    "warmup_epochs": (0, _LARGE),
    "clip_norm": (1e-9, _LARGE),
    "ema": (0, 0.99999),
    "label_smoothing": (0, 0.5),
    "patience": (1, _LARGE),
    "seed": (0, 2**31),
    "gain_db": (0, 60),
    "tilt_db": (0, 60),
    "stretch": (0, 0.5),
    "pitch_semitones": (0, 12),
    "noise": (0, 1),
    "mixup": (0, 100),
    "time_masks": (0, 100),
    "time_mask_columns": (1, _LARGE),
    "band_masks": (0, 100),
    "band_mask_bands": (1, _LARGE),
    "hard_weight": (0, 1),
    "min_precision": (0, 1),
}


def options_from(values: Mapping[str, Any], base: TrainOptions | None = None) -> TrainOptions:
    """`base` (the defaults) with `values` put in: those of a recipe, a checkpoint or a command line.

    A text is read as what the option wants; a mapping is laid over the one that is there, so that `config` of a recipe
    and of the command line add up. Raises BadRequestError for an unknown option, with a suggestion, or a wrong value.
    """
    base = base or TrainOptions()
    kinds = get_type_hints(TrainOptions)
    changes: dict[str, Any] = {}
    for name, value in values.items():
        if name not in kinds:
            raise BadRequestError(f"there is no training option {name!r}{hint(name, kinds)}")
        changes[name] = _as_kind(name, value, getattr(base, name), kinds[name])
    return dataclasses.replace(base, **changes)


def _as_kind(name: str, value: Any, present: Any, kind: Any) -> Any:
    if isinstance(present, Mapping):
        if not isinstance(value, Mapping):
            raise BadRequestError(f"training option {name} takes names with values, not {value!r}")
        return {**present, **value}
    if name == "teachers":
        parts = value.split(",") if isinstance(value, str) else value
        if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
            raise BadRequestError(f"training option teachers takes names of models, not {value!r}")
        return tuple(part.strip() for part in parts if part.strip())
    plain = [each for each in get_args(kind) or (kind,) if isinstance(each, type)]
    try:
        return _scalar(value, plain)
    except (TypeError, ValueError):
        raise BadRequestError(f"training option {name}: {value!r} is no {_wanted(plain)}") from None


def _scalar(value: Any, kinds: list[type]) -> Any:
    """Raises ValueError for what none of `kinds` can hold; no kind at all is a choice among texts."""
    if isinstance(value, list | tuple | Mapping):
        return _refuse(value)
    if not kinds or str in kinds:
        return str(value)
    if type(None) in kinds and value in {None, "none"}:
        return None
    if bool in kinds:
        return {"true": True, "false": False}[str(value).lower()] if str(value).lower() in _TRUTHS else _refuse(value)
    if isinstance(value, bool):
        return _refuse(value)
    number = float(value)
    if int in kinds:
        return int(number) if number.is_integer() else _refuse(value)
    return number if math.isfinite(number) else _refuse(value)


_TRUTHS = {"true", "false"}


def _refuse(value: Any) -> Any:
    raise ValueError(value)


def _wanted(kinds: list[type]) -> str:
    return " or ".join("none" if kind is type(None) else kind.__name__ for kind in kinds)
