"""Shared by several test modules: the folder of reference data, a small model card, a clean environment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from musictagger.audio.frontend import FrontEnd
from musictagger.models.card import Card, Tag

# On a busy machine examples can be slow, which is not a fault of the code. The examples are the same on every run.
settings.register_profile("tests", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
# For a long search for failures: `pytest --hypothesis-profile=hunt`.
settings.register_profile("hunt", deadline=None, max_examples=2_000)
settings.load_profile("tests")

SHARED = Path(__file__).parents[2] / "shared"
"""Reference data beside the checkout; tests that need them are skipped without them."""

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
    """A card with eight tags over nine outputs."""
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
    """Remove a developer's own MUSICTAGGER_* settings; a folder set aside for the tests stays."""
    for name in list(os.environ):
        if name.startswith("MUSICTAGGER_") and name not in {"MUSICTAGGER_DATA_DIR", "MUSICTAGGER_CONFIG"}:
            monkeypatch.delenv(name)


PLUGIN = '''
"""A user's own backbone."""
import torch
from torch import nn
from musictagger.models.backbone import Backbone, Output


class Mine(Backbone):
    """The mean of each mel band, and a dense layer. It runs out of memory beyond `max_frames` frames at once."""

    name = "mine"

    def __init__(self, n_tags: int, *, n_mels: int = 96, max_frames: int = 1000, oom: str = "torch") -> None:
        super().__init__()
        self.max_frames, self.oom = max_frames, oom
        self.batches = []
        self.dense = nn.Linear(n_mels, n_tags)

    def forward(self, features: torch.Tensor) -> Output:
        self.batches.append(len(features))
        if len(features) > self.max_frames:
            if self.oom == "torch":
                raise torch.OutOfMemoryError("CUDA out of memory")
            raise RuntimeError(self.oom)
        embedding = features.mean(dim=2) / 100
        return Output(self.dense(embedding), embedding)
'''


def plugin_folder(folder: Path) -> Path:
    """Make a plugin folder in `folder` with one backbone, `mine`."""
    plugins = folder / "plugins"
    plugins.mkdir(exist_ok=True)
    (plugins / "mine.py").write_text(PLUGIN, encoding="utf-8")
    return plugins


def mine_card(**changes: Any) -> Card:
    """A card for `mine` with frames of 1.3 s."""
    return make_card(**({"backbone": "mine", "front_end": FrontEnd(frame_hops=60)} | changes))
