"""Recipes: training runs as TOML files, among them those of the papers, with the source of each value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from musictagger.errors import BadRequestError, hint, printable, require_known
from musictagger.paths import read_toml
from musictagger.training.options import TrainOptions, options_from
from musictagger.values import convert, field_types, load

FOLDER = Path(__file__).with_name("recipes")
_KEYS = ("extends", "title", "source", "data", "notes", "options", "given", "ours", "paper")


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
    """Section, table or figure of the paper, by option; `config.x` for x in the mapping config."""
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
    values = _still_valid(recipe.options if recipe else {}, overrides)
    # The model whose weights `freeze` keeps may be named on the command line.
    later = {"freeze": values.pop("freeze")} if "freeze" in values else {}
    try:
        base = options_from(values)
    except BadRequestError as error:
        raise BadRequestError(f"recipe {recipe.name if recipe else ''}: {error}") from error
    return options_from(later | dict(overrides), base)


def _still_valid(options: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The options without those of a backbone or dataset that `overrides` replaces by another one."""
    left = dict(options)
    for name, dependent in (("backbone", ("config", "front_end")), ("dataset", ("dataset_options", "allow_leak"))):
        if overrides.get(name, options.get(name)) != options.get(name):
            for each in dependent:
                left.pop(each, None)
    return left


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
    """Read a recipe, including the values from the one that it extends.

    Raises BadRequestError for a file that is not TOML, or has unknown keys or invalid values.
    """
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
    base = convert(content.pop("extends", None), str | None, f"{printable(path)}: extends")
    recipe: Recipe = load({"name": path.stem, "title": path.stem, **content, **sources}, Recipe, printable(path))
    if base is None:
        return recipe
    require_known("recipe", base, _names())
    return _extended(_load(FOLDER / f"{base}.toml"), recipe)


def _extended(base: Recipe, recipe: Recipe) -> Recipe:
    """`recipe` with all that it leaves out as in `base`, except for the title and the metrics of the paper."""
    options = _still_valid(base.options, recipe.options)
    for name, value in recipe.options.items():
        both = isinstance(value, Mapping) and isinstance(options.get(name), Mapping)
        options[name] = {**options[name], **value} if both else value
    inherited = flattened(options).keys() - {*flattened(recipe.options), *recipe.given, *recipe.ours}
    return replace(
        recipe,
        source=recipe.source or base.source,
        data=recipe.data or base.data,
        notes=recipe.notes or base.notes,
        options=options,
        given={name: text for name, text in base.given.items() if name in inherited} | dict(recipe.given),
        ours={name: text for name, text in base.ours.items() if name in inherited} | dict(recipe.ours),
    )


def option_lines(recipe: Recipe) -> Iterator[tuple[str, Any, str]]:
    """Each option of a run by this recipe: its name, its value, and the source of the value."""
    set_here = flattened(recipe.options)
    for name, value in sorted(flattened(options_of(recipe, {}).to_json()).items()):
        if name not in set_here:
            yield name, value, "default"
        else:
            given = recipe.given.get(name)
            yield name, value, f"paper: {given}" if given else f"ours: {recipe.ours.get(name, 'no reason is given')}"
