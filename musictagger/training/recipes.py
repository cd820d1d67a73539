"""Recipes: training runs written down as TOML, those of the papers among them, each value with where it is from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_type_hints

from musictagger.audio.frontend import FrontEnd
from musictagger.datasets.reading import require_known
from musictagger.errors import BadRequestError, hint, printable
from musictagger.paths import read_toml
from musictagger.training.options import TrainOptions, options_from

FOLDER = Path(__file__).with_name("recipes")
_TEXTS = ("title", "source", "data")
_TABLES = ("options", "given", "ours", "paper")
_KEYS = (*_TEXTS, "notes", *_TABLES)


@dataclass(frozen=True)
class Recipe:
    """One run to be repeated: the options that differ from the defaults, and what its paper measured."""

    name: str
    title: str
    source: str = ""
    data: str = ""
    """Which tracks, and how many in each split."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Values of TrainOptions by name."""
    given: Mapping[str, str] = field(default_factory=dict)
    """Where the paper says so, by option; `config.x` for x in the mapping config."""
    ours: Mapping[str, str] = field(default_factory=dict)
    """Why we chose the value, by option, where the paper is silent."""
    paper: Mapping[str, float] = field(default_factory=dict)
    """What the paper measured, by the names of our own figures."""
    paper_where: str = ""
    notes: tuple[str, ...] = ()


def recipes() -> list[Recipe]:
    """Those that come with the program, sorted by name."""
    return [_load(FOLDER / f"{name}.toml") for name in _names()]


def find_recipe(name_or_path: str) -> Recipe:
    """A recipe by name, or from a TOML file of the user's own.

    Raises BadRequestError, with a suggestion, for a name nobody knows and for whatever is wrong with the file.
    """
    if name_or_path.endswith(".toml") or "/" in name_or_path:
        return _load(Path(name_or_path).expanduser())
    require_known("recipe", name_or_path, _names())
    return _load(FOLDER / f"{name_or_path}.toml")


def _names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def options_of(recipe: Recipe | None, overrides: Mapping[str, Any]) -> TrainOptions:
    """The defaults, a recipe on them, `overrides` on both.

    With another backbone than the recipe's its configuration and front end are left out, and with another dataset the
    options of its dataset and the leak it allows there. Raises BadRequestError for an unknown option, with a
    suggestion, or a wrong value.
    """
    values = dict(recipe.options) if recipe else {}
    for name, parts in (("backbone", ("config", "front_end")), ("dataset", ("dataset_options", "allow_leak"))):
        if overrides.get(name, values.get(name)) != values.get(name):
            for part in parts:
                values.pop(part, None)
    if recipe:
        _require_sound(recipe.name, values)
    merged = _laid_over(values, overrides)
    _require_single(merged)
    options = options_from(merged)
    _require_parts(options)
    return options


def _require_sound(name: str, values: Mapping[str, Any]) -> None:
    """What is wrong with a recipe should not look like something wrong with the command line."""
    try:
        # Which model a recipe's `freeze` keeps may be named on the command line.
        _require_single(values)
        _require_parts(options_from({key: value for key, value in values.items() if key != "freeze"}))
    except BadRequestError as error:
        raise BadRequestError(f"recipe {name}: {error}") from error


def _require_parts(options: TrainOptions) -> None:
    require_front_end(options.front_end)
    for group, value in options.l2.items():
        _require_number(f"l2.{group}", value)


def _require_single(values: Mapping[str, Any]) -> None:
    """Raise BadRequestError for a list or a table where an option is one value."""
    defaults = TrainOptions()
    for name, value in values.items():
        takes = getattr(defaults, name, None)
        if isinstance(value, (Mapping, list)) and hasattr(defaults, name) and not isinstance(takes, (Mapping, tuple)):
            raise BadRequestError(f"training option {name} takes one value, not {value!r}")


def _laid_over(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for name, value in overrides.items():
        below = merged.get(name, {})
        both = isinstance(value, Mapping) and isinstance(below, Mapping)
        merged[name] = {**below, **value} if both else value
    return merged


def flattened(options: Mapping[str, Any]) -> dict[str, Any]:
    """{"config": {"x": 1}} -> {"config.x": 1}, one level deep; the rest as it is, and so what holds nothing yet."""
    flat: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, Mapping) and value:
            flat |= {f"{name}.{inner}": each for inner, each in value.items()}
        else:
            flat[name] = value
    return flat


def require_front_end(values: Mapping[str, Any]) -> None:
    """Raise BadRequestError, with a suggestion, for a number that no front end has, or a value it cannot be."""
    hints = get_type_hints(FrontEnd)
    for name, value in values.items():
        require_known("setting of the front end", name, list(hints))
        if not _fits(value, hints[name]):
            choices = [choice for choice in get_args(hints[name]) if isinstance(choice, str)]
            kind = str(getattr(hints[name], "__name__", hints[name]))
            wanted = f"none of {', '.join(choices)}" if choices else f"no {kind}"
            raise BadRequestError(f"front_end.{name}: {value!r} is {wanted}")


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is one of those that an annotation describes."""
    if choices := get_args(kind):
        return any(_fits(value, choice) for choice in choices)
    if not isinstance(kind, type):
        return bool(value == kind)
    return type(value) is kind or (kind is float and type(value) is int)


def _load(path: Path) -> Recipe:
    """Raises BadRequestError for a file that cannot be read, is no TOML, or has keys that recipes do not have."""
    try:
        content = read_toml(path)
    except FileNotFoundError:
        raise BadRequestError(f"{printable(path)}: there is no such recipe") from None
    for key, value in content.items():
        if key not in _KEYS:
            known = hint(key, _KEYS) or f"; there are: {', '.join(_KEYS)}"
            options = " (options go below [options])" if key in TrainOptions.__dataclass_fields__ else ""
            raise BadRequestError(f"{printable(path)}: recipes have no {key!r}{options or known}")
        _require_shape(path, key, value)
    return _recipe(path, content)


def _require_shape(path: Path, key: str, value: Any) -> None:
    wanted, kind = ("a text", str) if key in _TEXTS else ("a list", list) if key == "notes" else ("a table", dict)
    if not isinstance(value, kind):
        raise BadRequestError(f"{printable(path)}: {key} must be {wanted}, not {value!r}")


def _recipe(path: Path, content: Mapping[str, Any]) -> Recipe:
    paper = dict(content.get("paper", {}))
    where = str(paper.pop("where", ""))
    return Recipe(
        name=path.stem,
        title=content.get("title", path.stem),
        source=content.get("source", ""),
        data=content.get("data", ""),
        options=content.get("options", {}),
        given=flattened(content.get("given", {})),
        ours=flattened(content.get("ours", {})),
        paper={name: _require_number(f"{printable(path)}: paper.{name}", value) for name, value in paper.items()},
        paper_where=where,
        notes=tuple(map(str, content.get("notes", ()))),
    )


def _require_number(what: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise BadRequestError(f"{what}: {value!r} is no number")
    return float(value)


def option_lines(recipe: Recipe) -> Iterator[tuple[str, Any, str]]:
    """Each option of a run by this recipe: its name, its value, and where it is from."""
    set_here = flattened(recipe.options)
    for name, value in sorted(flattened(options_of(recipe, {}).to_json()).items()):
        if name not in set_here:
            yield name, value, "default"
        else:
            given = recipe.given.get(name)
            yield name, value, f"paper: {given}" if given else f"ours: {recipe.ours.get(name, 'no reason is given')}"
