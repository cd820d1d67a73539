"""Options that say where labelled music is, and what they mean together."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from musictagger.cli.options import aggregate_option, batch_size_option, chain, device_option, workers_option
from musictagger.errors import BadRequestError, printable

if TYPE_CHECKING:
    from musictagger.config import Settings
    from musictagger.datasets import Dataset

SPLITS = ("test", "valid", "train", "all")

_DATA = click.option("--data", metavar="FOLDER|FILE", help="Where the music (or the list, or the library) is.")
_DATASET = click.option(
    "--dataset", metavar="NAME", help="How it is laid out: folders (default: one a genre), mtat, fma, ..."
)
_DATASET_OPTION = click.option(
    "--dataset-option", multiple=True, metavar="NAME=VALUE", help="Of the dataset, as valid=0.2; repeatable."
)
_SPLIT = click.option(
    "--split", type=click.Choice(SPLITS), default="test", help="Which of its tracks to measure on; default: test."
)

dataset_options = chain(_DATA, _DATASET, _DATASET_OPTION)
measuring_options = chain(dataset_options, _SPLIT, aggregate_option, device_option, batch_size_option, workers_option)


def data_of(data: str | None, dataset: str, settings: Settings) -> Path | str:
    """Where a dataset is read from. Raises BadRequestError where that was not said; only a library is known anyway."""
    from musictagger.datasets import DATASETS
    from musictagger.datasets.library import NAME as LIBRARY

    if data:
        return data if dataset == LIBRARY else Path(data).expanduser()
    if dataset == LIBRARY:
        return settings.db_location
    raise BadRequestError(f"say where the data are: --data PATH (dataset {dataset}: {DATASETS[dataset].summary})")


def require_place(file: Path | None) -> None:
    """Raise BadRequestError where a file cannot be written: before an hour of measuring, not after it."""
    if file is None:
        return
    reason = "is a folder" if file.is_dir() else "" if file.parent.is_dir() else "there is no such folder"
    if not reason and not os.access(file.parent, os.W_OK):
        reason = "the folder is read-only"
    if reason:
        raise BadRequestError(f"{printable(file)}: cannot be written: {reason}")


def read_labelled(flags: dict[str, Any], settings: Settings) -> Dataset:
    """The dataset that the flags name."""
    from musictagger.cli.assignments import assigned
    from musictagger.datasets import DATASETS, read_dataset
    from musictagger.datasets.reading import require_known

    name = flags["dataset"] or "folders"
    require_known("dataset", name, list(DATASETS))
    folder = data_of(flags["data"], name, settings)
    return read_dataset(name, folder, settings.genres_file, **assigned(flags["dataset_option"], "--dataset-option"))
