"""The published models that musictagger can fetch or recognise. Their data is in catalogue.toml.

Importing this module imports neither torch nor numpy, so that names can be listed and checked quickly.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from musictagger.audio.frontend import FrontEnd
from musictagger.errors import BadRequestError, hint
from musictagger.models.card import Card, Tag, Task
from musictagger.models.vocabulary import tags_for


@dataclass(frozen=True)
class Wheel:
    """A file on the Python package index that holds weights; `sha256` pins its content."""

    package: str
    version: str
    sha256: str
    size_bytes: int

    @property
    def title(self) -> str:
        """Name and version."""
        return f"package {self.package} {self.version}"


@dataclass(frozen=True)
class WebFile:
    """A file of weights at a fixed address; `sha256` pins its content."""

    url: str
    sha256: str
    size_bytes: int

    @property
    def title(self) -> str:
        """The address."""
        return self.url


@dataclass(frozen=True)
class Vocabulary:
    """The outputs of all models trained on one data set, in the order of their weights, and our default thresholds.

    `words`: the authors' names for the data set, as they occur in file and folder names.
    """

    outputs: tuple[str, ...]
    thresholds: Mapping[str, float]
    words: tuple[str, ...]


@dataclass(frozen=True)
class CatalogueEntry:
    """One published model. `format` names its converter; `path` is its folder inside a wheel."""

    name: str
    description: str
    backbone: str
    front_end: FrontEnd
    task: Task
    outputs: tuple[str, ...]
    thresholds: Mapping[str, float]
    source: Wheel | WebFile
    format: str
    path: str
    licence: str
    attribution: str
    training: Mapping[str, Any]
    metrics: Mapping[str, Any]

    @property
    def tags(self) -> tuple[Tag, ...]:
        """The tags that a user sees: the outputs with synonyms merged."""
        return tags_for(self.outputs, self.thresholds)

    def card(self, config: Mapping[str, Any], weights_sha256: str) -> Card:
        """The card of this model's converted weights, for a backbone of `config`."""
        same = ("name", "description", "backbone", "front_end", "task", "outputs", "tags")
        texts = ("licence", "attribution", "training", "metrics")
        values = {field: getattr(self, field) for field in (*same, *texts)}
        return Card(**values, config=config, weights_sha256=weights_sha256)


def names() -> tuple[str, ...]:
    """The names of all published models, sorted."""
    return tuple(sorted(entries()))


def entry(name: str) -> CatalogueEntry:
    """The published model `name`. Raises BadRequestError, with a suggestion, for an unknown name."""
    try:
        return entries()[name]
    except KeyError:
        raise no_model("published model", name, names()) from None


def no_model(what: str, name: str, known: Iterable[str]) -> BadRequestError:
    """The error for an unknown name of a `what`, with the most similar known name as a suggestion."""
    return BadRequestError(f"there is no {what} {name!r}{hint(name, known) or ';'} `musictagger models` lists all")


@functools.cache
def vocabularies() -> Mapping[str, Vocabulary]:
    """The vocabularies of the published models, by data set."""
    return {
        name: Vocabulary(tuple(values["outputs"]), values["thresholds"], tuple(values["words"]))
        for name, values in sorted(_values()["vocabularies"].items())
    }


@functools.cache
def _values() -> Mapping[str, Any]:
    with Path(__file__).with_name("catalogue.toml").open("rb") as file:
        return tomllib.load(file)


@functools.cache
def entries() -> Mapping[str, CatalogueEntry]:
    """All published models, by name."""
    return {entry.name: entry for entry in (_entry(dict(model)) for model in _values()["model"])}


def _entry(model: dict[str, Any]) -> CatalogueEntry:
    """A [[model]] of the catalogue; what it does not state comes from its format and its vocabulary."""
    form, vocabulary = _values()["formats"][model["format"]], vocabularies()[model.pop("vocabulary")]
    wheel = model.pop("wheel", None)
    web = {key: model.pop(key) for key in ("url", "sha256", "size_bytes") if key in model}
    source = WebFile(**web) if wheel is None else Wheel(**_values()["wheels"][wheel])
    shared = {"path": "", "task": "tags", "thresholds": vocabulary.thresholds, "metrics": {}} | {
        key: form[key] for key in ("licence", "attribution")
    }
    return CatalogueEntry(
        **shared | model, front_end=front_end(model["format"]), outputs=vocabulary.outputs, source=source
    )


def front_end(form: str) -> FrontEnd:
    """The front end of all models of a format. TOML has no null, so "none" stands for it."""
    values = _values()["formats"][form]["front_end"]
    return FrontEnd.from_json({key: None if value == "none" else value for key, value in values.items()})


def vocabularies_of(form: str) -> list[str]:
    """The data sets that models of a format were trained on."""
    return list(_values()["formats"][form]["vocabularies"])
