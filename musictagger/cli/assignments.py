"""Assignments NAME=VALUE on a command line, with dotted names. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from musictagger.errors import BadRequestError


def assigned(texts: Iterable[str], option: str) -> dict[str, str]:
    """["x=1"] -> {"x": "1"}. Raises BadRequestError for a text without = and for a repeated name."""
    values: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals or not name:
            raise BadRequestError(f"{option} takes NAME=VALUE, not {text!r}")
        if name in values:
            raise BadRequestError(f"{option} gives {name} twice")
        values[name] = value.strip()
    return values


def nested(values: dict[str, str], option: str) -> dict[str, Any]:
    """{"config.x": "1"} -> {"config": {"x": 1}}: values of dotted names and values in braces are parsed as JSON.

    All other values stay texts, to be converted to the type of the option. Raises BadRequestError for a name that is
    given both as a whole and in parts.
    """
    found: dict[str, Any] = {}
    for name, text in values.items():
        outer, dot, inner = name.partition(".")
        if not dot:
            if outer in found:
                raise BadRequestError(f"{option} gives {outer} both as a whole and in parts")
            found[outer] = read_value(text) if text.startswith("{") else text
            continue
        below = found.setdefault(outer, {})
        if not isinstance(below, dict) or outer in values or not inner:
            raise BadRequestError(f"{option} gives {outer} both as a whole and in parts")
        below[inner] = read_value(text)
    return found


def read_value(text: str) -> Any:
    """Return the JSON value of `text`, such as a number, true, null or a list; a text that is not JSON stays."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return text
