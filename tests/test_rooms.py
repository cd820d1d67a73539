"""The order of the rooms: a module imports from its own room and from rooms below it, and no modules form a circle."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "musictagger"

ROOMS = (
    *("__main__", "cli", "training", "evaluation", "datasets", "__init__", "api", "pipeline", "library", "scores"),
    *("models", "tags", "config", "records", "audio", "progress", "version", "sqlite", "paths", "values", "errors"),
)
"""From the highest room to the lowest."""


def module_name(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file): file for file in sorted(PACKAGE.rglob("*.py"))}


def imported_modules(file: Path) -> set[str]:
    """Modules of the package that a file imports anywhere, also inside functions and for type checking."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in MODULES else node.module)
    return found & MODULES.keys()


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


IMPORTS = {module: imported_modules(file) for module, file in MODULES.items()}


def test_every_module_stands_in_a_room_of_the_list() -> None:
    assert {room_of(module) for module in MODULES} == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_imports_go_down_the_list(room: str) -> None:
    upstream = [
        f"{module} imports {target}"
        for module, targets in IMPORTS.items()
        for target in sorted(targets)
        if room_of(module) == room and ROOMS.index(room_of(target)) < ROOMS.index(room)
    ]
    assert not upstream


def test_no_modules_import_each_other_in_a_circle() -> None:
    try:
        TopologicalSorter(IMPORTS).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_no_room_holds_more_than_a_fifth_of_the_lines() -> None:
    lines = {module: len(file.read_text(encoding="utf-8").splitlines()) for module, file in MODULES.items()}
    total = sum(lines.values())
    for room in ROOMS:
        held = sum(count for module, count in lines.items() if room_of(module) == room)
        assert held <= total / 5, f"{room} holds {held} of {total} lines"
