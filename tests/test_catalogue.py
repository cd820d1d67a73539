"""The catalogue, `pull` and `import_file`, with a small wheel and a fake pip."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from threading import Thread
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import pytest
from conftest import make_card
from helpers import Recorder
from test_convert import musicnn_arrays

from musictagger.cli.weights import command as weights_command
from musictagger.errors import BadRequestError, ModelError
from musictagger.models.card import Card
from musictagger.models.find import find_model, find_or_pull
from musictagger.models.published import catalogue, convert, foreign
from musictagger.models.published.catalogue import WebFile
from musictagger.models.published.pull import import_file, pull
from musictagger.models.registry import find_backbones
from musictagger.models.weights import load_model

CONFIG = {"timbral_channels": 3, "temporal_channels": 2, "mid_channels": 4, "units": 5}
"""Of `musicnn_arrays`."""


def wheel_bytes(checkpoint: dict[str, npt.NDArray[Any]]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive, archive.open("tiny/weights.npz", "w") as file:
        np.savez(file, **checkpoint)  # type: ignore[arg-type]
    return content.getvalue()


def from_npz(file: Path, inside: str) -> foreign.Tensors:
    with zipfile.ZipFile(file) as archive, np.load(io.BytesIO(archive.read(f"{inside}/weights.npz"))) as stored:
        return dict(stored)


@pytest.fixture
def wheel(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Replace musicnn-msd by a small model; returns the bytes that the package index would serve."""
    real = catalogue.entry("musicnn-msd")
    content = wheel_bytes(musicnn_arrays(len(real.outputs)))
    pinned = dataclasses.replace(real.source, sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))
    tiny = dataclasses.replace(real, path="tiny", source=pinned)
    monkeypatch.setattr(catalogue, "entries", lambda: {"musicnn-msd": tiny})
    monkeypatch.setattr(convert, "FORMATS", {"musicnn": (from_npz, convert.FORMATS["musicnn"][1])})
    return content


class Pip:
    """A fake pip that writes `content` into its destination folder and prints `output`."""

    def __init__(self, content: bytes | None = None, output: str = "", code: int = 0) -> None:
        self.content, self.output, self.code, self.calls = content, output, code, 0

    def install(self, monkeypatch: pytest.MonkeyPatch) -> Pip:
        popen = subprocess.Popen

        def pretend(command: list[str], **options: Any) -> subprocess.Popen[str]:
            self.calls += 1
            folder = Path(command[command.index("--dest") + 1])
            if self.content is not None:
                (folder / "musicnn-0.1.0-py3-none-any.whl").write_bytes(self.content)
            script = f"import sys; print({self.output!r}); sys.exit({self.code})"
            return popen([sys.executable, "-c", script], **options)

        monkeypatch.setattr(subprocess, "Popen", pretend)
        return self


# --- its content -------------------------------------------------------------------------------------------------


def test_importing_the_catalogue_imports_neither_torch_nor_numpy() -> None:
    listing = "from musictagger.models.published import catalogue as c; c.names()"
    code = f"import sys; {listing}; print({{'torch', 'numpy'}} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_every_entry_is_complete() -> None:
    won = ("won-msd-crnn", "won-msd-fcn", "won-mtat-crnn", "won-mtat-fcn", "won-mtat-musicnn")
    assert catalogue.names() == ("choi-msd-crnn", "musicnn-msd", "musicnn-mtt", "vgg-msd", "vgg-mtt", *won)
    for name in catalogue.names():
        entry = catalogue.entry(name)
        assert entry.name == name
        assert len(set(entry.outputs)) == len(entry.outputs) == 50
        assert entry.format in convert.FORMATS
        assert entry.backbone in find_backbones()
        assert len(entry.source.sha256) == 64
        assert entry.licence.startswith(("ISC", "MIT")) and "https://" in entry.attribution
        assert all(0 < tag.threshold < 1 for tag in entry.tags)
        card = entry.card({}, "0" * 64)
        assert Card.from_json(json.loads(json.dumps(card.to_json()))) == card


def test_a_file_on_the_web_is_pinned_to_a_commit_and_comes_over_https() -> None:
    sources = [entry.source for entry in map(catalogue.entry, catalogue.names()) if isinstance(entry.source, WebFile)]
    assert len(sources) == 6
    assert all(re.match(r"https://raw\.githubusercontent\.com/[^/]+/[^/]+/[0-9a-f]{40}/", s.url) for s in sources)
    assert len({source.sha256 for source in sources}) == 6


def test_the_formats_of_import_are_those_of_convert() -> None:
    assert set(catalogue.vocabularies()) == {"msd", "mtat"}
    options = {option.name: option.type for option in weights_command.commands["import"].params}
    choice = options["form"]
    assert isinstance(choice, click.Choice) and set(choice.choices) == set(convert.FORMATS)


def test_every_threshold_names_a_tag_or_a_category() -> None:
    for name in catalogue.names():
        entry = catalogue.entry(name)
        known = {tag.name for tag in entry.tags} | {tag.category for tag in entry.tags} | {"default"}
        assert set(entry.thresholds) <= known


def test_frames_have_the_same_length_in_all_models() -> None:
    for name in catalogue.names():
        assert catalogue.entry(name).front_end.frame_s == 29.12
    assert catalogue.entry("musicnn-msd").front_end.columns == 1821
    assert catalogue.entry("choi-msd-crnn").front_end.columns == 1366
    assert catalogue.entry("won-msd-fcn").front_end.top_db is None


def test_an_unknown_name_is_a_usage_error_with_a_suggestion() -> None:
    with pytest.raises(BadRequestError, match=r"no published model 'musicnn-msdd'; did you mean 'musicnn-msd'\?"):
        catalogue.entry("musicnn-msdd")
    with pytest.raises(BadRequestError, match=r"'xyzzy'; `musictagger models` lists all"):
        pull("xyzzy", Path("nowhere"))


# --- pull --------------------------------------------------------------------------------------------------------


def test_pull_installs_weights_and_card_that_load(
    wheel: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Pip(wheel, "Progress 10 of 400\nSaved\nProgress 400 of 400").install(monkeypatch)
    progress = Recorder()
    folder = tmp_path / "not" / "there yet"
    weights = pull("musicnn-msd", folder, progress=progress)
    assert sorted(path.name for path in folder.iterdir()) == ["musicnn-msd.json", "musicnn-msd.safetensors"]
    assert progress.done == [10, 400]
    assert progress.lines[0].startswith("fetching musicnn-msd (package musicnn 0.1.0")
    assert progress.lines[-1] == f"musicnn-msd is ready: {weights}"
    model = load_model(weights)
    assert model.card.config == {"n_mels": 96, "patch_columns": 187} | CONFIG
    expected = musicnn_arrays(50)["conv2d_1/kernel"][3, 20, 0, 2]
    assert float(model.backbone.state_dict()["cnn.timbral.1.conv.weight"][2, 0, 20, 3]) == expected


def test_a_kept_wheel_is_not_fetched_again(wheel: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip = Pip(wheel).install(monkeypatch)
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    for folder in ("a", "b"):
        pull("musicnn-msd", tmp_path / folder, downloads=downloads)
    assert pip.calls == 1
    assert (tmp_path / "a/musicnn-msd.json").read_bytes() == (tmp_path / "b/musicnn-msd.json").read_bytes()


@pytest.mark.parametrize(
    ("pip", "reason"),
    [
        (Pip(output="ERROR: No matching distribution found", code=1), "no network.*weights pull.*or copy.*No matching"),
        (Pip(output="/usr/bin/python: No module named pip", code=1), "has no pip; install it"),
        (Pip(output="ERROR: [Errno 28] No space left on device", code=2), "no space left"),
        (Pip(code=1), "no network"),
        (Pip(b"another file"), "SHA-256 .*nothing was installed"),
        (Pip(), "left no wheel"),
    ],
)
def test_failures_of_pip_give_a_message_of_one_line(
    wheel: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pip: Pip, reason: str
) -> None:
    pip.install(monkeypatch)
    with pytest.raises(ModelError, match=reason) as caught:
        pull("musicnn-msd", tmp_path / "models")
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "models").iterdir()) == []


def put_own(weights: Path) -> bytes:
    """Create a user's own model with the name of a published one; returns its weights."""
    weights.parent.mkdir(parents=True, exist_ok=True)
    weights.write_bytes(b"of my own")
    make_card(name=weights.stem).save(weights.with_suffix(".json"))
    return weights.read_bytes()


@pytest.mark.parametrize("inside", [".", "musicnn-msd"])
def test_a_users_own_model_is_not_overwritten(
    wheel: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: str
) -> None:
    pip = Pip(wheel).install(monkeypatch)
    own = tmp_path / inside / "musicnn-msd.safetensors"
    before = put_own(own)
    with pytest.raises(BadRequestError, match=r"safetensors: is already a model of that name.*rename or move it"):
        pull("musicnn-msd", tmp_path)
    own.with_suffix(".json").write_text("damaged")
    with pytest.raises(BadRequestError, match=r"is already a model of that name"):
        pull("musicnn-msd", tmp_path)
    assert (own.read_bytes(), pip.calls) == (before, 0)


def test_a_pulled_model_may_be_pulled_again_and_loses_other_thresholds(
    wheel: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Pip(wheel).install(monkeypatch)
    card = pull("musicnn-msd", tmp_path).with_suffix(".json")
    whole = card.read_bytes()
    tags = tuple(dataclasses.replace(tag, threshold=0.9) for tag in Card.load(card).tags)
    dataclasses.replace(Card.load(card), tags=tags).save(card)
    pull("musicnn-msd", tmp_path)
    assert card.read_bytes() == whole


def test_without_disk_space_nothing_is_fetched(wheel: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip = Pip(wheel).install(monkeypatch)
    free = shutil.disk_usage(tmp_path)._replace(free=1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with pytest.raises(ModelError, match=r"musicnn-msd: no space left in .*0 MB are free; free some space"):
        pull("musicnn-msd", tmp_path)
    assert pip.calls == 0


def test_a_failure_keeps_the_previous_model(wheel: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Pip(wheel).install(monkeypatch)
    pull("musicnn-msd", tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    broken = musicnn_arrays(50) | {"dense/bias": np.zeros(6, np.float32)}
    monkeypatch.setattr(convert, "FORMATS", {"musicnn": (lambda *_: broken, convert.FORMATS["musicnn"][1])})
    with pytest.raises(ModelError, match="does not fit backbone musicnn"):
        pull("musicnn-msd", tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_crash_during_installation_leaves_nothing_that_counts_as_a_model(
    wheel: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Pip(wheel).install(monkeypatch)
    replace, placed = Path.replace, list[Path]()

    def crash(self: Path, target: Path) -> Path:
        if Path(target).parent == tmp_path:
            if placed:
                raise KeyboardInterrupt
            placed.append(Path(target))
        return replace(self, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", crash)
        pull("musicnn-msd", tmp_path)
    assert len(placed) == 1
    assert find_model("musicnn-msd", [tmp_path]) is None
    assert load_model(find_or_pull("musicnn-msd", [tmp_path])).card.name == "musicnn-msd"


def test_an_interruption_ends_pip_and_leaves_nothing(
    wheel: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Pip(wheel, "Progress 1 of 2").install(monkeypatch)

    class Interrupt(Recorder):
        def advance(self, done: int, **metrics: float) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull("musicnn-msd", tmp_path / "models", progress=Interrupt())
    assert list((tmp_path / "models").iterdir()) == []


def test_a_folder_that_cannot_be_created_is_an_error(
    wheel: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip = Pip(wheel).install(monkeypatch)
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match=r"file/models: cannot be written"):
        pull("musicnn-msd", tmp_path / "file" / "models")
    assert pip.calls == 0


def test_a_wheel_without_the_model_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "musicnn.whl"
    path.write_bytes(wheel_bytes({}))
    for wheel in (path, Path(__file__)):
        with pytest.raises(ModelError, match="cannot be read as weights of format musicnn"):
            convert.convert(wheel, "musicnn", "musicnn/MSD_musicnn")


# --- import ------------------------------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(tmp_path: Path, wheel: bytes) -> Path:
    """A file outside the catalogue that the fixture `wheel` makes readable as format musicnn."""
    path = tmp_path / "MSD_mine" / "weights"
    path.parent.mkdir()
    path.write_bytes(b"a checkpoint")
    return path


@pytest.fixture
def readable(monkeypatch: pytest.MonkeyPatch, wheel: bytes) -> None:
    """Every file is read as the tiny checkpoint."""
    reader = (lambda *_: musicnn_arrays(50), convert.FORMATS["musicnn"][1])
    monkeypatch.setattr(convert, "FORMATS", {"musicnn": reader})


@pytest.mark.usefixtures("readable")
def test_an_unknown_file_gets_the_vocabulary_its_path_names(checkpoint: Path, tmp_path: Path) -> None:
    progress = Recorder()
    weights = import_file(checkpoint, "musicnn", "mine", tmp_path / "models", progress=progress)
    card = load_model(weights).card
    assert (card.name, card.backbone, card.outputs[0]) == ("mine", "musicnn", "rock")
    assert card.licence.startswith("not stated")
    assert card.front_end == catalogue.entry("musicnn-msd").front_end
    assert progress.lines == ["not in the catalogue: backbone musicnn, 50 outputs", f"mine is ready: {weights}"]


@pytest.mark.usefixtures("readable")
def test_a_given_vocabulary_is_used(checkpoint: Path, tmp_path: Path) -> None:
    weights = import_file(checkpoint, "musicnn", "mine", tmp_path, vocabulary="mtat")
    assert load_model(weights).card.outputs[0] == "guitar"


@pytest.mark.usefixtures("readable")
def test_a_file_of_the_catalogue_gets_its_card(tmp_path: Path, wheel: bytes) -> None:
    (tmp_path / "any.name").write_bytes(wheel)
    weights = import_file(tmp_path / "any.name", "musicnn", "mine", tmp_path)
    assert load_model(weights).card.attribution == catalogue.entry("musicnn-msd").attribution


@pytest.mark.usefixtures("readable")
@pytest.mark.parametrize(
    ("changes", "kind", "reason"),
    [
        ({"name": "a/b"}, BadRequestError, "is not a valid model name"),
        ({"name": ".hidden"}, BadRequestError, "is not a valid model name"),
        ({"name": ""}, BadRequestError, "is not a valid model name"),
        ({"name": "x.safetensors"}, BadRequestError, "is not a valid model name"),
        ({"name": "x" * 201}, BadRequestError, "is not a valid model name"),
        ({"name": "\x1b[31m"}, BadRequestError, "is not a valid model name"),
        ({"name": "musicnn-msd"}, BadRequestError, "is a published model, and .* is another file; give another --name"),
        ({"name": "there"}, BadRequestError, "there is already a model 'there'.*--name"),
        ({"name": "fcn", "taken": {"fcn"}}, BadRequestError, "there is already a model 'fcn'.*--name"),
        ({"file": Path("nothing")}, BadRequestError, "does not exist"),
        ({"vocabulary": "jamendo"}, BadRequestError, "no vocabulary 'jamendo'"),
    ],
)
def test_invalid_imports_are_refused(
    checkpoint: Path, tmp_path: Path, changes: dict[str, Any], kind: type[Exception], reason: str
) -> None:
    (tmp_path / "there.safetensors").touch()
    before = sorted(tmp_path.iterdir())
    values: dict[str, Any] = {"file": checkpoint, "form": "musicnn", "name": "mine", "folder": tmp_path} | changes
    with pytest.raises(kind, match=reason):
        import_file(**values)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.usefixtures("readable")
def test_the_name_of_a_published_model_is_reserved_for_it(
    tmp_path: Path, wheel: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "any.name").write_bytes(wheel)
    one = catalogue.entry("musicnn-msd")
    other = dataclasses.replace(one, name="vgg-msd", source=WebFile("", "0" * 64, 1))
    monkeypatch.setattr(catalogue, "entries", lambda: {"musicnn-msd": one, "vgg-msd": other})
    with pytest.raises(BadRequestError, match=r"vgg-msd is a published model, and .*any\.name is musicnn-msd"):
        import_file(tmp_path / "any.name", "musicnn", "vgg-msd", tmp_path)
    assert import_file(tmp_path / "any.name", "musicnn", "musicnn-msd", tmp_path).exists()


@pytest.mark.usefixtures("readable")
@pytest.mark.parametrize(("vocabulary", "reason"), [("nonsense", "no vocabulary 'nonsense'"), ("mtat", "not those of")])
def test_a_wrong_vocabulary_is_refused_for_a_known_file_too(
    tmp_path: Path, wheel: bytes, vocabulary: str, reason: str
) -> None:
    (tmp_path / "any.name").write_bytes(wheel)
    with pytest.raises(BadRequestError, match=reason):
        import_file(tmp_path / "any.name", "musicnn", "mine", tmp_path, vocabulary=vocabulary)
    assert import_file(tmp_path / "any.name", "musicnn", "mine", tmp_path, vocabulary="msd").exists()


@pytest.mark.usefixtures("readable")
def test_one_of_two_simultaneous_imports_of_one_name_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "MSD_other").mkdir()
    (tmp_path / "MSD_other" / "weights").touch()
    progress = Recorder()
    refused: list[str] = []

    def bring(file: Path) -> None:
        try:
            import_file(file, "musicnn", "mine", tmp_path / "models", progress=progress)
        except BadRequestError as error:
            refused.append(str(error))

    threads = [Thread(target=bring, args=(file,)) for file in (checkpoint, tmp_path / "MSD_other" / "weights")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum("is ready" in text for text in progress.lines) == 1
    assert sum("there is already a model 'mine'" in text for text in refused) == 1
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == ["mine.json", "mine.safetensors"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"dense/kernel": np.zeros((47, 5))},
            "does not fit backbone musicnn: dense.hidden.weight is 5 x 47 instead of",
        ),
        (
            {"dense/bias": np.full(5, np.nan)},
            "does not fit backbone musicnn: dense.hidden.bias holds values that are not finite",
        ),
        ({"dense_1/kernel": np.zeros((5, 50), np.float32)}, "gives noise and a tone the same scores"),
        ({"dense_1/kernel": np.zeros((0, 50), np.float32)}, "does not fit"),
    ],
)
def test_unusable_weights_are_refused_in_one_short_line_that_names_the_file(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], reason: str
) -> None:
    reader = (lambda *_: musicnn_arrays(50) | changes, convert.FORMATS["musicnn"][1])
    monkeypatch.setattr(convert, "FORMATS", {"musicnn": reader})
    with pytest.raises(ModelError, match=reason) as caught:
        import_file(checkpoint, "musicnn", "mine", tmp_path / "models")
    message = str(caught.value).removeprefix(f"{checkpoint}: ")
    assert "/" not in message and "\n" not in message and len(message) < 150
    assert list((tmp_path / "models").iterdir()) == []


def test_a_full_disk_names_the_folder(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert, "FORMATS", {"musicnn": (lambda *_: musicnn_arrays(50), convert.FORMATS["musicnn"][1])})

    def full(self: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    with monkeypatch.context() as patch, pytest.raises(ModelError) as caught:
        patch.setattr(Path, "write_bytes", full)
        import_file(checkpoint, "musicnn", "mine", tmp_path / "models")
    assert str(caught.value) == f"{tmp_path / 'models'}: cannot be written: the disk is full; free some space"


@pytest.mark.usefixtures("readable")
def test_a_path_that_names_no_data_set_needs_a_vocabulary(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "weights"
    path.parent.mkdir(parents=True)
    path.touch()
    with pytest.raises(BadRequestError, match="--vocabulary msd or mtat"):
        import_file(path, "musicnn", "mine", tmp_path)


def test_weights_that_give_no_scores_are_refused(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = musicnn_arrays(50) | {"dense/kernel": np.full((48, 5), 3e38, np.float32)}
    monkeypatch.setattr(convert, "FORMATS", {"musicnn": (lambda *_: broken, convert.FORMATS["musicnn"][1])})
    with pytest.raises(ModelError, match="MSD_mine/weights: gives no scores"):
        import_file(checkpoint, "musicnn", "mine", tmp_path / "models")
    assert list((tmp_path / "models").iterdir()) == []


def test_another_number_of_outputs_is_an_error(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = (lambda *_: musicnn_arrays(7), convert.FORMATS["musicnn"][1])
    monkeypatch.setattr(convert, "FORMATS", {"musicnn": reader})
    with pytest.raises(ModelError, match="has 7 outputs, but vocabulary msd has 50"):
        import_file(checkpoint, "musicnn", "mine", tmp_path / "models")
