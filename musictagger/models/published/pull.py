"""Installing published models: fetched by name from the catalogue, or imported from a file.

Importing this module imports neither torch nor numpy.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from musictagger.errors import BadRequestError, ModelError, printable
from musictagger.models.card import Card, require_model_name, sha256_of
from musictagger.models.published import catalogue
from musictagger.models.published.catalogue import CatalogueEntry, WebFile, Wheel
from musictagger.models.published.fetch import Wanted, fetch
from musictagger.models.published.install import disk_errors, install, install_lock
from musictagger.progress import SILENT, Progress

if TYPE_CHECKING:
    from musictagger.models.published.convert import Converted


def pull(name: str, folder: Path, *, progress: Progress = SILENT, downloads: Path | None = None) -> Path:
    """Install the published model `name` in `folder` as NAME.safetensors with its card; returns the weights' path.

    The download must have the pinned SHA-256. `downloads`: a folder where wheels are kept for the next pull, useful for
    several models. An incomplete file from the web stays hidden in `folder`, and the next pull resumes it; while
    another process fetches the model, this one waits for it. The converted model is tested before it is installed.
    Raises BadRequestError for an unknown name, or one that the user's own model has in `folder`, and ModelError
    where the model cannot be fetched (offline, pip missing, wrong digest) or written.
    """
    from musictagger.models.published.convert import convert

    wanted, weights = catalogue.entry(name), folder / f"{name}.safetensors"
    with contextlib.ExitStack() as stack:
        if stack.enter_context(install_lock(name, folder, progress)) and weights.exists():
            return weights
        _check_name_is_free(wanted, folder)
        if isinstance(wanted.source, WebFile):
            downloads = folder
        elif downloads is None:
            downloads = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="musictagger-")))
        with disk_errors(downloads):
            file = fetch(Wanted(name, wanted.source, _alternative(wanted, folder)), downloads, progress)
        progress.say(f"converting {name}")
        install(wanted, convert(file, wanted.format, wanted.path), folder, name)
        if isinstance(wanted.source, WebFile):
            file.unlink(missing_ok=True)
    progress.say(f"{name} is ready: {weights}")
    return weights


def _check_name_is_free(wanted: CatalogueEntry, folder: Path) -> None:
    """Raise BadRequestError if another model of this name exists, alone or in the folder of its run.

    Thresholds do not count: the user may have changed them.
    """
    for path in (folder / f"{wanted.name}.safetensors", folder / wanted.name / f"{wanted.name}.safetensors"):
        if path.exists() and not _is_published(path, wanted):
            raise BadRequestError(
                f"{printable(path)}: is already a model of that name, and not the published one; rename or move it "
                "(and its .json), then pull again"
            )


def _is_published(weights: Path, wanted: CatalogueEntry) -> bool:
    try:
        card = Card.load(weights.with_suffix(".json"))
    except ModelError:
        return False
    same = ("description", "backbone", "front_end", "outputs", "attribution")
    return all(getattr(card, name) == getattr(wanted, name) for name in same)


def _alternative(wanted: CatalogueEntry, folder: Path) -> str:
    """The alternative for a user without network."""
    copy = f"copy {wanted.name}.safetensors and {wanted.name}.json from another machine into {folder}"
    if isinstance(wanted.source, Wheel):
        return copy
    imported = f"musictagger weights import FILE --format {wanted.format} --name {wanted.name}"
    return f"{copy}, or copy {wanted.source.url} to this machine and run `{imported}`"


# --- import ------------------------------------------------------------------------------------------------------


def import_file(
    file: Path,
    form: str,
    name: str,
    folder: Path,
    *,
    taken: Collection[str] = (),
    vocabulary: str = "",
    progress: Progress = SILENT,
) -> Path:
    """Install weights of format `form` (a key of convert.FORMATS) in `file` as model `name`; returns the weights' path.

    `taken`: names of models in other folders, which would hide this one. A file of the catalogue, recognised by its
    SHA-256, gets the card of its entry. Any other has the given `vocabulary`, or that of the data set that the names of
    the file or its folders mention. The model is tested before it is installed. Raises BadRequestError for an invalid
    name or vocabulary, and ModelError for a file of another format.
    """
    from musictagger.models.published.convert import convert

    require_model_name(name)
    if not file.exists():
        raise BadRequestError(f"{printable(file)}: does not exist")
    known, weights = _known(file), folder / f"{name}.safetensors"
    _check_vocabulary(file, known, vocabulary)
    if name in catalogue.names() and (known is None or known.name != name):
        is_what = f"is {known.name}" if known else "is another file"
        raise BadRequestError(f"{name} is a published model, and {printable(file)} {is_what}; give another --name")
    with install_lock(name, folder, progress):
        if name in taken or weights.exists():
            raise BadRequestError(f"there is already a model {name!r}; give another --name")
        converted = convert(file, form)
        imported = known or _unknown(file, form, converted, vocabulary or _mentioned(file, form))
        origin = f"recognised as {known.name}" if known else "not in the catalogue"
        progress.say(f"{origin}: backbone {converted.backbone}, {converted.n_tags} outputs")
        install(dataclasses.replace(imported, name=name), converted, folder, printable(file))
    progress.say(f"{name} is ready: {weights}")
    return weights


def _check_vocabulary(file: Path, known: CatalogueEntry | None, vocabulary: str) -> None:
    """Raise BadRequestError for an unknown vocabulary, or one that is not that of a known file."""
    if vocabulary and vocabulary not in catalogue.vocabularies():
        raise BadRequestError(
            f"there is no vocabulary {vocabulary!r} (known are: {', '.join(catalogue.vocabularies())})"
        )
    if vocabulary and known and known.outputs != catalogue.vocabularies()[vocabulary].outputs:
        raise BadRequestError(
            f"{printable(file)}: is {known.name}, whose outputs are not those of {vocabulary}; leave out --vocabulary"
        )


def _known(file: Path) -> CatalogueEntry | None:
    """The entry of the catalogue for exactly this file."""
    if not file.is_file():
        return None
    digest = sha256_of(file)
    return next((entry for entry in catalogue.entries().values() if entry.source.sha256 == digest), None)


def _mentioned(file: Path, form: str) -> str:
    """The vocabulary whose data set the last three names of the path mention, else the only one of the format."""
    words = set(re.split(r"[^a-z0-9]+", " ".join(file.absolute().parts[-3:]).lower()))
    of_format = catalogue.vocabularies_of(form)
    found = [name for name in of_format if words.intersection(catalogue.vocabularies()[name].words)]
    if len(found or of_format) != 1:
        raise BadRequestError(
            f"{printable(file)}: its path does not name the data set of its outputs; give --vocabulary "
            f"{' or '.join(of_format)}"
        )
    return (found or of_format)[0]


def _unknown(file: Path, form: str, converted: Converted, vocabulary: str) -> CatalogueEntry:
    """An entry for a file outside the catalogue."""
    values = catalogue.vocabularies()[vocabulary]
    if converted.n_tags != len(values.outputs):
        raise ModelError(
            f"{printable(file)}: has {converted.n_tags} outputs, but vocabulary {vocabulary} has {len(values.outputs)}"
        )
    return CatalogueEntry(
        name="",
        description=f"{converted.backbone} imported from {printable(file.name)}, vocabulary {vocabulary}",
        backbone=converted.backbone,
        front_end=catalogue.front_end(form),
        task="tags",
        outputs=values.outputs,
        thresholds=values.thresholds,
        source=WebFile("", "", 0),
        format=form,
        path="",
        licence="not stated: see where the file is from",
        attribution="",
        training={},
        metrics={},
    )
