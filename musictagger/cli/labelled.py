"""Options that choose labelled music and what to measure on it, and reading the dataset they name."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from musictagger.cli.options import aggregate_option, batch_size_option, chain, device_option, stoppable, workers_option
from musictagger.errors import EXIT_INTERRUPTED, BadRequestError, MusictaggerError, printable, require_known

if TYPE_CHECKING:
    from musictagger.cli.progress import Quiet
    from musictagger.config import Settings
    from musictagger.datasets.base import Dataset

SPLITS = ("test", "valid", "train", "all")

dataset_options = chain(
    click.option("--data", metavar="FOLDER|FILE", help="Folder of the labelled music, list of files, or library."),
    click.option("--dataset", metavar="NAME", help="Layout of the data: folders (default; one per genre), mtat, ..."),
    click.option("--dataset-option", multiple=True, metavar="NAME=VALUE", help="Dataset option. Repeatable."),
)
measuring_options = chain(
    dataset_options,
    click.option("--split", type=click.Choice(SPLITS), default="test", help="Tracks to measure on. Default: test."),
    aggregate_option,
    device_option,
    batch_size_option,
    workers_option,
)


def data_of(data: str | None, dataset: str, settings: Settings) -> Path | str:
    """Return the location of a dataset. Raises BadRequestError if it is not given, except for the library."""
    from musictagger.datasets.library import NAME as LIBRARY

    if data:
        return data if dataset == LIBRARY else Path(data).expanduser()
    if dataset == LIBRARY:
        return settings.db_location
    kind = "a folder of music with one folder per genre" if dataset == "folders" else f"the data of dataset {dataset}"
    raise BadRequestError(f"give the data with --data PATH: {kind} (docs/training.md describes all datasets)")


def require_writable(file: Path | None) -> None:
    """Raise BadRequestError if a file cannot be written, before measuring for an hour."""
    if file is None:
        return
    reason = "is a folder" if file.is_dir() else "" if file.parent.is_dir() else "the folder does not exist"
    if not reason and not os.access(file.parent, os.W_OK):
        reason = "the folder is read-only"
    if reason:
        raise BadRequestError(f"{printable(file)}: cannot be written: {reason}")


@contextmanager
def measuring(quiet: bool) -> Iterator[Quiet]:
    """Yield the reporter of a measurement; an error after Ctrl-C ends the command as interrupted."""
    from musictagger.cli import progress

    with progress.reporter(quiet) as reporter, stoppable(reporter):
        try:
            yield reporter
        except MusictaggerError as error:
            if not reporter.stopping:
                raise
            reporter.say(str(error))
            raise click.exceptions.Exit(EXIT_INTERRUPTED) from error


def read_labelled(flags: dict[str, Any], settings: Settings) -> Dataset:
    """Read the dataset that the options of `dataset_options` name."""
    from musictagger.datasets import DATASETS, read_dataset

    name = flags["dataset"] or "folders"
    require_known("dataset", name, DATASETS)
    folder = data_of(flags["data"], name, settings)
    return read_dataset(name, folder, settings.genres_file, **assigned(flags["dataset_option"], "--dataset-option"))


def assigned(texts: Iterable[str], option: str) -> dict[str, str]:
    """["x=1"] -> {"x": "1"}. Raises BadRequestError for a text without = and for a repeated name."""
    values: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals or not name:
            raise BadRequestError(f"{option} takes NAME=VALUE, not {text!r}")
        if name in values:
            raise BadRequestError(f"{option} gives {name} twice")
        values[name] = value.strip()
    return values
