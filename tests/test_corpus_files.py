"""The corpus of broken files: it is what the script makes, and decoding it gives the expected outcomes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from make_corpus import CORPUS, DEFECTS, Defect, main

from musictagger.audio.decode import decode_frames
from musictagger.audio.frames import FrameRule
from musictagger.audio.walk import walk
from musictagger.errors import AudioError

EXPECTED: dict[str, dict[str, str]] = json.loads((CORPUS / "expected.json").read_text(encoding="utf-8"))
SKIPPED = "not audio (skipped by walk)"
DECODED = {"ok": "tagged", "too short": "too short", "silent": "silent"}
RATE_HZ = 12_000
RULE = FrameRule(29 * RATE_HZ)


def ids(value: Any) -> str:
    return str(getattr(value, "name", value))


def decoded_outcome(path: Path) -> str:
    """The outcome of scanning `path`, in the terms of expected.json."""
    frames = decode_frames(path, RATE_HZ, RULE)
    while True:
        try:
            next(frames)
        except StopIteration as end:
            return DECODED[end.value.status]
        except AudioError as error:
            assert error.reason
            return "failed"


def test_the_folder_the_script_and_the_expectations_name_the_same_files() -> None:
    names = {defect.name for defect in DEFECTS}
    assert len(names) == len(DEFECTS)
    assert {path.name for path in CORPUS.iterdir()} - {"expected.json"} == names
    assert set(EXPECTED) == names


def test_every_expectation_gives_an_outcome_and_a_reason() -> None:
    outcomes = {*DECODED.values(), "failed", SKIPPED}
    for entry in EXPECTED.values():
        assert entry["outcome"] in outcomes
        assert entry["why"]
        assert ("outcome_when_named" in entry) == (entry["outcome"] == SKIPPED)


def test_the_files_are_small() -> None:
    sizes = {path.name: path.stat().st_size for path in CORPUS.iterdir()}
    assert max(sizes.values()) <= 60_000, sizes
    assert sum(sizes.values()) < 1_000_000


def test_the_script_makes_the_whole_folder(tmp_path: Path) -> None:
    main([str(tmp_path)])
    assert {path.name for path in tmp_path.iterdir()} == set(EXPECTED)


@pytest.mark.parametrize("defect", [d for d in DEFECTS if d.exact], ids=ids)
def test_files_without_an_encoder_are_reproduced_byte_for_byte(defect: Defect) -> None:
    assert defect.make() == (CORPUS / defect.name).read_bytes()


@pytest.mark.parametrize("defect", [d for d in DEFECTS if not d.exact], ids=ids)
def test_encoded_files_are_the_same_on_every_run(defect: Defect) -> None:
    assert defect.make() == defect.make()


def test_a_walk_skips_the_files_expected_to_be_skipped() -> None:
    found = {item.path.name for item in walk([CORPUS])}
    assert found == {name for name, entry in EXPECTED.items() if entry["outcome"] != SKIPPED}


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_decoding_ends_as_expected(name: str) -> None:
    entry = EXPECTED[name]
    assert decoded_outcome(CORPUS / name) == entry.get("outcome_when_named", entry["outcome"])
