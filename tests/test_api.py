"""The Python API, and the example of a backbone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import TINY, make_model, run, write_tone

from musictagger import Tagger
from musictagger.errors import AudioError, BadRequestError
from musictagger.models.registry import find_plugins

PAGE = Path(__file__).parent.parent / "CONTRIBUTING.md"


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "data"
    make_model(folder / "models")
    monkeypatch.setenv("MUSICTAGGER_DATA_DIR", str(folder))
    monkeypatch.setenv("MUSICTAGGER_CONFIG", os.devnull)
    monkeypatch.delenv("MUSICTAGGER_MODEL", raising=False)
    return folder


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, musictagger; assert not {'torch', 'numpy', 'sqlalchemy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_tagger_predicts_what_a_scan_stores(tmp_path: Path) -> None:
    path = write_tone(tmp_path / "music" / "a.flac", 70)
    track = Tagger(TINY, device="cpu").tag(path)
    assert (track.status, track.padded, track.frame_scores.shape) == ("ok", False, (2, 4))
    assert track.duration_s == pytest.approx(70, abs=0.01)
    assert track.embedding.ndim == 1 and np.isfinite(track.embedding).all()
    assert run("scan", path.parent, "--model", TINY, "--write", "none", "--quiet").code == 0
    stored = run("show", path, "--json").json
    assert [tag["name"] for tag in stored["tags"]] == [tag.name for tag in track.tags]
    np.testing.assert_allclose([tag["score"] for tag in stored["tags"]], [t.score for t in track.tags], atol=1e-3)
    assert stored["genres"] == list(track.genres)


def test_tags_are_the_mean_of_the_frames_for_any_batch_size(tmp_path: Path) -> None:
    path = write_tone(tmp_path / "a.flac", 200)
    small, large = (Tagger(TINY, device="cpu", batch_size=size).tag(path) for size in (1, 16))
    np.testing.assert_allclose(small.frame_scores, large.frame_scores, atol=1e-4)
    mean = dict(zip(large.tag_names, large.frame_scores.mean(axis=0), strict=True))
    for tag in large.tags:
        assert tag.score == pytest.approx(mean[tag.name], abs=1e-6)


def test_tagger_takes_a_path_to_a_model(data: Path, tmp_path: Path) -> None:
    path = write_tone(tmp_path / "a.wav", 31)
    assert Tagger(data / "models" / f"{TINY}.safetensors").tag(str(path)).status == "ok"


def test_short_and_silent_tracks_have_no_tags(tmp_path: Path) -> None:
    tagger = Tagger(TINY)
    short = tagger.tag(write_tone(tmp_path / "short.wav", 0.5))
    silent = tagger.tag(write_tone(tmp_path / "silent.wav", 40, 0.0))
    assert (short.status, silent.status) == ("too short", "silent")
    for track in (short, silent):
        assert track.tags == () and track.genres == () and track.frame_scores.shape == (0, 4)


def test_errors_name_their_cause(tmp_path: Path) -> None:
    (tmp_path / "x.mp3").write_text("no music")
    with pytest.raises(AudioError, match=r"x\.mp3"):
        Tagger(TINY).tag(tmp_path / "x.mp3")
    with pytest.raises(BadRequestError, match="did you mean 'tiny'"):
        Tagger("tinny")
    with pytest.raises(BadRequestError, match="did you mean 'trim_edges'"):
        Tagger(TINY, trim_edge=1.0)
    with pytest.raises(BadRequestError, match="one of mean, median"):
        Tagger(TINY, aggregate="avg")


def test_the_example_backbone_works(tmp_path: Path) -> None:
    code = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert code is not None
    assert code[1].count("\n") <= 40
    (tmp_path / "mean_spectrum.py").write_text(code[1])
    plugin = next(plugin for plugin in find_plugins([tmp_path]) if plugin.name == "mean_spectrum")
    assert plugin.backbone is not None, plugin.error
    backbone = plugin.backbone(7)
    logits, embedding = backbone(torch.randn(3, 96, 1366))
    assert logits.shape == (3, 7) and embedding.shape == (3, 128)
    assert {name.split(".")[0] for name, _ in backbone.named_parameters()} <= {"cnn", "rnn", "dense"}
