"""The report: one page that needs nothing else, well-formed, with a section for each kind of content."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from helpers import write_tone
from test_evaluate import GENRE_CARD, genre_case, make_dataset, make_scores

from musictagger.datasets.base import Dataset
from musictagger.errors import BadRequestError
from musictagger.evaluation import plots
from musictagger.evaluation.bootstrap import Resampling
from musictagger.evaluation.evaluate import Evaluation, evaluate_scores
from musictagger.evaluation.fit_card import fit_card
from musictagger.evaluation.report import Report, example_mels, write_report
from musictagger.models.card import Card
from musictagger.training.options import TrainOptions

RECORDS = [
    {"epoch": e, "lr": 0.001, "train_loss": 1 / e, "valid_loss": 1.1 / e, "auc": 0.8, "accuracy": None, "seconds": 3.0}
    for e in (1, 2, 3)
]
_VOID = {"meta", "br", "hr", "img", "link", "input"}


class Reader(HTMLParser):
    """Checks nesting, and collects headings, links, ids and tables."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []
        self.ids: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in {"h2", "td", "th", "caption", "p", "code"}:
            (self.headings if self.open[-1] == "h2" else self.cells).append(data)


@pytest.fixture(scope="module")
def genre() -> tuple[Card, Evaluation, Dataset]:
    dataset, track_scores = genre_case(120)
    track_scores = dataclasses.replace(
        track_scores, embeddings=np.random.default_rng(0).normal(size=(120, 8)).astype(np.float32)
    )
    card = fit_card(GENRE_CARD, track_scores, dataset, calibration="platt")
    return card, evaluate_scores(card, track_scores, dataset, "valid", resampling=Resampling(20)), dataset


@pytest.fixture(scope="module")
def page(genre: tuple[Card, Evaluation, Dataset], tmp_path_factory: pytest.TempPathFactory) -> str:
    card, evaluation, dataset = genre
    weights = tmp_path_factory.mktemp("models") / "three.safetensors"
    weights.write_bytes(b"x" * 1_234_567)
    content = Report(
        card=card,
        evaluation=evaluation,
        dataset=dataset,
        records=RECORDS,
        options=TrainOptions(calibration="platt").to_json(),
        command="musictagger train folders '<Music & more>'",
        mels=[("Rock", np.eye(96, 200, dtype=np.float32))],
        facts={"Trained on": "a <small> machine"},
        weights=weights,
    )
    path = write_report(weights.with_suffix(".html"), content)
    assert [entry.name for entry in sorted(path.parent.iterdir())] == ["three.html", "three.safetensors"]
    return path.read_text(encoding="utf-8")


def test_all_sections_are_in_order_and_linked(page: str) -> None:
    reader = Reader(page)
    assert reader.headings == [
        "Results", "Model", "Training", "Confusion", "ROC curves and AUC", "Calibration",
        "Map of the tracks", "Genres", "Tags", "Data", "Input of the model", "Command and options",
    ]  # fmt: skip
    links = [attrs["href"] for tag, attrs in reader.tags if tag == "a"]
    assert links == [f"#s{index}" for index in range(1, 13)]
    assert {str(link)[1:] for link in links} <= set(reader.ids)
    assert len(reader.ids) == len(set(reader.ids))


def test_the_page_needs_nothing_else(page: str) -> None:
    reader = Reader(page)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in reader.tags}
    outside = set(re.findall(r"(?:https?:)?//[\w.]+[^\"' <]*", re.sub(r"base64,[^\"]*", "", page)))
    assert outside <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert len(page) < 1_000_000


def test_plots_have_labels_and_tables_have_headers(page: str) -> None:
    reader = Reader(page)
    pictures = [attrs for tag, attrs in reader.tags if tag == "svg"]
    assert len(pictures) == sum(tag == "figure" for tag, _ in reader.tags) == 9
    assert all(attrs.get("role") == "img" and len(str(attrs.get("aria-label"))) > 20 for attrs in pictures)
    assert sum(attrs.get("scope") == "col" for tag, attrs in reader.tags if tag == "th") > 20
    assert sum(attrs.get("scope") == "row" for tag, attrs in reader.tags if tag == "th") > 20
    assert ("html", {"lang": "en"}) in reader.tags


def test_the_page_shows_the_metrics_of_the_evaluation(page: str, genre: tuple[Card, Evaluation, Dataset]) -> None:
    cells = Reader(page).cells
    metrics = genre[1].metrics_json()
    assert f"{metrics['song']['accuracy']['value']:.3f}" in cells
    assert f"{metrics['tags']['auc']['per_tag']['Jazz']['low']:.3f}" in cells
    assert any(f"{metrics['written']['right'] / 120:.1%} of the tracks and wrong for" in cell for cell in cells)
    assert {"1.2 MB", "musictagger train folders '<Music & more>'", "a <small> machine", "curves for 3 tags"} <= set(
        cells
    )


def test_the_same_content_gives_the_same_page(genre: tuple[Card, Evaluation, Dataset], tmp_path: Path) -> None:
    card, evaluation, dataset = genre
    one, two = (write_report(tmp_path / name, Report(card, evaluation, dataset)).read_bytes() for name in "ab")
    assert one == two


def test_sections_without_content_are_left_out(tmp_path: Path) -> None:
    text = write_report(tmp_path / "deep" / "r.html", Report(GENRE_CARD)).read_text(encoding="utf-8")
    assert Reader(text).headings == ["Model"]
    assert "not measured" in text


def test_a_model_of_tags_has_no_confusion(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    names = ["rock", "jazz", "folk"]
    given = [[name for name in names[:2] if random.random() < 0.4] for _ in range(12)]
    dataset = make_dataset(names, given)
    evaluation = evaluate_scores(
        GENRE_CARD, make_scores(random.random((12, 3))), dataset, "valid", resampling=Resampling(5)
    )
    text = write_report(tmp_path / "r.html", Report(GENRE_CARD, evaluation)).read_text(encoding="utf-8")
    # The embeddings are all the same, so there is no map; no track is folk, so that tag has no AUC.
    assert Reader(text).headings == ["Results", "Model", "ROC curves and AUC", "Tags"]
    assert "–" in Reader(text).cells


def test_a_map_of_many_tracks_shows_a_sample(
    genre: tuple[Card, Evaluation, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card, evaluation, _ = genre
    monkeypatch.setattr(plots, "MAX_POINTS", 20)
    text = write_report(tmp_path / "r.html", Report(card, evaluation)).read_text(encoding="utf-8")
    assert "t-SNE of the embeddings of 20 of 120 tracks" in text


def test_a_page_that_cannot_be_written_changes_no_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept", encoding="utf-8")
    with pytest.raises(BadRequestError, match="cannot be written"):
        write_report(tmp_path / "file" / "r.html", Report(GENRE_CARD))
    (tmp_path / "r.html").mkdir()
    with pytest.raises(BadRequestError, match=r"r\.html: the report cannot be written"):
        write_report(tmp_path / "r.html", Report(GENRE_CARD))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "r.html"]


def test_example_mels_are_one_track_of_each_tag(
    genre: tuple[Card, Evaluation, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card, evaluation, _ = genre
    monkeypatch.chdir(tmp_path)
    firsts = [evaluation.labelled.paths[int(evaluation.labelled.truth[:, column].argmax())] for column in range(3)]
    for path, hz in zip(firsts[:2], (110, 220), strict=True):
        write_tone(tmp_path / path.with_suffix(".flac"), 31, hz).rename(tmp_path / path)
    found = example_mels(card, evaluation.labelled)
    # The third track no longer exists.
    assert [name for name, _ in found] == ["Rock", "Jazz"]
    assert all(mel.shape == (96, 1366) for _, mel in found)
    assert len(example_mels(card, evaluation.labelled, max_tags=1)) == 1


def test_every_metric_of_genres_has_a_label(page: str) -> None:
    assert {"accuracy, song level", "F1, mean over genres", "AUC-ROC, mean over tags"} <= set(Reader(page).cells)
