"""Datasets of labelled music: one file for each layout."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import get_type_hints

from musictagger.datasets import fma, folders, gtzan, jamendo, library, manifest, mtat, music
from musictagger.datasets.base import Dataset
from musictagger.errors import require_known
from musictagger.values import convert


@dataclass(frozen=True)
class Source:
    """A dataset: its origin, and the function that reads it."""

    name: str
    source: str
    licence: str
    read: Callable[..., Dataset]

    @property
    def options(self) -> Mapping[str, object]:
        """The options of `read` with their defaults."""
        parameters = inspect.signature(self.read).parameters.values()
        return {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}


def _source(module: ModuleType) -> Source:
    return Source(module.NAME, module.SOURCE, module.LICENCE, module.read)


DATASETS: Mapping[str, Source] = MappingProxyType(
    {module.NAME: _source(module) for module in (folders, library, manifest, mtat, fma, gtzan, jamendo, music)}
)
"""Every dataset by name."""


def read_dataset(name: str, folder: Path | str, genres_toml: Path | None = None, /, **options: object) -> Dataset:
    """Read the dataset `name` in `folder`. Options may be texts from a command line.

    `genres_toml` is the user's genres.toml, the default of datasets whose genres are named as in scans.

    Raises BadRequestError for an unknown name or option, with a suggestion, for an invalid value, and for invalid
    data. The dataset is not always usable for training: see `require_usable`.
    """
    require_known("dataset", name, DATASETS)
    source = DATASETS[name]
    hints = get_type_hints(source.read)
    values: dict[str, object] = {"genres_file": genres_toml} if "genres_file" in source.options else {}
    for option, value in options.items():
        require_known(f"option of dataset {name}", option, source.options)
        values[option] = convert(value, hints[option], f"option {option} of dataset {name}", lenient=True)
    where = folder if isinstance(folder, Path) or name == library.NAME else Path(folder).expanduser()
    return source.read(where, **values)
