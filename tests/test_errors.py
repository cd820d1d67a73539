"""Errors: messages and exit codes."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from musictagger import errors
from musictagger.errors import AudioError, BadRequestError, ModelError, MusictaggerError, StoreError, TagWriteError


def test_exit_codes_are_those_documented() -> None:
    assert (errors.EXIT_ERROR, errors.EXIT_USAGE) == (1, 2)
    assert (errors.EXIT_SOME_FAILED, errors.EXIT_INTERRUPTED) == (3, 130)


@pytest.mark.parametrize(
    ("kind", "code"), [(MusictaggerError, 1), (ModelError, 1), (StoreError, 1), (AudioError, 1), (BadRequestError, 2)]
)
def test_each_error_has_one_root_and_an_exit_code(kind: type[MusictaggerError], code: int) -> None:
    assert issubclass(kind, MusictaggerError)
    assert kind.exit_code == code


@pytest.mark.parametrize("kind", [AudioError, TagWriteError])
def test_an_error_of_a_file_keeps_path_and_reason_apart(kind: type[AudioError]) -> None:
    error = kind(Path("/music/a.mp3"), "no audio in it")
    assert str(error) == "/music/a.mp3: no audio in it"
    assert (error.path, error.reason) == ("/music/a.mp3", "no audio in it")


@pytest.mark.parametrize("kind", [AudioError, TagWriteError])
def test_an_error_of_a_file_can_cross_processes(kind: type[AudioError]) -> None:
    back = pickle.loads(pickle.dumps(kind("/music/a.mp3", "no audio in it")))
    assert (back.path, back.reason, str(back)) == ("/music/a.mp3", "no audio in it", "/music/a.mp3: no audio in it")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"plain.mp3", "plain.mp3"), ("Bj\u00f6rk.mp3".encode(), "Bj\u00f6rk.mp3"), (b"caf\xe9.mp3", "caf?.mp3"),
        (b"a\nb.mp3", "a?b.mp3"), (b"\x1b[31mred.mp3", "?[31mred.mp3"), ("\u202eexe.mp3".encode(), "?exe.mp3"),
    ],
)  # fmt: skip
def test_any_path_is_shown_as_one_harmless_line(name: bytes, shown: str) -> None:
    assert printable_bytes(name) == shown


@given(st.binary(max_size=40).filter(lambda name: b"\0" not in name))
def test_printable_text_can_always_be_printed(name: bytes) -> None:
    shown = printable_bytes(name)
    assert shown.encode("utf-8").decode("utf-8") == shown
    assert shown.isprintable()


def printable_bytes(name: bytes) -> str:
    return errors.printable(os.fsdecode(name))
