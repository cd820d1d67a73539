"""Documentation that cannot lie: every command and option is explained in --help and in the README."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from musictagger.cli import cli
from musictagger.config import Settings, load_settings
from musictagger.library import query
from musictagger.training.options import TrainOptions
from musictagger.training.recipes import Recipe, option_lines

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands(group: click.Group, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield f"{prefix}{name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix}{name} ")


COMMANDS = dict(commands(cli))
OPTIONS = sorted(
    {
        (option, name)
        for name, command in COMMANDS.items()
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for option in parameter.opts
        if option.startswith("--")
    }
)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_is_in_the_readme(name: str) -> None:
    assert (COMMANDS[name].help or "").strip()
    assert f"musictagger {name}" in README


@pytest.mark.parametrize(("option", "name"), OPTIONS)
def test_every_option_has_help_and_is_in_the_readme(option: str, name: str) -> None:
    parameter = next(parameter for parameter in COMMANDS[name].params if option in parameter.opts)
    assert isinstance(parameter, click.Option)
    assert (parameter.help or "").strip()
    assert re.search(rf"`[^`]*{option}\b", README), f"{option} of {name}"


def test_every_setting_has_an_option() -> None:
    options = {option.removeprefix("--").replace("-", "_") for option, _ in OPTIONS}
    assert set(Settings.__dataclass_fields__) - options == {"data_dir", "genres_file"}
    assert "`data_dir`" in README and "`genres_file`" in README
    assert not re.search(r"@[A-Z]+@", README), "a figure is missing"


@pytest.mark.parametrize("name", TrainOptions.__dataclass_fields__)
def test_every_training_option_is_explained_and_listed(name: str) -> None:
    rows = [
        line for line in (ROOT / "docs" / "training.md").read_text(encoding="utf-8").splitlines() if line[:1] == "|"
    ]
    assert any(re.search(rf"`{name}`", row.split("|")[1]) for row in rows)
    assert name in {option for option, _, _ in option_lines(Recipe("none", "No recipe"))}


def test_the_readme_shows_a_configuration_that_loads(tmp_path: Path) -> None:
    blocks = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    assert blocks
    for number, block in enumerate(blocks):
        tomllib.loads(block)
        path = tmp_path / f"{number}.toml"
        path.write_text(block)
        load_settings({}, {"MUSICTAGGER_CONFIG": str(path)})


def test_the_readme_names_every_field_of_a_query() -> None:
    for field in query.FIELDS:
        assert f"{field}:" in README


def prose(document: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_links_in_documents_lead_somewhere() -> None:
    for document in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), ROOT / "weights" / "README.md"]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", prose(document)):
            assert (document.parent / target).exists(), f"{document.name}: {target}"
