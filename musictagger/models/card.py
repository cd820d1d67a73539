"""The card of a model: everything about it that is not a weight, as one JSON file beside the weights."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from musictagger.audio.frontend import FrontEnd
from musictagger.errors import BadRequestError, ModelError, clipped, printable
from musictagger.values import Finite, load

if TYPE_CHECKING:
    from musictagger.models.calibration import Calibration

SCHEMA = "musictagger.model/1"

Category = Literal["genre", "mood", "instrument", "voice", "era", "other"]
CATEGORIES: tuple[Category, ...] = get_args(Category)
Task = Literal["tags", "genre"]


@dataclass(frozen=True)
class Tag:
    """A tag as users see it; its score is the highest among the network outputs of the same meaning."""

    name: str
    category: Category
    outputs: tuple[str, ...]
    threshold: Finite
    """The lowest score at which a track gets this tag."""


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
    """The classifier that replaces the dense layer (models.heads), None for none."""
    calibration: Mapping[str, Any] | None = None
    """Curves that map track scores to calibrated scores before thresholds are applied (models.calibration)."""

    def __post_init__(self) -> None:
        """Raises ModelError if names cannot be displayed or are not unique, or a tag's outputs do not exist."""
        for text in (self.name, *(tag.name for tag in self.tags)):
            if not text.strip() or not text.isprintable():
                raise ModelError(f"model {self.name!r}: the name {text!r} is empty or not printable")
        if not self.tags or len(set(self.outputs)) != len(self.outputs):
            raise ModelError(f"model {self.name}: has no tags, or two outputs with the same name")
        if len({tag.name for tag in self.tags}) != len(self.tags):
            raise ModelError(f"model {self.name}: has two tags with the same name")
        for tag in self.tags:
            if not tag.outputs or not set(self.outputs).issuperset(tag.outputs):
                raise ModelError(f"model {self.name}: tag {tag.name!r} names outputs that the network does not have")

    @property
    def key(self) -> str:
        """The identity of this model's stored scores: a digest of weights, architecture, front end and task.

        Tags, thresholds and texts are left out on purpose: a library must not be analysed again when they change.
        """
        identity = [self.weights_sha256, self.backbone, dict(self.config), self.front_end.to_json(), self.task]
        if self.head is not None:
            identity.append(dict(self.head))
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    @functools.cached_property
    def curves(self) -> Calibration | None:
        """The calibration, ready for use; None if the card has none. Raises ModelError if it is invalid."""
        if self.calibration is None:
            return None
        # Imported here since it needs numpy, which commands that only look for models do not load.
        from musictagger.models.calibration import Calibration

        try:
            calibration = Calibration.from_json(self.calibration)
        except ModelError as error:
            raise ModelError(f"model {self.name}: {error}") from error
        if unknown := sorted(calibration.curves.keys() - {tag.name for tag in self.tags}):
            raise ModelError(f"model {self.name}: the calibration has a curve for {unknown[0]!r}, which is not a tag")
        return calibration

    def to_json(self) -> dict[str, Any]:
        """The card as it is stored on disk."""
        values = dataclasses.asdict(self) | {"front_end": self.front_end.to_json()}
        return {"schema": SCHEMA} | values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Card:
        """The inverse of `to_json`. Raises ModelError naming the field that is missing, unknown or invalid."""
        if not isinstance(values, Mapping):
            raise ModelError("the model card is not a JSON object")
        if not _is_shallow(values, _MAX_LEVELS):
            raise ModelError("the model card is nested too deeply")
        fields = dict(values)
        if (schema := fields.pop("schema", None)) != SCHEMA:
            raise ModelError(f"the model card has schema {clipped(repr(schema))}; this version reads {SCHEMA}")
        if "front_end" in fields:
            fields["front_end"] = FrontEnd.from_json(fields["front_end"])
            if missing := [size for size in _SIZES if size not in values["front_end"]]:
                raise ModelError(f"the model card's front end lacks {missing[0]}")
        card: Card = load(fields, cls, "the model card", ModelError)
        # Built now, so that an invalid calibration is refused here and not at the first track.
        card.curves  # noqa: B018
        return card

    def save(self, path: Path) -> None:
        """Write the card as JSON; equal cards give equal files."""
        path.write_text(json.dumps(self.to_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def require_weights(self, path: Path) -> None:
        """Raise ModelError if `path` cannot be read or is not the weights file that this card describes."""
        if sha256_of(path) != self.weights_sha256:
            raise ModelError(f"{path}: is not the file its card describes (SHA-256 differs); fetch or copy it again")

    @classmethod
    def load(cls, path: Path) -> Card:
        """Read a card. Raises ModelError with the path if it cannot be read or is invalid.

        The name of the file is the name of the model, so that a renamed model has its new name everywhere.
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


_SIZES = ("sample_rate_hz", "n_fft", "hop_samples", "frame_hops", "n_mels")
"""Settings of the front end that every card must state: no default may replace its training values."""
_MAX_LEVELS = 32
"""Nesting of JSON values in a card, so that no reader or writer of it exceeds the recursion limit."""


def _is_shallow(value: object, levels: int) -> bool:
    if not isinstance(value, dict | list | tuple):
        return True
    inner = value.values() if isinstance(value, dict) else value
    return levels > 0 and all(_is_shallow(each, levels - 1) for each in inner)


def require_model_name(name: str) -> None:
    """Raise BadRequestError for a name that is a path, or too long for a file name (255 bytes with suffixes)."""
    wrong = name.startswith(".") or name.endswith(".safetensors") or any(character in name for character in "/\\")
    if wrong or not name.strip() or not name.isprintable() or len(name.encode()) > 200:
        raise BadRequestError(
            f"{clipped(printable(name))!r} is not a valid model name: use at most 200 bytes of visible characters, "
            "no / or \\, no dot at the start, and no .safetensors at the end"
        )


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal, as in cards. Raises ModelError if the file cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
