"""Recipes: training runs as TOML files, among them those of the papers, with the source of each value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from musictagger.datasets.reading import require_known
from musictagger.errors import BadRequestError, hint, printable
from musictagger.paths import read_toml
from musictagger.training.options import TrainOptions, options_from
from musictagger.values import convert, field_types, load

FOLDER = Path(__file__).with_name("recipes")
_KEYS = ("title", "source", "data", "notes", "options", "given", "ours", "paper")


@dataclass(frozen=True)
class Recipe:
    """A training run to be repeated: the options that differ from the defaults, and the metrics of its paper."""

    name: str
    title: str
    source: str = ""
    data: str = ""
    """The tracks, and their number in each split."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Values of TrainOptions by name."""
    given: Mapping[str, str] = field(default_factory=dict)
    """Place in the paper, by option; `config.x` for x in the mapping config."""
    ours: Mapping[str, str] = field(default_factory=dict)
    """The reason for our choice, by option, where the paper gives no value."""
    paper: Mapping[str, float] = field(default_factory=dict)
    """Metrics of the paper, by our names."""
    paper_where: str = ""
    notes: tuple[str, ...] = ()


def recipes() -> list[Recipe]:
    """Return the bundled recipes, sorted by name."""
    return [_load(FOLDER / f"{name}.toml") for name in _names()]


def find_recipe(name_or_path: str) -> Recipe:
    """Return a bundled recipe by name, or the recipe in a TOML file.

    Raises BadRequestError for an unknown name, with a suggestion, and for an invalid file.
    """
    if name_or_path.endswith(".toml") or "/" in name_or_path:
        return _load(Path(name_or_path).expanduser())
    require_known("recipe", name_or_path, _names())
    return _load(FOLDER / f"{name_or_path}.toml")


def _names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def options_of(recipe: Recipe | None, overrides: Mapping[str, Any]) -> TrainOptions:
    """Return the defaults, updated with a recipe, updated with `overrides`.

    If `overrides` names another backbone, the recipe's configuration and front end are ignored; if it names another
    dataset, so are the recipe's dataset options and `allow_leak`. Raises BadRequestError for an unknown option, with a
    suggestion, and for an invalid value.
    """
    values = dict(recipe.options) if recipe else {}
    for name, parts in (("backbone", ("config", "front_end")), ("dataset", ("dataset_options", "allow_leak"))):
        if overrides.get(name, values.get(name)) != values.get(name):
            for part in parts:
                values.pop(part, None)
    # The model whose weights `freeze` keeps may be named on the command line.
    later = {"freeze": values.pop("freeze")} if "freeze" in values else {}
    try:
        base = options_from(values)
    except BadRequestError as error:
        raise BadRequestError(f"recipe {recipe.name if recipe else ''}: {error}") from error
    return options_from(later | dict(overrides), base)


def flattened(options: Mapping[str, Any]) -> dict[str, Any]:
    """{"config": {"x": 1}} -> {"config.x": 1}, one level deep. Other values and empty mappings are left unchanged."""
    flat: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, Mapping) and value:
            flat |= {f"{name}.{inner}": each for inner, each in value.items()}
        else:
            flat[name] = value
    return flat


def _load(path: Path) -> Recipe:
    """Read a recipe. Raises BadRequestError for a file that is not TOML, or has unknown keys or invalid values."""
    try:
        content = read_toml(path)
    except FileNotFoundError:
        raise BadRequestError(f"{printable(path)}: there is no such recipe") from None
    for key in content:
        if key not in _KEYS:
            known = hint(key, _KEYS) or f"; known keys: {', '.join(_KEYS)}"
            options = " (options go below [options])" if key in field_types(TrainOptions) else ""
            raise BadRequestError(f"{printable(path)}: recipes have no {key!r}{options or known}")
    given, ours, paper = (
        convert(content.get(key, {}), Mapping[str, Any], f"{printable(path)}: {key}")
        for key in ("given", "ours", "paper")
    )
    where = paper.pop("where", "")
    sources = {"given": flattened(given), "ours": flattened(ours), "paper": paper, "paper_where": where}
    recipe: Recipe = load({"name": path.stem, "title": path.stem, **content, **sources}, Recipe, printable(path))
    return recipe


def option_lines(recipe: Recipe) -> Iterator[tuple[str, Any, str]]:
    """Each option of a run by this recipe: its name, its value, and the source of the value."""
    set_here = flattened(recipe.options)
    for name, value in sorted(flattened(options_of(recipe, {}).to_json()).items()):
        if name not in set_here:
            yield name, value, "default"
        else:
            given = recipe.given.get(name)
            yield name, value, f"paper: {given}" if given else f"ours: {recipe.ours.get(name, 'no reason is given')}"
