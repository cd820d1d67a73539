"""Published models: what there is, and fetching, converting and installing one. Data in catalogue.toml.

Importing this module imports neither torch nor numpy, so that names can be listed and checked at once.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from musictagger.audio.frontend import FrontEnd
from musictagger.errors import ModelError
from musictagger.models.card import Card, Tag, Task
from musictagger.models.vocabulary import tags_for

if TYPE_CHECKING:
    from musictagger.models.convert import Tensors

Say = Callable[[str], None]
Progress = Callable[[int, int], None]
"""Bytes fetched so far, and in all."""


@dataclass(frozen=True)
class Wheel:
    """A file on the Python package index that holds weights; `sha256` pins its content."""

    package: str
    version: str
    sha256: str
    size_bytes: int

    @property
    def title(self) -> str:
        return f"{self.package} {self.version}"


@dataclass(frozen=True)
class Entry:
    """One published model. `path` and `format` say where in the wheel it is, and which converter reads it."""

    name: str
    description: str
    backbone: str
    config: Mapping[str, Any]
    front_end: FrontEnd
    task: Task
    outputs: tuple[str, ...]
    thresholds: Mapping[str, float]
    wheel: Wheel
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

    def card(self, weights_sha256: str) -> Card:
        """The card of this model's converted weights."""
        same = ("name", "description", "backbone", "config", "front_end", "task", "outputs", "tags")
        texts = ("licence", "attribution", "training", "metrics")
        return Card(**{field: getattr(self, field) for field in (*same, *texts)}, weights_sha256=weights_sha256)


def names() -> tuple[str, ...]:
    """Every published model there is, sorted."""
    return tuple(sorted(_entries()))


def entry(name: str) -> Entry:
    """The published model `name`. Raises ModelError when there is none."""
    try:
        return _entries()[name]
    except KeyError:
        raise ModelError(f"there is no published model {name!r} (there are: {', '.join(names())})") from None


@functools.cache
def _entries() -> dict[str, Entry]:
    with Path(__file__).with_name("catalogue.toml").open("rb") as file:
        values = tomllib.load(file)
    wheels = {key: Wheel(**wheel) for key, wheel in values["wheels"].items()}
    front_ends = {key: FrontEnd.from_json(front_end) for key, front_end in values["front_ends"].items()}
    entries = (
        Entry(
            **model
            | {
                "front_end": front_ends[model["front_end"]],
                "wheel": wheels[model["wheel"]],
                "outputs": tuple(model["outputs"]),
            }
        )
        for model in values["model"]
    )
    return {entry.name: entry for entry in entries}


# --- pull --------------------------------------------------------------------------------------------------------


def _nothing(*_: object) -> None: ...


def pull(
    name: str, folder: Path, *, say: Say = _nothing, progress: Progress = _nothing, downloads: Path | None = None
) -> Path:
    """Fetch the published model `name` into `folder` as NAME.safetensors with its card; returns the weights' path.

    The wheel comes through pip, so mirrors, proxies and pip's cache are used as the user set them, and its SHA-256
    must be the pinned one. With `downloads` the wheel is kept there, and found there by the next pull: give it when
    pulling several models. Nothing is put in place before the converted model loads. Raises ModelError, in one
    line that says what to do: offline, pip missing, a wrong digest, a disk that is full.
    """
    from musictagger.models.convert import convert

    wanted = entry(name)
    with _scratch(None) as scratch:
        wheel = _fetched(wanted, downloads or scratch, folder, say, progress)
        say(f"converting {name}")
        tensors = convert(wheel, wanted.format, wanted.path)
    weights = _installed(wanted, tensors, folder)
    say(f"{name} is ready: {weights}")
    return weights


def _fetched(wanted: Entry, downloads: Path, folder: Path, say: Say, progress: Progress) -> Path:
    """The wheel's file, with the right content."""
    wheel = wanted.wheel
    if (kept := _wheel_in(downloads, wheel)) and _sha256(kept) == wheel.sha256:
        return kept
    say(f"fetching {wanted.name} (package {wheel.title}, {wheel.size_bytes / 1e6:.0f} MB)")
    code, output = _download(wheel, downloads, progress)
    if code:
        raise ModelError(_why_not(wanted, folder, output))
    fetched = _wheel_in(downloads, wheel)
    if fetched is None:
        raise ModelError(f"could not fetch {wanted.name}: pip reported success, and left no wheel of {wheel.title}")
    if (digest := _sha256(fetched)) != wheel.sha256:
        raise ModelError(
            f"could not fetch {wanted.name}: the package index served another {wheel.title} than the authors' "
            f"(SHA-256 {digest[:12]}..., expected {wheel.sha256[:12]}...); nothing was installed"
        )
    return fetched


def _download(wheel: Wheel, downloads: Path, progress: Progress) -> tuple[int, str]:
    """Run pip; returns its exit code and what it said. Its progress lines are `Progress BYTES of BYTES`."""
    # -P: a folder of music may have a `pip` in it, which is not to be run.
    # Two short tries: someone offline waits seconds for the message, not a minute.
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", "--no-color", "--progress-bar=raw", "--retries=1", "--timeout=15"]
    command += ["--dest", str(downloads), f"{wheel.package}=={wheel.version}"]
    said: list[str] = []
    try:
        with _running(command) as (process, output):
            for line in output:
                if numbers := re.match(r"Progress (\d+) of (\d+)", line):
                    progress(int(numbers[1]), int(numbers[2]) or wheel.size_bytes)
                else:
                    said.append(line.strip())
            return process.wait(), "\n".join(said)
    except OSError as error:
        raise ModelError(f"could not fetch {wheel.title}: pip cannot be run: {error}") from error


@contextlib.contextmanager
def _running(command: list[str]) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """A process that does not outlive this block, whatever ends it (Ctrl-C too)."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    assert process.stdout is not None
    with process.stdout:
        try:
            yield process, process.stdout
        finally:
            process.terminate()
            process.wait()


def _why_not(wanted: Entry, folder: Path, output: str) -> str:
    """One line: what went wrong with pip, and what to do."""
    start = f"could not fetch {wanted.name}"
    if "No module named pip" in output:
        return f"{start}: this Python has no pip; install it (`uv pip install pip` or `python -m ensurepip`)"
    if "No space left on device" in output:
        return f"{start}: no space left in {tempfile.gettempdir()}; make room, or point TMPDIR elsewhere"
    errors = [line for line in output.splitlines() if line.startswith("ERROR: ")] or output.splitlines()[-1:]
    said = errors[-1].removeprefix("ERROR: ").strip() if errors else "nothing"
    return (
        f"{start}: no network? Run `musictagger weights pull {wanted.name}` where there is one, or copy "
        f"{wanted.name}.safetensors and {wanted.name}.json from another machine into {folder} (pip said: {said})"
    )


def _wheel_in(downloads: Path, wheel: Wheel) -> Path | None:
    return next(iter(sorted(downloads.glob(f"{wheel.package}-{wheel.version}-*.whl"))), None)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- install -------------------------------------------------------------------------------------------------


def _installed(wanted: Entry, tensors: Tensors, folder: Path) -> Path:
    """Write weights and card, load them, and only then put them in place: weights first, then the card."""
    import torch

    from musictagger.models.weights import load_model, save_weights

    with _scratch(folder) as scratch:
        weights = scratch / f"{wanted.name}.safetensors"
        digest = save_weights({key: torch.from_numpy(tensor) for key, tensor in tensors.items()}, weights)
        wanted.card(digest).save(weights.with_suffix(".json"))
        load_model(weights)
        for path in (weights, weights.with_suffix(".json")):
            path.replace(folder / path.name)
    return folder / weights.name


@contextlib.contextmanager
def _scratch(parent: Path | None) -> Iterator[Path]:
    """A folder that is gone afterwards, in `parent` (made if need be). Raises ModelError when the disk refuses."""
    try:
        if parent is not None:
            parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".musictagger-", dir=parent) as scratch:
            yield Path(scratch)
    except OSError as error:
        where = error.filename or parent or tempfile.gettempdir()
        raise ModelError(f"{where}: cannot be written: {error.strerror or error}") from error
