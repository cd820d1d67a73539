"""Every command, option and setting is documented, in --help and in docs/commands.md, and links have targets."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from test_rooms import ROOMS

from musictagger.cli import cli, documents
from musictagger.config import Settings, load_settings
from musictagger.library import query
from musictagger.tags import plan
from musictagger.training.options import TrainOptions
from musictagger.training.recipes import Recipe, option_lines

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGE = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")


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
def test_every_command_has_help_and_is_documented(name: str) -> None:
    assert (COMMANDS[name].help or "").strip()
    assert f"musictagger {name}" in PAGE


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_fits_into_80_columns(name: str) -> None:
    """No line is longer than a usual terminal, no summary of a command is cut, and no option shows its range."""
    command = COMMANDS.get(name, cli)
    context = click.Context(
        command, info_name=f"musictagger {name}", terminal_width=78
    )  # click leaves two columns free
    text = command.get_help(context)
    assert [line for line in text.splitlines() if len(line) > 80] == []
    assert [line for line in text.partition("\nCommands:\n")[2].splitlines() if line.endswith("...")] == []
    assert not re.search(r"x[<>]|[<>]=?x", text)


@pytest.mark.parametrize(("option", "name"), OPTIONS)
def test_every_option_has_help_and_is_documented(option: str, name: str) -> None:
    parameter = next(parameter for parameter in COMMANDS[name].params if option in parameter.opts)
    assert isinstance(parameter, click.Option)
    assert (parameter.help or "").strip()
    rows = [line for line in PAGE.splitlines() if line.startswith("| `--") and names_option(line, option)]
    assert any(names_command(row.split(" | ")[1], name) for row in rows) or documented_with_its_command(option, name)


def names_option(line: str, option: str) -> bool:
    return re.search(rf"`[^`]*{option}(?![\w-])", line) is not None


def names_command(cell: str, name: str) -> bool:
    """Return whether the column of commands names this one. A cell that says "all ..." or "the same" names a group."""
    return name in re.split(r"[,; ]+", cell) or re.search(r"\ball\b|the same|others", cell) is not None


def documented_with_its_command(option: str, name: str) -> bool:
    """Return whether the option is in the row of its own command."""
    return any(line.startswith(f"| `musictagger {name}") and names_option(line, option) for line in PAGE.splitlines())


def test_every_setting_has_an_option_and_is_documented() -> None:
    options = {option.removeprefix("--").replace("-", "_") for option, _ in OPTIONS}
    assert set(Settings.__dataclass_fields__) - options == {"data_dir", "genres_file"}
    settings = PAGE.split("## Settings")[1]
    assert [name for name in Settings.__dataclass_fields__ if f"`{name}`" not in settings] == []


@pytest.mark.parametrize("name", TrainOptions.__dataclass_fields__)
def test_every_training_option_is_explained_and_listed(name: str) -> None:
    rows = [
        line for line in (ROOT / "docs" / "training.md").read_text(encoding="utf-8").splitlines() if line[:1] == "|"
    ]
    assert any(re.search(rf"`{name}`", row.split("|")[1]) for row in rows)
    assert name in {option for option, _, _ in option_lines(Recipe("none", "No recipe"))}


def test_the_configuration_shown_loads(tmp_path: Path) -> None:
    blocks = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert blocks
    for number, block in enumerate(blocks):
        tomllib.loads(block)
        path = tmp_path / f"{number}.toml"
        path.write_text(block)
        load_settings({}, {"MUSICTAGGER_CONFIG": str(path)})


def test_every_field_of_a_query_is_documented() -> None:
    queries = PAGE.split("## Queries")[1].split("\n## ")[0]
    for field in query.FIELDS:
        assert f"{field}:" in queries


def prose(document: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_links_in_documents_have_targets() -> None:
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "weights" / "README.md"]
    for document in documents:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", prose(document)):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_readme_is_complete() -> None:
    assert not re.search(r"@[A-Z]+@", README), "a number is missing"
    used = set(re.findall(r"^\$ musictagger (\w+)", README, re.MULTILINE))
    assert used and used <= set(COMMANDS)


def test_decision_records_are_numbered_without_a_gap() -> None:
    records = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert [int(record.name[:4]) for record in records] == list(range(1, len(records) + 1))
    for record in records:
        assert record.read_text(encoding="utf-8").startswith(f"# {record.name[:4]} ")


def test_every_json_schema_is_documented() -> None:
    schemas = {value for value in vars(documents).values() if re.fullmatch(r"musictagger\.\w+/\d+", str(value))}
    page = (ROOT / "docs" / "json.md").read_text(encoding="utf-8")
    assert schemas and {*re.findall(r"`(musictagger\.[\w.]+/\d+)`", page)} == schemas | {plan.SCHEMA}


def test_the_order_of_the_rooms_is_recorded() -> None:
    record = (ROOT / "docs" / "decisions" / "0010-order-of-the-rooms.md").read_text(encoding="utf-8")
    listed = record.split("```")[1].split()
    assert listed == [room for room in ROOMS if not room.startswith("__")]
