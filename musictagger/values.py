"""The loader of values from outside: JSON, TOML, environment variables and command lines become typed values.

An annotation states what is allowed: `Annotated[int, Meta(ge=1)] | None`. msgspec converts by it; this module adds the
messages, which name the value, the allowed values and the value found.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import reprlib
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, inspect

from musictagger.errors import BadRequestError, MusictaggerError, hint

MAX = sys.float_info.max
"""An upper limit of MAX refuses infinity. Any limit refuses NaN."""

Count = Annotated[int, Meta(ge=1)]
Finite = Annotated[float, Meta(ge=-MAX, le=MAX)]
Positive = Annotated[float, Meta(gt=0, le=MAX)]
Share = Annotated[float, Meta(ge=0, le=1)]

_WORDS = {"yes": "true", "no": "false", "none": "null"}
"""Words that people write, with their equivalents in JSON."""

_NAMES: Mapping[type[inspect.Type], tuple[str, str]] = {
    inspect.BoolType: ("true or false", "true or false"),
    inspect.IntType: ("a whole number", "whole numbers"),
    inspect.FloatType: ("a number", "numbers"),
    inspect.StrType: ("a string", "strings"),
    inspect.CustomType: ("a path", "paths"),
    inspect.DateTimeType: ("a date and time in ISO 8601", "dates"),
    inspect.TupleType: ("a list", "lists"),
    inspect.DictType: ("a mapping of names to values", "mappings"),
    inspect.DataclassType: ("a mapping of names to values", "mappings"),
    inspect.NoneType: ("none", "none"),
}
"""Singular and plural of what an annotation allows."""

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60


def convert(
    value: object, kind: Any, what: str, error: type[MusictaggerError] = BadRequestError, *, lenient: bool = False
) -> Any:
    """`value` as `kind`, which is an annotation; dataclasses are built from mappings.

    what: the name of the value in messages. lenient: the value may be a text from a command line or an environment
    variable, so that "3" is a number, "yes" is true and "none" is None; and 3.0 is a whole number.

    Raises `error` for a value that the annotation does not allow.
    """
    return _Loader(error, lenient).convert(value, kind, what)


def load(
    value: object, kind: type, what: str, error: type[MusictaggerError] = BadRequestError, *, extra: bool = False
) -> Any:
    """The dataclass `kind` from a mapping that has all its required fields and, without `extra`, no others.

    Raises `error` for anything else. `what` names the mapping in messages.
    """
    return _Loader(error, extra=extra).build(value, kind, what, f"{what}: ")


def check(instance: Any, error: type[MusictaggerError] = BadRequestError) -> None:
    """Raise `error` for a field of a dataclass whose value its annotation does not allow."""
    of_instance: Any = type(instance)
    for name, kind in field_types(of_instance).items():
        convert(getattr(instance, name), kind, name, error)


def check_arguments(
    function: Callable[..., object], arguments: Mapping[str, object], error: type[MusictaggerError] = BadRequestError
) -> None:
    """Raise `error` for an argument that its annotation in `function` does not allow; others are ignored."""
    for name, kind in get_type_hints(function, include_extras=True).items():
        if name in arguments:
            convert(arguments[name], kind, name, error)


@functools.cache
def field_types(kind: type) -> Mapping[str, Any]:
    """The types of a dataclass's fields by name, with their limits."""
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


@dataclasses.dataclass(frozen=True)
class _Loader:
    """The recursion of `convert` and `load`; msgspec converts what is not a dataclass, a mapping or a tuple."""

    error: type[MusictaggerError]
    lenient: bool = False
    extra: bool = False

    def convert(self, value: object, kind: Any, what: str) -> Any:
        """See the function of this name."""
        origin, inner = get_origin(kind), get_args(kind)
        if dataclasses.is_dataclass(kind):
            return self.build(value, kind, what, f"{what}.")
        if origin is Mapping and inner[1] is not Any and isinstance(value, Mapping):
            return {
                self.convert(name, inner[0], f"a name in {what}"): self.convert(each, inner[1], f"{what}.{name}")
                for name, each in value.items()
            }
        if origin is tuple and isinstance(value, list | tuple):
            kinds = inner[:1] * len(value) if inner[1:] == (...,) else inner
            if len(kinds) == len(value):
                return tuple(self.convert(each, kinds[index], f"{what}[{index}]") for index, each in enumerate(value))
        for attempt in _readings(value) if self.lenient else (value,):
            plain = os.fspath(attempt) if isinstance(attempt, Path) else attempt
            strict = not (self.lenient and isinstance(plain, str | float))
            # A text with half a surrogate pair raises a ValueError.
            with contextlib.suppress(msgspec.ValidationError, ValueError):
                return msgspec.convert(plain, kind, strict=strict, dec_hook=_to_path)
        raise self.error(f"{what} must be {_allowed(value, kind, lenient=self.lenient)}")

    def build(self, value: object, kind: Any, what: str, prefix: str) -> Any:
        """A dataclass; `prefix` is put before the names of its fields in messages."""
        if isinstance(value, kind):
            return value
        if not isinstance(value, Mapping):
            raise self.error(f"{what} must be {_allowed(value, kind)}")
        kinds, required = field_types(kind), [each.name for each in dataclasses.fields(kind) if _is_required(each)]
        missing = [name for name in required if name not in value]
        unknown = [] if self.extra else sorted(set(value) - set(kinds))
        if missing or unknown:
            wrong = [f"lacks {', '.join(missing)}"] if missing else []
            wrong += [f"has unknown fields: {', '.join(unknown)}{hint(unknown[0], kinds)}"] if unknown else []
            raise self.error(f"{what} {' and '.join(wrong)}")
        known = {name: each for name, each in value.items() if name in kinds}
        return kind(**{name: self.convert(each, kinds[name], prefix + name) for name, each in known.items()})


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _readings(value: object) -> tuple[object, ...]:
    """The value itself and, for a text such as "yes", its equivalent in JSON."""
    return (value, _WORDS[value.lower()]) if isinstance(value, str) and value.lower() in _WORDS else (value,)


def _to_path(kind: type, value: Any) -> Path:
    if kind is not Path or not isinstance(value, str):
        raise ValueError(value)
    try:
        return Path(value).expanduser()
    except RuntimeError as error:  # `~name` where no user has this name
        raise ValueError(value) from error


def _allowed(value: object, kind: Any, *, lenient: bool = False) -> str:
    """The text after "must be": the allowed values, the value found and, if it looks misspelt, the likely word."""
    parts = get_args(kind) if get_origin(kind) in {Union, types.UnionType} else (kind,)
    words = [word for part in parts if get_origin(part) is Literal for word in get_args(part)]
    allowed = [_described(part) for part in parts if lenient or part is not types.NoneType]
    suggestion = hint(value, words) if isinstance(value, str) else ""
    return f"{' or '.join(allowed)}, not {_SHORT.repr(value)}{suggestion}"


def _described(kind: Any) -> str:
    if get_origin(kind) is Literal:  # msgspec sorts the choices
        return f"one of {', '.join(get_args(kind))}"
    match info := inspect.type_info(kind):
        case inspect.VarTupleType(item):
            return f"a list of {_NAMES[type(item)][1]}"
        case inspect.TupleType(items):
            return f"a list of {len(items)} {_NAMES[type(items[0])][1]}"
        case inspect.IntType() | inspect.FloatType():
            return _described_number(info)
    return _NAMES[type(info)][0]


def _described_number(info: inspect.IntType | inspect.FloatType) -> str:
    name = _NAMES[type(info)][0].replace("a ", "a finite " if info.le == MAX else "a ")
    high = f" to {info.le:g}" if info.le not in {None, MAX} else f" to below {info.lt:g}" if info.lt is not None else ""
    if info.gt is not None:
        return f"{name} above {info.gt:g}{high}"
    if info.ge is None or info.ge == -MAX:
        return name + high
    return f"{name} from {info.ge:g}{high}" if high else f"{name} of at least {info.ge:g}"
