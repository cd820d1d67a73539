"""NAME=VALUE on a command line: which value it is, and where a dotted name leads. Imports nothing heavy."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from musictagger.errors import BadRequestError


def assigned(texts: Iterable[str], option: str) -> dict[str, str]:
    """{"x": "1"} for ["x=1"]. Raises BadRequestError for one without =, and for a name given twice."""
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
    """{"config.x": "1"} -> {"config": {"x": 1}}: below a dot, and where braces say so, values are read as JSON.

    What is no JSON is a text; others stay texts, which training options read as what they want. Raises
    BadRequestError for a name given both whole and in parts.
    """
    found: dict[str, Any] = {}
    for name, text in values.items():
        outer, dot, inner = name.partition(".")
        if not dot:
            if outer in found:
                raise BadRequestError(f"{option} gives {outer} both whole and in parts")
            found[outer] = read_value(text) if text.startswith("{") else text
            continue
        below = found.setdefault(outer, {})
        if not isinstance(below, dict) or outer in values or not inner:
            raise BadRequestError(f"{option} gives {outer} both whole and in parts")
        below[inner] = read_value(text)
    return found


def read_value(text: str) -> Any:
    """A number, true, false, null, list or object as JSON writes them; anything else is the text itself."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except ValueError:
        return text


def _refuse(text: str) -> Any:
    raise ValueError(text)
