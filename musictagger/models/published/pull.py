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
from musictagger.models.published.install import alone, disk_errors, install
from musictagger.progress import SILENT, Progress

if TYPE_CHECKING:
    from musictagger.models.published.convert import Converted


def pull(name: str, folder: Path, *, progress: Progress = SILENT, downloads: Path | None = None) -> Path:
    """Fetch the published model `name` into `folder` as NAME.safetensors with its card; returns the weights' path.

    What is fetched must have the pinned SHA-256. With `downloads` a wheel is kept there, and found there by the next
    pull: give it when pulling several models. A file from the web that came only in part stays in `folder`, hidden,
    and the next pull goes on from there; while another process fetches it, this one waits, and takes what came.
    Nothing is put in place before the converted model loads and computes. Raises BadRequestError for an unknown name
    or one that a model of the user's own has in `folder`; ModelError, in one line that says what to do: offline, pip
    missing, a wrong digest, a disk that is full.
    """
    from musictagger.models.published.convert import convert

    wanted, weights = catalogue.entry(name), folder / f"{name}.safetensors"
    with contextlib.ExitStack() as stack:
        if stack.enter_context(alone(name, folder, progress)) and weights.exists():
            return weights
        _check_place(wanted, folder)
        if isinstance(wanted.source, WebFile):
            downloads = folder
        elif downloads is None:
            downloads = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="musictagger-")))
        with disk_errors(downloads):
            file = fetch(Wanted(name, wanted.source, _otherwise(wanted, folder)), downloads, progress)
        progress.say(f"converting {name}")
        install(wanted, convert(file, wanted.format, wanted.path), folder, name)
        if isinstance(wanted.source, WebFile):
            file.unlink(missing_ok=True)
    progress.say(f"{name} is ready: {weights}")
    return weights


def _check_place(wanted: CatalogueEntry, folder: Path) -> None:
    """Raises BadRequestError where a model of this name, loose or in the folder of its run, is not the published one.

    Its thresholds may be: those are the user's to change.
    """
    for there in (folder / f"{wanted.name}.safetensors", folder / wanted.name / f"{wanted.name}.safetensors"):
        if there.exists() and not _is_published(there, wanted):
            raise BadRequestError(
                f"{printable(there)}: is a model of that name already, and not the published one; rename or move it "
                "(and its .json), then pull again"
            )


def _is_published(weights: Path, wanted: CatalogueEntry) -> bool:
    try:
        card = Card.load(weights.with_suffix(".json"))
    except ModelError:
        return False
    same = ("description", "backbone", "front_end", "outputs", "attribution")
    return all(getattr(card, name) == getattr(wanted, name) for name in same)


def _otherwise(wanted: CatalogueEntry, folder: Path) -> str:
    """What else there is to do for someone without network."""
    copy = f"copy {wanted.name}.safetensors and {wanted.name}.json from another machine into {folder}"
    if isinstance(wanted.source, Wheel):
        return copy
    imported = f"musictagger weights import FILE --format {wanted.format} --name {wanted.name}"
    return f"{copy}, or bring {wanted.source.url} here and run `{imported}`"


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
    """Weights of format `form` (a key of convert.FORMATS) in `file` as model `name` in `folder`; the weights' path.

    `taken`: names of models that are elsewhere, as those that come with the program; of two only one would be found.
    A file that is in the catalogue, known by its SHA-256, gets its entry's card. Of any other the vocabulary is
    `vocabulary`, or the one whose data set the file's name or its folders' names mention. Nothing is put in place
    before the model loads and computes. Raises BadRequestError for a name or vocabulary that cannot be, ModelError for
    a file of another format.
    """
    from musictagger.models.published.convert import convert

    require_model_name(name)
    if not file.exists():
        raise BadRequestError(f"{printable(file)}: there is no such file")
    known, weights = _known(file), folder / f"{name}.safetensors"
    _check_vocabulary(file, known, vocabulary)
    if name in catalogue.names() and (known is None or known.name != name):
        is_what = f"is {known.name}" if known else "is another file"
        raise BadRequestError(f"{name} is a published model, and {printable(file)} {is_what}; give another --name")
    with alone(name, folder, progress):
        if name in taken or weights.exists():
            raise BadRequestError(f"there is a model {name!r} already; give another --name")
        converted = convert(file, form)
        imported = known or _unknown(file, form, converted, vocabulary or _mentioned(file, form))
        progress.say(f"{'recognised as ' + known.name if known else 'not in the catalogue'}: {_told(converted)}")
        install(dataclasses.replace(imported, name=name), converted, folder, printable(file))
    progress.say(f"{name} is ready: {weights}")
    return weights


def _check_vocabulary(file: Path, known: CatalogueEntry | None, vocabulary: str) -> None:
    """Raises BadRequestError for one that there is not, or that the outputs of a known file are not of."""
    if vocabulary and vocabulary not in catalogue.vocabularies():
        raise BadRequestError(
            f"there is no vocabulary {vocabulary!r} (there are: {', '.join(catalogue.vocabularies())})"
        )
    if vocabulary and known and known.outputs != catalogue.vocabularies()[vocabulary].outputs:
        raise BadRequestError(
            f"{printable(file)}: is {known.name}, whose outputs are not those of {vocabulary}; leave out --vocabulary"
        )


def _told(converted: Converted) -> str:
    return f"backbone {converted.backbone}, {converted.n_tags} outputs"


def _known(file: Path) -> CatalogueEntry | None:
    """The catalogue's entry with exactly this file."""
    if not file.is_file():
        return None
    digest = sha256_of(file)
    return next((entry for entry in catalogue.entries().values() if entry.source.sha256 == digest), None)


def _mentioned(file: Path, form: str) -> str:
    """The vocabulary whose data set the path's last three names mention, else the only one its format has."""
    words = set(re.split(r"[^a-z0-9]+", " ".join(file.absolute().parts[-3:]).lower()))
    of_format = catalogue.vocabularies_of(form)
    found = [name for name in of_format if words.intersection(catalogue.vocabularies()[name].words)]
    if len(found or of_format) != 1:
        raise BadRequestError(
            f"{printable(file)}: nothing says which data set its outputs are of; give --vocabulary "
            f"{' or '.join(of_format)}"
        )
    return (found or of_format)[0]


def _unknown(file: Path, form: str, converted: Converted, vocabulary: str) -> CatalogueEntry:
    """An entry for a file that is not in the catalogue."""
    values = catalogue.vocabularies()[vocabulary]
    if converted.n_tags != len(values.outputs):
        raise ModelError(
            f"{printable(file)}: has {converted.n_tags} outputs, and vocabulary {vocabulary} has {len(values.outputs)}"
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
