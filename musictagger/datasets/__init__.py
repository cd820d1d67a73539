"""Labelled music in the layouts people have it: one file a dataset."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from musictagger.datasets import fma, folders, gtzan, jamendo, library, manifest, mtat, music
from musictagger.datasets.base import (
    SPLITS,
    Dataset,
    Example,
    Split,
    check_leaks,
    describe,
    require_usable,
    shared_artists,
    shared_audio,
    split_lines,
)
from musictagger.datasets.reading import require_known
from musictagger.errors import BadRequestError, hint

__all__ = [
    "DATASETS",
    "SPLITS",
    "Dataset",
    "Example",
    "Source",
    "Split",
    "check_leaks",
    "describe",
    "read_dataset",
    "require_usable",
    "shared_artists",
    "shared_audio",
    "split_lines",
]


@dataclass(frozen=True)
class Source:
    """One of the datasets: where it comes from, and how it is read."""

    name: str
    source: str
    licence: str
    summary: str
    read: Callable[..., Dataset]

    @property
    def options(self) -> Mapping[str, object]:
        """The options of `read` with their defaults."""
        parameters = inspect.signature(self.read).parameters.values()
        return {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}


_TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def _source(module: ModuleType) -> Source:
    summary = (inspect.getdoc(module) or "").partition("\n")[0]
    return Source(module.NAME, module.SOURCE, module.LICENCE, summary, module.read)


DATASETS: Mapping[str, Source] = MappingProxyType(
    {module.NAME: _source(module) for module in (folders, library, manifest, mtat, fma, gtzan, jamendo, music)}
)
"""Every dataset by name."""


def read_dataset(name: str, folder: Path | str, genres_toml: Path | None = None, /, **options: object) -> Dataset:
    """The dataset of that name in `folder`. Options may be texts, as a command line has them.

    `genres_toml` is the user's genres.toml, for datasets that name genres as scans do and were given no other.

    Raises BadRequestError for an unknown name or option, with a suggestion, for a value that the option cannot have,
    and for whatever is wrong with the data. It may give a dataset that is not fit for training: see `require_usable`.
    """
    require_known("dataset", name, list(DATASETS))
    source = DATASETS[name]
    hints = get_type_hints(source.read)
    values: dict[str, object] = {"genres_file": genres_toml} if "genres_file" in source.options else {}
    for option, value in options.items():
        if option not in source.options:
            known = hint(option, source.options) or f"; there are: {', '.join(source.options)}"
            raise BadRequestError(f"dataset {name} has no option {option!r}{known}")
        values[option] = _converted(f"option {option} of dataset {name}", value, hints[option])
    where = folder if isinstance(folder, Path) or name == library.NAME else Path(folder).expanduser()
    return source.read(where, **values)


def _converted(what: str, value: object, kind: Any) -> object:
    """A value as the option's annotation wants it; a text is read as what it means."""
    if get_origin(kind) is Literal:
        require_known(what, str(value), get_args(kind))
        return value
    kinds = get_args(kind) or (kind,)
    if isinstance(value, kinds) and not (isinstance(value, bool) and bool not in kinds):
        return value
    if float in kinds and type(value) is int:
        return float(value)
    if isinstance(value, str):
        try:
            return _parsed(value, kinds)
        except ValueError:
            pass
    names = " or ".join(each.__name__ for each in kinds if each is not type(None))
    raise BadRequestError(f"{what}: {value!r} is no {names}")


def _parsed(text: str, kinds: tuple[type, ...]) -> object:
    """Raises ValueError for a text that means none of these."""
    if bool in kinds:
        if text.lower() not in _TRUTHS:
            raise ValueError(text)
        return _TRUTHS[text.lower()]
    if int in kinds:
        return int(text)
    if float in kinds:
        return float(text)
    if Path in kinds:
        return Path(text).expanduser()
    raise ValueError(text)
