"""Finding backbones: bundled, in the user's folder, installed; a broken one does not affect the others."""

from __future__ import annotations

import sys
import types
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch

from musictagger.errors import ModelError
from musictagger.models import registry
from musictagger.models.backbone import Backbone, Output
from musictagger.models.registry import Plugin, build, find_backbones, find_plugins

BUNDLED = {"crnn", "crnn_tf", "fcn", "mfcc", "musicnn"}

MINE = '''
"""A user's own file."""
import torch
from torch import nn
from musictagger.models.backbone import Backbone, Output


class Mine(Backbone):
    """The mean of each band, and a dense layer.

    More words.
    """

    name = "{name}"

    def __init__(self, n_tags: int, *, n_mels: int = 96) -> None:
        super().__init__()
        self.dense = nn.Linear(n_mels, n_tags)

    def forward(self, features: torch.Tensor) -> Output:
        embedding = features.mean(dim=2)
        return Output(self.dense(embedding), embedding)
'''


def write(folder: Path, file: str = "mine.py", text: str = MINE, **values: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / file
    path.write_text(text.replace("{name}", values.get("name", "mine")))
    return path


def found(folder: Path, file: str) -> Plugin:
    return next(plugin for plugin in find_plugins([folder]) if plugin.origin == str(folder / file))


def test_the_bundled_backbones_are_found_and_usable() -> None:
    plugins = find_plugins()
    assert {plugin.name for plugin in plugins} >= BUNDLED
    assert [plugin.name for plugin in plugins] == sorted(plugin.name for plugin in plugins)
    for plugin in plugins:
        assert plugin.backbone is not None, plugin.error
        assert plugin.summary
        assert "Source: " in (plugin.backbone.__doc__ or "")


def test_a_users_own_file_is_found_and_usable(tmp_path: Path) -> None:
    path = write(tmp_path)
    plugin = found(tmp_path, "mine.py")
    assert (plugin.name, plugin.origin, plugin.error) == ("mine", str(path), "")
    assert plugin.summary == "The mean of each band, and a dense layer."
    assert set(find_backbones([tmp_path])) == BUNDLED | {"mine"}
    backbone = build("mine", 5, {"n_mels": 8}, [tmp_path])
    assert backbone(torch.zeros(2, 8, 30)).logits.shape == (2, 5)


def test_a_folder_that_does_not_exist_counts_as_empty(tmp_path: Path) -> None:
    assert set(find_backbones([tmp_path / "gone"])) == BUNDLED


def test_a_file_is_imported_once(tmp_path: Path) -> None:
    write(tmp_path, text=MINE + f"\nwith open({str(tmp_path / 'count')!r}, 'a') as file:\n    file.write('x')\n")
    classes = {id(find_backbones([tmp_path])["mine"]) for _ in range(3)}
    assert len(classes) == 1
    assert (tmp_path / "count").read_text() == "x"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("def broken(:", "SyntaxError"),
        ("import no_such_module_anywhere", "ModuleNotFoundError: No module named 'no_such_module_anywhere'"),
        ("raise ValueError('out of luck')", "ValueError: out of luck"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("", "defines no subclass of musictagger.models.backbone.Backbone"),
        ("from musictagger.models.backbone import Backbone", "defines no subclass"),
        ("from musictagger.models.backbone import Backbone\nclass A(Backbone): ...", "class A has no `name`"),
        ("from musictagger.models.backbone import Backbone\nclass A(Backbone):\n  name = 3", "class A has no `name`"),
        ("x = '\0'", "null bytes"),
    ],
)
def test_a_broken_file_is_listed_with_its_reason_and_stops_nothing(text: str, reason: str, tmp_path: Path) -> None:
    write(tmp_path, "a_broken.py", text)
    write(tmp_path)
    plugin = found(tmp_path, "a_broken.py")
    assert plugin.backbone is None
    assert plugin.name == "a_broken"
    assert reason in plugin.error
    assert plugin.summary == plugin.error
    assert set(find_backbones([tmp_path])) == BUNDLED | {"mine"}


def test_hidden_and_other_files_are_not_plugins(tmp_path: Path) -> None:
    for name in ("_private.py", "__init__.py", "notes.txt", ".hidden.py", "._mine.py"):
        write(tmp_path, name, "raise RuntimeError")
    assert all(plugin.backbone is not None for plugin in find_plugins([tmp_path]))


def test_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a", name="fcn")
    write(tmp_path / "b", name="mine")
    write(tmp_path / "c", name="mine")
    folders = [tmp_path / "a", tmp_path / "b", tmp_path / "c"]
    refused = [plugin for plugin in find_plugins(folders) if plugin.backbone is None]
    assert [(plugin.name, plugin.origin) for plugin in refused] == [
        ("fcn", str(tmp_path / "a" / "mine.py")),
        ("mine", str(tmp_path / "c" / "mine.py")),
    ]
    assert refused[1].error == f"the name 'mine' is taken by {tmp_path / 'b' / 'mine.py'}"
    assert find_backbones(folders)["fcn"] is find_backbones()["fcn"]


def test_one_folder_given_twice_is_one_folder(tmp_path: Path) -> None:
    write(tmp_path)
    assert all(plugin.backbone is not None for plugin in find_plugins([tmp_path, tmp_path / ".." / tmp_path.name]))


def test_two_backbones_in_one_file_are_two(tmp_path: Path) -> None:
    second = MINE.replace("class Mine", "class Second").replace("{name}", "second")
    write(tmp_path, text=MINE.replace("{name}", "first") + second.replace('"""A user\'s own file."""', ""))
    assert set(find_backbones([tmp_path])) == BUNDLED | {"first", "second"}


class Installed(Backbone):
    """A backbone from an installed package."""

    name = "installed"

    def forward(self, features: torch.Tensor) -> Output:
        return Output(features, features)


def test_installed_packages_offer_backbones(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("installed_plugins")
    Installed.__module__ = module.__name__
    values: dict[str, Any] = {"Installed": Installed, "nothing": 3}
    module.__dict__.update(values)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    targets = {
        "a-class": "installed_plugins:Installed",
        "b-module": "installed_plugins",
        "c-number": "installed_plugins:nothing",
        "d-gone": "no_such_module_anywhere:X",
    }

    def entry_points(group: str) -> list[EntryPoint]:
        assert group == "musictagger.backbones"
        return [EntryPoint(name, value, group) for name, value in targets.items()]

    monkeypatch.setattr(registry, "entry_points", entry_points)
    plugins = {plugin.origin: plugin for plugin in find_plugins()}
    assert plugins["entry point installed_plugins:Installed"].backbone is Installed
    assert plugins["entry point installed_plugins"].error.startswith("the name 'installed' is taken by entry point")
    assert "is not a subclass" in plugins["entry point installed_plugins:nothing"].error
    assert "ModuleNotFoundError" in plugins["entry point no_such_module_anywhere:X"].error
    assert set(find_backbones()) == BUNDLED | {"installed"}


def test_an_unknown_backbone_is_an_error_that_lists_those_found() -> None:
    with pytest.raises(ModelError, match=r"no backbone 'gru' \(found: crnn, crnn_tf, fcn, mfcc, musicnn\)"):
        build("gru", 3, {})


def test_an_unknown_setting_is_an_error_that_names_it() -> None:
    with pytest.raises(ModelError, match=r"backbone crnn does not take this configuration: .*colour"):
        build("crnn", 3, {"colour": "blue"})


@pytest.mark.parametrize(
    "crash", ["raise ValueError('no such thing')", "raise SystemExit(0)", "__import__('sys').exit(3)"]
)
def test_a_backbone_that_cannot_be_built_is_named(crash: str, tmp_path: Path) -> None:
    write(tmp_path, text=MINE.replace("super().__init__()", crash), name="crashing")
    with pytest.raises(
        ModelError, match=r"backbone crashing \(.*mine.py\) failed to be built: (ValueError|SystemExit)"
    ):
        build("crashing", 3, {}, [tmp_path])


def test_output_of_a_plugin_does_not_reach_standard_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, text="print('import')\n" + MINE.replace("super().__init__()", "super().__init__(); print('init')"))
    build("mine", 3, {}, [tmp_path])
    assert capsys.readouterr() == ("", "import\ninit\n")


def test_a_plugin_that_takes_long_to_import_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(registry, "SLOW_IMPORT_S", 0.5)
    path = write(tmp_path, text="import time; time.sleep(2)\n" + MINE)
    find_plugins([tmp_path])
    assert [record.message for record in caplog.records] == [
        f"still importing plugin {path}; move it away if it never ends"
    ]
