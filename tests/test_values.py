"""The loader of values from outside: conversions, refusals and their messages."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from musictagger.errors import BadRequestError, ModelError
from musictagger.values import Count, Finite, Positive, Share, check, check_arguments, convert, load

Colour = Literal["red", "green", "blue"]
DEEP: list[Any] = []
for _ in range(100_000):
    DEEP = [DEEP]


@dataclass(frozen=True)
class Part:
    name: str
    share: Share = 0.5


@dataclass(frozen=True)
class Whole:
    parts: tuple[Part, ...]
    colour: Colour = "red"
    weights: Mapping[Colour, Positive] = field(default_factory=dict)
    more: Mapping[str, Any] | None = None


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (3, Count, 3),
        (1, Share, 1.0),
        (None, Count | None, None),
        (["a", "b"], tuple[str, ...], ("a", "b")),
        ([1, 2], tuple[Count, Count], (1, 2)),
        ("red", Colour, "red"),
        ("columns", bool | Literal["columns"], "columns"),
        ("~/x", Path, Path("~/x").expanduser()),
        (Path("~/x"), Path, Path("~/x").expanduser()),
        ({"red": 2}, Mapping[Colour, Positive], {"red": 2.0}),
        ({"a": [{"b": None}]}, Mapping[str, Any], {"a": [{"b": None}]}),
        ("2026-01-02T03:04:05+00:00", datetime.datetime, datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)),
    ],
)
def test_values_of_json_and_toml(value: object, kind: Any, expected: object) -> None:
    converted = convert(value, kind, "it")
    assert converted == expected
    assert type(converted) is type(expected)


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        (True, Count, "it must be a whole number of at least 1, not True"),
        (0, Count, "it must be a whole number of at least 1, not 0"),
        (3.0, Count, "it must be a whole number of at least 1, not 3.0"),
        ("3", Count | None, "it must be a whole number of at least 1, not '3'"),
        (math.nan, Share, "it must be a number from 0 to 1, not nan"),
        (math.inf, Finite, "it must be a finite number, not inf"),
        (math.nan, Finite, "it must be a finite number, not nan"),
        (0, Positive, "it must be a finite number above 0, not 0"),
        (1, Annotated[float, Meta(ge=0, lt=1)], "it must be a number from 0 to below 1, not 1"),
        (1, bool, "it must be true or false, not 1"),
        ("yes", bool, "it must be true or false, not 'yes'"),
        (5, str, "it must be a string, not 5"),
        (5, Path, "it must be a path, not 5"),
        ("grene", Colour, "it must be one of red, green, blue, not 'grene'; did you mean 'green'?"),
        ("a", tuple[str, ...], "it must be a list of strings, not 'a'"),
        (["a", 5], tuple[str, ...], r"it\[1\] must be a string, not 5"),
        ([1], tuple[Count, Count], r"it must be a list of 2 whole numbers, not \[1\]"),
        ([1, 0], tuple[Count, Count], r"it\[1\] must be a whole number of at least 1, not 0"),
        ([], Mapping[str, Any], r"it must be a mapping of names to values, not \[\]"),
        ({"reed": 1}, Mapping[Colour, Positive], "a name in it must be one of red, green, blue, not 'reed'"),
        ({"red": "1"}, Mapping[Colour, Positive], "it.red must be a finite number above 0, not '1'"),
        (datetime.date(2026, 1, 2), Count, "it must be a whole number of at least 1, not datetime.date"),
        ("x" * 1000, Count, r"it must be a whole number of at least 1, not 'x+\.\.\.x+'"),
        ("\ud800", Colour, "it must be one of red"),
        (10**400, Share, "it must be a number from 0 to 1, not 1000"),
        (DEEP, Share, r"it must be a number from 0 to 1, not \[\[\["),
    ],
    ids=lambda value: None if isinstance(value, str) and len(value) < 99 else type(value).__name__,
)
def test_refused_values(value: object, kind: Any, message: str) -> None:
    with pytest.raises(BadRequestError, match=f"^{message}") as caught:
        convert(value, kind, "it")
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("3", Count, 3),
        ("1e-3", Finite, 0.001),
        ("3.0", Count, 3),
        *[(text, bool, True) for text in ("1", "true", "True", "yes", "YES")],
        *[(text, bool, False) for text in ("0", "false", "no")],
        ("none", Count | None, None),
        ("none", Literal["none", "all"], "none"),
        ("none", str, "none"),
        ("none", Path | None, Path("none")),
    ],
)
def test_texts_of_command_lines_and_environment_variables(text: str, kind: Any, expected: object) -> None:
    converted = convert(text, kind, "it", lenient=True)
    assert converted == expected
    assert type(converted) is type(expected)


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        ("many", Count | None, "it must be a whole number of at least 1 or none, not 'many'"),
        ("nan", Share, "it must be a number from 0 to 1, not 'nan'"),
        ("inf", Finite, "it must be a finite number, not 'inf'"),
        (True, Count, "it must be a whole number of at least 1, not True"),
        (1, bool, "it must be true or false, not 1"),
        ("maybe", bool, "it must be true or false, not 'maybe'"),
        ("none", bool, "it must be true or false, not 'none'"),
        ("~nobody-of-this-name/x", Path, "it must be a path, not '~nobody-of-this-name/x'"),
    ],
)
def test_refused_texts(value: object, kind: Any, message: str) -> None:
    with pytest.raises(BadRequestError, match=f"^{message}$"):
        convert(value, kind, "it", lenient=True)


def test_a_dataclass_is_built_from_a_mapping() -> None:
    values = {"parts": [{"name": "a"}, {"name": "b", "share": 1}], "weights": {"red": 1}, "more": {"x": [1]}}
    expected = Whole((Part("a"), Part("b", 1.0)), weights={"red": 1.0}, more={"x": [1]})
    assert load(values, Whole, "the whole") == expected
    assert load({"parts": [Part("a")]}, Whole, "the whole") == Whole((Part("a"),))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (None, "the whole must be a mapping of names to values, not None"),
        ({}, "the whole lacks parts"),
        ({"parts": [], "colr": "red"}, r"the whole has unknown fields: colr; did you mean 'colour'\?"),
        ({"b": 1, "a": 2}, "the whole lacks parts and has unknown fields: a, b"),
        ({"parts": [{}]}, r"the whole: parts\[0\] lacks name"),
        ({"parts": ["a"]}, r"the whole: parts\[0\] must be a mapping of names to values, not 'a'"),
        ({"parts": [{"name": "a", "share": 2}]}, r"the whole: parts\[0\]\.share must be a number from 0 to 1, not 2"),
        ({"parts": [{"name": "a", "size": 2}]}, r"the whole: parts\[0\] has unknown fields: size"),
        ({"parts": [], "weights": {"red": 0}}, "the whole: weights.red must be a finite number above 0, not 0"),
        ({"parts": [], "more": 1}, "the whole: more must be a mapping of names to values, not 1"),
    ],
)
def test_refused_mappings(values: object, message: str) -> None:
    with pytest.raises(ModelError, match=f"^{message}$"):
        load(values, Whole, "the whole", ModelError)


def test_extra_fields_may_be_ignored_at_every_level() -> None:
    values = {"parts": [{"name": "a", "note": 1}], "note": 1}
    assert load(values, Whole, "the whole", extra=True) == Whole((Part("a"),))


def test_fields_of_an_instance_are_checked() -> None:
    check(Part("a", 1))
    with pytest.raises(BadRequestError, match=r"^share must be a number from 0 to 1, not 1\.5$"):
        check(Part("a", 1.5))


@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda part: st.lists(part)),
    st.sampled_from([Count, Share, Finite, bool, str, Path, Colour, tuple[str, ...], Mapping[str, Any], Whole]),
    st.booleans(),
)
def test_any_value_is_converted_or_refused(value: object, kind: Any, lenient: bool) -> None:
    try:
        convert(value, kind, "it", lenient=lenient)
    except BadRequestError as error:
        assert str(error).startswith("it")


def test_arguments_are_checked_by_their_annotations() -> None:
    def build(width: Count, *, depth: Count = 1, other: Any = None) -> None: ...

    check_arguments(build, {"self": object(), "width": 3, "depth": 2, "other": {}})
    with pytest.raises(ModelError, match="depth must be a whole number of at least 1, not 0"):
        check_arguments(build, {"width": 3, "depth": 0}, ModelError)
