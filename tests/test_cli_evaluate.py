"""`evaluate` and `compare`: metrics on labelled music, as tables, JSON and pages."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import TINY, make_model, run, write_tone

from musictagger.audio.digest import audio_digest
from musictagger.cli import metrics, progress
from musictagger.errors import EXIT_INTERRUPTED, EXIT_SOME_FAILED, EXIT_USAGE
from musictagger.evaluation.bootstrap import Interval, Resampling
from musictagger.evaluation.overlap import digest_prefixes
from musictagger.evaluation.results import tag_metrics
from musictagger.models.card import Card

FAST = ("--device", "cpu", "--workers", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models; genres in folders; a list with tags."""
    folder = tmp_path_factory.mktemp("evaluate")
    for name, seed in ((TINY, 0), ("other", 1)):
        make_model(folder / "data" / "models", name, seed=seed, thresholds=0.5)
    lines = ["path,tags,split"]
    for index in range(6):
        for genre, hz in (("Rock", 110), ("Jazz", 1500)):
            write_tone(folder / "sorted" / genre / f"{index}.flac", 2, hz + 30 * index)
            tags = f"{genre};Mellow" if index % 2 else genre
            lines.append(f"sorted/{genre}/{index}.flac,{tags},{('train', 'valid', 'test')[index % 3]}")
    (folder / "list.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def _environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSICTAGGER_DATA_DIR", str(folder / "data"))
    monkeypatch.setenv("MUSICTAGGER_CONFIG", os.devnull)
    monkeypatch.delenv("RANK", raising=False)


def card(folder: Path, name: str = TINY) -> Card:
    return Card.load(folder / "data" / "models" / f"{name}.json")


def test_genres_are_measured_and_the_metrics_saved_in_the_card(folder: Path) -> None:
    arguments = ("evaluate", "--model", TINY, "--data", folder / "sorted", "--split", "all", *FAST)
    found = run(*arguments, "--no-save", "--json")
    assert found.code == 0, found.err
    document = found.json
    assert (document["schema"], document["tracks"], document["task"]) == ("musictagger.evaluation/1", 12, "genre")
    assert set(document["figures"]["song"]["accuracy"]) == {"value", "low", "high"}
    assert (document["saved"], document["report"], document["failures"]) == (None, None, [])
    assert not card(folder).metrics
    shown = run(*arguments)
    assert shown.code == 0, shown.err
    assert all(
        text in shown.out for text in ("Accuracy", "95 % interval", "by predicted genre", "Rock", "metrics saved")
    )
    assert "folders: 12 tracks" in shown.err
    kept = card(folder).metrics["folders/all"]
    accuracy = document["figures"]["song"]["accuracy"]["value"]
    assert kept["accuracy"]["value"] == pytest.approx(accuracy, abs=1e-5)
    # An evaluation does not change tags or thresholds.
    assert card(folder).tags == card(folder, "other").tags


def test_tags_are_measured(folder: Path) -> None:
    arguments = (
        "evaluate",
        "--model",
        TINY,
        "--dataset",
        "manifest",
        "--data",
        folder / "list.csv",
        "--no-save",
        *FAST,
    )
    found = run(*arguments, "--split", "all", "--json", "--aggregate", "max")
    assert found.code == 0, found.err
    assert (found.json["task"], found.json["aggregate"]) == ("tags", "max")
    assert set(found.json["figures"]["auc"]["per_tag"]) == {"Rock", "Jazz", "Mellow"}
    shown = run(*arguments, "--split", "test")
    assert shown.code == 0, shown.err
    assert "AUC" in shown.out and "Recall@10" in shown.out and "by predicted genre" not in shown.out
    assert "not in the dataset, so not measured: Guitar" in shown.err


def test_a_report_is_one_file(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    arguments = ("evaluate", "--model", TINY, "--data", folder / "sorted", "--split", "all", "--no-save", *FAST)
    found = run(*arguments, "--report", page, "--json")
    assert found.code == 0, found.err
    assert found.json["report"] == str(page)
    assert page.read_text(encoding="utf-8").lstrip().lower().startswith("<!doctype html")


def test_tracks_that_cannot_be_scored_are_reported(folder: Path, tmp_path: Path) -> None:
    for genre, hz in (("Rock", 110), ("Jazz", 900)):
        for index in range(3):
            write_tone(tmp_path / "music" / genre / f"{index}.flac", 2, hz)
    (tmp_path / "music" / "Rock" / "broken.flac").write_bytes(b"not a FLAC file")
    arguments = ("evaluate", "--model", TINY, "--data", tmp_path / "music", "--split", "all", "--no-save", *FAST)
    found = run(*arguments, "--quiet")
    assert found.code == EXIT_SOME_FAILED
    assert "broken.flac: " in found.err and found.out == ""
    assert "1 left out" in run(*arguments).out


def test_metrics_on_training_tracks_are_not_saved(folder: Path) -> None:
    path = folder / "data" / "models" / "other.json"
    before = path.read_text()
    tracks = [folder / "sorted" / "Rock" / f"{index}.flac" for index in range(3)]
    prefixes = digest_prefixes(audio_digest(track) for track in tracks)
    path.write_text(json.dumps({**json.loads(before), "training": {"heard": prefixes}}))
    try:
        arguments = ("--data", folder / "sorted", "--split", "all", *FAST)
        shown = run("evaluate", "--model", "other", *arguments)
        assert shown.code == 0, shown.err
        assert "other was trained on 3 of these tracks" in " ".join(shown.out.split()), shown.out
        assert "not written" in shown.out and not card(folder, "other").metrics
        assert run("evaluate", "--model", "other", *arguments, "--json").json["heard_in_training"] == 3
        assert "other was trained on 3 of these" in " ".join(
            run("compare", TINY, "other", "--no-speed", *arguments).out.split()
        )
    finally:
        path.write_text(before)


def test_models_are_compared(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "table.html"
    arguments = ("compare", TINY, "other", "--data", folder / "sorted", "--split", "all", *FAST)
    found = run(*arguments, "--no-speed", "--json", "--html", page)
    assert found.code == 0, found.err
    document = found.json
    assert document["schema"] == "musictagger.comparison/1"
    assert [model["name"] for model in document["models"]] == [TINY, "other"]
    assert document["models"][0]["difference"] is None and document["models"][1]["speed"] is None
    assert "minus the first" in page.read_text(encoding="utf-8")
    shown = run(*arguments, "--quiet")
    assert shown.code == 0, shown.err
    assert shown.err == ""
    assert all(text in shown.out for text in ("minus the first", "other", "x real time", "kB"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "--model", TINY], "give the data with --data PATH"),
        (["evaluate", "--model", "tinny", "--data", "SORTED"], "did you mean 'tiny'"),
        (["evaluate", "--model", TINY, "--dataset", "folder", "--data", "SORTED"], "did you mean 'folders'"),
        (["evaluate", "--model", TINY, "--data", "SORTED", "--dataset-option", "vald=1"], "did you mean 'valid'"),
        (["evaluate", "--model", TINY, "--data", "SORTED", "--split", "most"], "is not one of"),
        (["evaluate", "--model", TINY, "--data", "SORTED", "--report", "NOWHERE/x.html"], "cannot be written"),
        (["compare", TINY, "--data", "SORTED"], "at least two models"),
        (["compare", TINY, TINY, "--data", "SORTED"], "the same model is named twice"),
        (["compare", TINY, "othr", "--data", "SORTED"], "did you mean 'other'"),
        (
            ["compare", TINY, "other", "--data", "SORTED", "--no-speed", "--html", "NOWHERE/x.html"],
            "cannot be written",
        ),
        (["compare", "--data", "SORTED"], "Missing argument"),
    ],
)
def test_wrong_usage_gives_a_readable_message(arguments: list[str], message: str, folder: Path) -> None:
    paths = {"SORTED": str(folder / "sorted"), "NOWHERE/x.html": str(folder / "nowhere" / "x.html")}
    typed = [paths.get(word, word) for word in arguments]
    found = run(*typed, *FAST)
    assert found.code == EXIT_USAGE
    assert message in found.err
    assert "Traceback" not in found.err and "internal error" not in found.err


def test_a_model_and_data_with_nothing_in_common(folder: Path, tmp_path: Path) -> None:
    for genre in ("Polka", "Zydeco"):
        for index in range(3):
            write_tone(tmp_path / genre / f"{index}.flac", 2)
    found = run("evaluate", "--model", TINY, "--data", tmp_path, *FAST)
    assert found.code == EXIT_USAGE
    assert "no tag in common" in found.err


@pytest.mark.parametrize("name", ["evaluate", "compare"])
def test_ctrl_c_is_exit_code_130(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start_then_ctrl_c(self: Any, what: str, total: int, unit: str) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(progress.Quiet, "start", start_then_ctrl_c)
    models = ("--model", TINY) if name == "evaluate" else (TINY, "other")
    found = run(name, *models, "--data", folder / "sorted", "--split", "all", *FAST)
    assert found.code == EXIT_INTERRUPTED
    assert "internal error" not in found.err


@pytest.mark.parametrize(
    ("tags", "shown"), [(12, "abcde...hijkl"), (11, "abcde...ghijk"), (10, "abcdefghij"), (3, "abc"), (1, "a")]
)
def test_a_table_of_tags_shows_both_ends_without_repeating_a_tag(tags: int, shown: str) -> None:
    truth = np.arange(26)[:, None] < 13
    # The scores of the first tag rank all tracks correctly, those of each later one a few less.
    scores = np.stack([np.where(np.arange(26) < tag, tag - 13.0, -np.arange(26)) for tag in range(tags)], axis=1)
    names = list("abcdefghijkl"[:tags])
    found = tag_metrics(np.repeat(truth, tags, axis=1), scores, names, 0.5, Resampling(5))
    assert "".join(metrics.tag_table(found).columns[0].cells) == shown  # type: ignore[arg-type]


def test_an_undefined_metric_is_a_dash() -> None:
    assert metrics.interval_text(Interval(None, None, None)) == "-"


def test_metrics_of_a_paper_stand_beside_those_of_the_card() -> None:
    import io

    from rich.console import Console

    out = io.StringIO()
    console = Console(file=out, width=100)
    measured = {"mtat/test": {"tracks": 4332, "auc": {"value": 0.9, "low": 0.89, "high": 0.91}, "task": "tags"}}
    for part in metrics.measured(measured, {"auc": 0.9078}):
        console.print(part)
    assert "Measured on mtat/test, 4,332 tracks" in out.getvalue()
    assert "0.890 to 0.910" in out.getvalue() and "0.908" in out.getvalue()
