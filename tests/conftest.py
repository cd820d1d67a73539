"""What several test modules share: where the reference data lie, a small model card, an untouched environment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from musictagger.audio.frontend import FrontEnd
from musictagger.models.card import Card, Tag

# On a busy machine the first example of a test can be slow; the examples are the same on every run.
settings.register_profile("tests", deadline=None, derandomize=True)
# For hunting: `pytest --hypothesis-profile=hunt`.
settings.register_profile("hunt", deadline=None, max_examples=2_000)
settings.load_profile("tests")

SHARED = Path(__file__).parents[2] / "shared"
"""Reference data beside the checkout; a test that needs them is skipped without them."""

TAGS = (
    Tag("Rock", "genre", ("rock",), 0.5),
    Tag("Jazz", "genre", ("jazz",), 0.3),
    Tag("Hip-Hop", "genre", ("hip hop",), 0.4),
    Tag("R&B", "genre", ("rnb",), 0.4),
    Tag("Mellow", "mood", ("mellow",), 0.2),
    Tag("Guitar", "instrument", ("guitar",), 0.5),
    Tag("Female Vocals", "voice", ("female", "woman"), 0.5),
    Tag("80s", "era", ("80s",), 0.5),
)


def make_card(**changes: Any) -> Card:
    """A card of eight tags over nine outputs."""
    values: dict[str, Any] = {
        "name": "small",
        "backbone": "crnn",
        "config": {},
        "front_end": FrontEnd(),
        "outputs": tuple(output for tag in TAGS for output in tag.outputs),
        "tags": TAGS,
        "task": "tags",
        "weights_sha256": "0" * 64,
    }
    return Card(**(values | changes))


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own MUSICTAGGER_* must not change what the tests see; a folder set aside for them stays."""
    for name in list(os.environ):
        if name.startswith("MUSICTAGGER_") and name not in {"MUSICTAGGER_DATA_DIR", "MUSICTAGGER_CONFIG"}:
            monkeypatch.delenv(name)
