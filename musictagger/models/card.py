"""The card of a model: everything about it that is not a weight, as one JSON file beside the weights."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from musictagger.audio.frontend import FrontEnd
from musictagger.errors import ModelError, clipped

if TYPE_CHECKING:
    from musictagger.models.calibration import Calibration

SCHEMA = "musictagger.model/1"

Category = Literal["genre", "mood", "instrument", "voice", "era", "other"]
CATEGORIES: tuple[Category, ...] = get_args(Category)
Task = Literal["tags", "genre"]


@dataclass(frozen=True)
class Tag:
    """One tag a user sees: the highest score among the network outputs that mean the same."""

    name: str
    category: Category
    outputs: tuple[str, ...]
    threshold: float
    """The score from which a track is said to have this tag."""


@dataclass(frozen=True)
class Card:
    """A trained model's description. `outputs` names the network's outputs in order; `tags` merges them."""

    name: str
    backbone: str
    config: Mapping[str, Any]
    front_end: FrontEnd
    outputs: tuple[str, ...]
    tags: tuple[Tag, ...]
    task: Task
    weights_sha256: str
    description: str = ""
    licence: str = ""
    attribution: str = ""
    training: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    head: Mapping[str, Any] | None = None
    """What stands in for the dense layer (models.heads), None where nothing does."""
    calibration: Mapping[str, Any] | None = None
    """Curves that track scores go through before they meet a threshold (models.calibration), None for none."""

    def __post_init__(self) -> None:
        """Raises ModelError where the vocabulary does not fit the outputs."""
        for text in (self.name, *(tag.name for tag in self.tags)):
            if not isinstance(text, str) or not text.strip() or not text.isprintable():
                raise ModelError(f"model {self.name!r}: {text!r} is no name that can be shown")
        if not self.tags or len(set(self.outputs)) != len(self.outputs):
            raise ModelError(f"model {self.name}: has no tags, or two outputs of one name")
        if self.task not in get_args(Task):
            raise ModelError(f"model {self.name}: task {self.task!r} is none of {', '.join(get_args(Task))}")
        if len({tag.name for tag in self.tags}) != len(self.tags):
            raise ModelError(f"model {self.name}: has two tags of one name")
        known = set(self.outputs)
        for tag in self.tags:
            if not tag.outputs or not known.issuperset(tag.outputs):
                raise ModelError(f"model {self.name}: tag {tag.name!r} names outputs the network does not have")
            if not _is_number(tag.threshold):
                raise ModelError(
                    f"model {self.name}: tag {tag.name!r} has threshold {tag.threshold!r}, which is no number"
                )
            if tag.category not in CATEGORIES:
                raise ModelError(f"model {self.name}: tag {tag.name!r} has unknown category {tag.category!r}")

    @property
    def key(self) -> str:
        """What makes stored scores this model's: a digest of weights, architecture, front end and task.

        Tags, thresholds and texts are left out on purpose: changing them must not analyse a library again.
        """
        identity = [self.weights_sha256, self.backbone, dict(self.config), self.front_end.to_json(), self.task]
        if self.head is not None:
            identity.append(dict(self.head))
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    @functools.cached_property
    def curves(self) -> Calibration | None:
        """The calibration, made ready; None where the card has none. Raises ModelError for one that cannot be read."""
        try:
            # Here, since it needs numpy, which commands that only look for models do without.
            from musictagger.models.calibration import read_calibration

            return read_calibration(self.calibration, [tag.name for tag in self.tags])
        except (ModelError, TypeError, ValueError, OverflowError) as error:
            raise ModelError(f"model {self.name}: {error}") from error

    def to_json(self) -> dict[str, Any]:
        """The card as it stands on disk."""
        values = dataclasses.asdict(self) | {"front_end": self.front_end.to_json()}
        return {"schema": SCHEMA} | values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Card:
        """The inverse of `to_json`. Raises ModelError naming what is missing or unknown."""
        _check_kinds(values)
        try:
            card = cls(
                **{k: v for k, v in values.items() if k not in {"schema", "front_end", "outputs", "tags"}},
                front_end=FrontEnd.from_json(values["front_end"]),
                outputs=tuple(values["outputs"]),
                tags=tuple(Tag(**(tag | {"outputs": tuple(tag["outputs"])})) for tag in values["tags"]),
            )
        except (KeyError, TypeError) as error:
            raise ModelError(f"the model card cannot be read: {error}") from error
        # Read now, so that a broken one is refused here and not at the first track.
        card.curves  # noqa: B018
        return card

    def save(self, path: Path) -> None:
        """Write the card as JSON, one stable text for one card."""
        path.write_text(json.dumps(self.to_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def require_weights(self, path: Path) -> None:
        """Raise ModelError where `path` cannot be read, or holds other weights than those described here."""
        if sha256_of(path) != self.weights_sha256:
            raise ModelError(f"{path}: is not the file its card describes (SHA-256 differs); fetch or copy it again")

    @classmethod
    def load(cls, path: Path) -> Card:
        """Read a card. Raises ModelError with the path where it cannot be.

        A model is called what its file is called, so that a renamed one goes by its new name everywhere.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
            if isinstance(error, OSError):
                reason = error.strerror or reason
            raise ModelError(f"{path}: not a readable model card: {reason}") from error
        try:
            return dataclasses.replace(cls.from_json(values), name=path.stem)
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from error


_TEXT, _OBJECT = (str, "text"), (Mapping, "an object")
_KINDS: Mapping[str, tuple[type | tuple[type, ...], str]] = {
    **dict.fromkeys(("name", "backbone", "task", "weights_sha256", "description", "licence", "attribution"), _TEXT),
    **dict.fromkeys(("config", "front_end", "training", "metrics", "head", "calibration"), _OBJECT),
    **dict.fromkeys(("outputs", "tags"), ((list, tuple), "a list")),
}
_NONE_MAY_BE = ("head", "calibration")
_SIZES = ("sample_rate_hz", "n_fft", "hop_samples", "frame_hops", "n_mels")
"""Numbers of a front end that no default may stand for in a card: each model was trained on its own."""
_MOST_LEVELS = 32


def _check_kinds(values: object) -> None:
    """Raises ModelError where a card has another schema, or a field of another type than `Card` has there."""
    if not isinstance(values, Mapping):
        raise ModelError("the model card is no JSON object")
    if values.get("schema") != SCHEMA:
        raise ModelError(f"the model card is {clipped(repr(values.get('schema')))}; this version reads {SCHEMA}")
    if not _is_shallow(values, _MOST_LEVELS):
        raise ModelError("the model card cannot be read: it is nested too deeply")
    for name, value in values.items():
        kind, called = _KINDS.get(name, (object, ""))
        if not isinstance(value, kind) and not (value is None and name in _NONE_MAY_BE):
            raise ModelError(f"the model card cannot be read: {name} is {clipped(repr(value))}, not {called}")
    named = [*values.get("outputs", ())]
    for tag in values.get("tags", ()):
        if not isinstance(tag, Mapping) or not isinstance(tag.get("outputs"), list | tuple):
            raise ModelError(f"the model card cannot be read: {clipped(repr(tag))} is no tag")
        named += tag["outputs"]
    if wrong := [output for output in named if not isinstance(output, str)]:
        raise ModelError(f"the model card cannot be read: {clipped(repr(wrong[0]))} is no name of an output")
    if lacks := [size for size in _SIZES if size not in values.get("front_end", _SIZES)]:
        raise ModelError(f"the model card cannot be read: its front end has no {lacks[0]}")


def _is_shallow(value: object, levels: int) -> bool:
    if not isinstance(value, dict | list | tuple):
        return True
    inner = value.values() if isinstance(value, dict) else value
    return levels > 0 and all(_is_shallow(each, levels - 1) for each in inner)


def _is_number(value: object) -> bool:
    # Neither NaN nor infinite, nor a whole number beyond every float: JSON as Python reads it has all three.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def sha256_of(path: Path) -> str:
    """SHA-256 of a file in hexadecimal, as a card states it. Raises ModelError when the file cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
