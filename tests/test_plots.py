"""Plots: they show the given values, nothing is cut off or overlaps, and no global state changes."""

from __future__ import annotations

import inspect
import itertools
import re
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pytest
import sklearn.metrics as sk
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from musictagger.evaluation import plots
from musictagger.evaluation.bootstrap import Interval

NAMES = [f"tag number {index}" for index in range(50)]
RECORDS = [
    {"epoch": epoch, "train_loss": 1 / epoch, "valid_loss": 1.2 / epoch, "auc": None if epoch == 1 else 0.9}
    for epoch in range(1, 5)
]


def scored(tags: int = 50, tracks: int = 80, seed: int = 0) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    random = np.random.default_rng(seed)
    truth = random.random((tracks, tags)) < 0.4
    return truth, np.round(np.clip(random.normal(0.4, 0.2, truth.shape) + 0.2 * truth, 0, 1), 2)


def intervals(names: list[str]) -> dict[str, Interval]:
    return {name: Interval(0.9 - i / 200, 0.85 - i / 200, 0.93 - i / 200) for i, name in enumerate(names)}


def pictures() -> dict[str, Figure]:
    truth, scores = scored()
    counts = {"train": dict.fromkeys(NAMES, 9), "valid": dict.fromkeys(NAMES, 2), "test": {}}
    matrix = np.arange(100).reshape(10, 10)
    positions = np.random.default_rng(0).normal(size=(60, 2))
    mels = [(f"a rather long title of number {i} {'x' * 40}", np.eye(96)) for i in range(5)]
    return {
        "curves": plots.training_curves(RECORDS),
        "roc": plots.roc_curves(truth, scores, NAMES, {name: 0.5 + i / 200 for i, name in enumerate(NAMES)}),
        "confusion": plots.confusion(matrix, NAMES[:10], "Songs"),
        "large confusion": plots.confusion(np.eye(90), [f"genre {i}" for i in range(90)], "Songs"),
        "bars": plots.auc_bars(intervals(NAMES)),
        "three bars": plots.auc_bars(intervals(NAMES[:3])),
        "distribution": plots.tag_distribution(counts, NAMES),
        "reliability": plots.reliability(truth, scores, scores**2),
        "map": plots.embedding_map(positions, [f"genre {i % 25}" for i in range(60)]),
        "mels": plots.mel_examples(mels, 29.12),
    }


PICTURES = (
    "curves", "roc", "confusion", "large confusion", "bars", "three bars", "distribution", "reliability", "map", "mels",
)  # fmt: skip


@pytest.fixture(scope="module")
def drawn() -> dict[str, Figure]:
    return pictures()


@pytest.fixture(params=PICTURES)
def picture(request: pytest.FixtureRequest, drawn: dict[str, Figure]) -> Figure:
    return drawn[request.param]


def drawn_texts(figure: Figure) -> list[Text]:
    figure.canvas.draw()
    return [text for text in figure.findobj(Text) if isinstance(text, Text) and text.get_text() and text.get_visible()]


def test_no_text_is_cut_off_or_tiny(picture: Figure) -> None:
    width, height = picture.canvas.get_width_height()
    assert isinstance(picture.canvas, FigureCanvasAgg)
    for text in drawn_texts(picture):
        box = text.get_window_extent()
        if not any(text in (*a.get_xticklabels(), *a.get_yticklabels()) for a in picture.axes if not in_view(a, text)):
            assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1, text.get_text()
        assert float(text.get_fontsize()) >= 6


def in_view(axes: Axes, text: Text) -> bool:
    """Return whether a label is drawn: matplotlib keeps labels of ticks beyond the axes."""
    x, y = text.get_position()
    low_x, high_x = sorted(axes.get_xlim())
    low_y, high_y = sorted(axes.get_ylim())
    return (low_x <= x <= high_x or text in axes.get_yticklabels()) and (
        low_y <= y <= high_y or text in axes.get_xticklabels()
    )


@pytest.mark.parametrize("name", ["bars", "distribution", "large confusion"])
def test_labels_of_many_tags_do_not_overlap(name: str, drawn: dict[str, Figure]) -> None:
    figure = drawn[name]
    figure.canvas.draw()
    boxes = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    tops = sorted((box.y0, box.y1) for box in boxes)
    assert all(below[1] <= above[0] + 0.5 for below, above in itertools.pairwise(tops))


def test_a_plot_is_an_accessible_svg_in_the_colours_of_the_page(picture: Figure) -> None:
    text = plots.svg_text(picture, 'AUC <of> "tags" & more', "f7")
    root = ElementTree.fromstring(text)
    assert (root.get("role"), root.get("aria-label")) == ("img", 'AUC <of> "tags" & more')
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids)) and all(name.startswith("f7-") for name in ids)
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', text))
    assert used <= set(ids)
    assert "currentColor" in text and plots.INK not in text
    assert "<metadata" not in text
    assert re.findall(r'href="(?!#|data:image/png)', text) == []


def test_the_same_values_give_the_same_text() -> None:
    first, second = (plots.svg_text(plots.auc_bars(intervals(NAMES)), "bars", "f1") for _ in range(2))
    assert first == second


def test_no_global_state_changes() -> None:
    before = mpl.rcParams.copy()
    mpl.rcParams["font.size"] = 31
    try:
        labels = plots.auc_bars(intervals(NAMES[:3])).axes[0].get_yticklabels()
        assert [label.get_fontsize() for label in labels] == [9, 9, 9]
        assert mpl.rcParams["font.size"] == 31
    finally:
        mpl.rcParams.update(before)
    assert "pyplot" not in inspect.getsource(plots).replace("without pyplot", "")


def test_roc_shows_the_mean_the_best_and_the_worst() -> None:
    truth, scores = scored(10)
    names = NAMES[:10]
    aucs = {name: float(sk.roc_auc_score(truth[:, i], scores[:, i])) for i, name in enumerate(names)}
    axes = plots.roc_curves(truth, scores, names, aucs).axes[0]
    ranked = sorted(aucs, key=lambda name: -aucs[name])
    shown = [str(line.get_label()).rsplit("  ", 1)[0] for line in axes.lines[:6]]
    assert shown == [*ranked[:3], *ranked[-3:]]
    assert axes.lines[6].get_label() == f"mean of 10  {np.mean(list(aucs.values())):.3f}"
    x, y = axes.lines[6].get_xdata(), axes.lines[6].get_ydata()
    assert np.trapezoid(np.asarray(y), np.asarray(x)) == pytest.approx(np.mean(list(aucs.values())), abs=0.02)


def test_reliability_shows_the_share_of_true_tags_over_their_mean_score() -> None:
    truth = np.array([[True], [False], [True], [True]])
    scores = np.array([[0.22], [0.28], [0.71], [1.0 + 1e-7]], np.float32)
    points = [line.get_xydata() for line in plots.reliability(truth, scores, scores / 2).axes[0].lines[1:]]
    assert np.asarray(points[0]) == pytest.approx(np.array([[0.25, 0.5], [0.71, 1], [1, 1]]))
    assert np.asarray(points[1]) == pytest.approx(np.array([[0.125, 0.5], [0.355, 1], [0.5, 1]]))


def test_a_bar_ends_at_its_value_and_tags_without_a_value_are_not_shown() -> None:
    axes = plots.auc_bars(intervals(NAMES[:2]) | {"unknown": Interval(None, None, None)}).axes[0]
    bars = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert [bar.get_x() + bar.get_width() for bar in bars] == pytest.approx([0.9, 0.895])
    assert [label.get_text() for label in axes.get_yticklabels()] == NAMES[:2]


def test_both_ends_of_too_many_tags_are_shown_with_a_note() -> None:
    names = [f"tag {index:03}" for index in range(100)]
    axes = plots.auc_bars(intervals(names)).axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == [*names[:30], *names[-30:]]
    assert "(the first and last 30 of 100)" in axes.get_xlabel()


def test_epochs_without_a_value_are_skipped() -> None:
    losses, shown = plots.training_curves(RECORDS).axes
    assert [line.get_label() for line in losses.lines] == ["training", "validation"]
    assert list(np.asarray(shown.lines[0].get_xdata())) == [2, 3, 4]
    assert len(shown.lines) == 1


def test_a_distribution_shows_shares_of_each_splits_labels() -> None:
    axes = plots.tag_distribution({"train": {"a": 3, "b": 1}, "valid": {}}, ["b", "a", "never"]).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "never"]
    widths = [patch.get_width() for patch in axes.patches if isinstance(patch, Rectangle)]
    assert widths == pytest.approx([0.75, 0.25, 0])


@pytest.mark.parametrize("tracks", [5, 60])
def test_a_map_separates_clusters_and_is_deterministic(tracks: int) -> None:
    random = np.random.default_rng(0)
    side = np.arange(tracks) % 2
    embeddings = random.normal(size=(tracks, 70)) + 20 * side[:, None]
    positions = plots.tsne(embeddings)
    assert positions.shape == (tracks, 2) and np.isfinite(positions).all()
    np.testing.assert_array_equal(positions, plots.tsne(embeddings))
    if tracks > 5:
        apart = np.linalg.norm(positions[side == 0].mean(axis=0) - positions[side == 1].mean(axis=0))
        assert apart > positions[side == 0].std()


def test_names_are_shortened_and_not_read_as_formulas() -> None:
    assert plots.short("a$b$") == r"a\$b\$"
    assert plots.short("x" * 40) == "x" * 27 + "…"
    svg = plots.svg_text(plots.auc_bars({"A$AP & <b>": intervals(["a"])["a"]}), "t", "f1")
    assert "A$AP &amp; &lt;b&gt;" in svg
