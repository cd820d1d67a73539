"""Plots of training and evaluation as matplotlib figures, made without pyplot, so that no state is shared.

Colours are those of Okabe and Ito (2008), which are distinct for people with any colour vision, without the yellow,
which is invisible on white; lines also differ in their dashes or markers. Text and axes have the colour `INK`, which
`svg_text` turns into that of the page around it, light or dark; the page also has its own `--blue` and `--sky`.
"""

from __future__ import annotations

import functools
import io
import re
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from musictagger.evaluation.bootstrap import Interval, ratio
from musictagger.evaluation.checks import DoubleArray, Truth

P = ParamSpec("P")
AnyFloatArray = npt.NDArray[np.floating]

BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, GREY = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a8a8a",
)  # fmt: skip
COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", "--", "-.")
INK = "#0b0c0d"
_OF_PAGE = {INK: "currentColor", BLUE: f"var(--blue, {BLUE})", SKY: f"var(--sky, {SKY})"}

WIDTH_IN = 8.0
MAX_BARS = 60
"""Tags in one plot; of a longer list only both ends are shown."""
MAX_NUMBERS = 20
"""Genres up to which a confusion matrix has room for numbers."""
MAX_LABELS = 60
"""Labels of 7.5 points that fit beside the largest confusion matrix."""
MAX_POINTS = 1500
"""Tracks in a map of embeddings: t-SNE takes 11 s for them on one core."""
CURVE_POINTS = 201

_STYLE: Mapping[str, Any] = {
    "font.size": 10,
    "font.family": "DejaVu Sans",
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.alpha": 0.18,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "svg.fonttype": "none",
    "svg.hashsalt": "musictagger",
    **{f"{what}.color": INK for what in ("text", "xtick", "ytick", "grid")},
    **{f"axes.{what}": INK for what in ("edgecolor", "labelcolor", "titlecolor")},
}


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Run `draw` in the style of this module, regardless of the user's matplotlib settings."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context({**mpl.rcParamsDefault, **_STYLE}):
            return draw(*args, **kwargs)

    return drawn


def _figure(height_in: float, columns: int = 1, rows: int = 1, width_in: float = WIDTH_IN) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    axes = np.atleast_1d(figure.subplots(rows, columns)).ravel().tolist()
    return figure, axes


def svg_text(figure: Figure, title: str, prefix: str) -> str:
    """The figure as an <svg> element for a page, with `title` as its label and `prefix` before its ids."""
    stream = io.StringIO()
    with mpl.rc_context({**mpl.rcParamsDefault, **_STYLE}), warnings.catch_warnings():
        # For a character that its font lacks, matplotlib draws a box and warns.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub("|".join(_OF_PAGE), lambda found: _OF_PAGE[found[0]], text)
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", text)
    label = title.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


@styled
def training_curves(records: Sequence[Mapping[str, Any]]) -> Figure:
    """Loss, and AUC and accuracy on the validation split, over epochs; `records` are the lines of log.jsonl."""
    figure, (losses, metrics) = _figure(3.2, 2)
    for axes, series in (
        (losses, {"train_loss": "training", "valid_loss": "validation"}),
        (metrics, {"auc": "AUC-ROC", "accuracy": "accuracy"}),
    ):
        for index, (key, label) in enumerate(series.items()):
            points = [(r["epoch"], r[key]) for r in records if isinstance(r.get(key), int | float)]
            if points:
                epochs, values = np.array(points, np.float64).T
                axes.plot(epochs, values, label=label, markersize=3.5, **_look(index, MARKERS[index]))
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(True)
        if axes.lines:
            axes.legend()
    losses.set_title("Loss")
    metrics.set_title("Validation metrics")
    return figure


@styled
def roc_curves(
    truth: Truth, scores: AnyFloatArray, names: Sequence[str], aucs: Mapping[str, float], each: int = 3
) -> Figure:
    """The mean ROC curve, and those of the `each` best and worst tags, from [tracks, tags].

    `aucs` holds the tags for which the AUC is defined.
    """
    from sklearn.metrics import roc_curve

    ranked = sorted(aucs, key=lambda name: (-aucs[name], name))
    shown = _ends(ranked, each)
    grid = np.linspace(0, 1, CURVE_POINTS)
    curves = {}
    for column, name in enumerate(names):
        if name in aucs:
            false, true, _ = roc_curve(truth[:, column], scores[:, column], drop_intermediate=False)
            curves[name] = np.interp(grid, false, true)
    figure, (axes,) = _figure(4.6)
    for index, name in enumerate(shown):
        axes.plot(grid, curves[name], label=f"{short(name)}  {aucs[name]:.3f}", linewidth=1.3, **_look(index))
    macro = np.mean(list(curves.values()), axis=0)
    axes.plot(grid, macro, color=INK, linewidth=2.6, label=f"mean of {len(aucs)}  {np.mean(list(aucs.values())):.3f}")
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":")
    axes.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    axes.set_aspect("equal")
    axes.grid(True)
    axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), title="AUC-ROC")
    return figure


@styled
def confusion(matrix: npt.ArrayLike, names: Sequence[str], title: str) -> Figure:
    """A confusion matrix [genres, genres] of counts, with a row for each true genre; shades are shares of the row."""
    counts = np.asarray(matrix, np.float64)
    shares = np.nan_to_num(ratio(counts, counts.sum(axis=1, keepdims=True)))
    size_in = max(3.6, min(11, 1.8 + 0.42 * len(names)))
    figure, (axes,) = _figure(size_in, width_in=size_in + 1.2)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    font = 9 if len(names) <= MAX_NUMBERS else 7.5
    # Where the labels do not fit, show every second one (or third, ...).
    ticks = range(0, len(names), -(-len(names) // MAX_LABELS))
    labels = [short(names[tick], 22) for tick in ticks]
    axes.set_xticks(ticks, labels, rotation=45, ha="right", rotation_mode="anchor", fontsize=font)
    axes.set_yticks(ticks, labels, fontsize=font)
    axes.set(xlabel="predicted", ylabel="true", title=title)
    axes.spines[:].set_visible(True)
    if len(names) <= MAX_NUMBERS:
        for row, column in np.argwhere(counts > 0):
            colour = "#ffffff" if shares[row, column] > 0.55 else "#000000"
            text = f"{counts[row, column]:.0f}"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8 if len(text) < 5 else 6)
    bar = figure.colorbar(image, ax=axes, shrink=0.7, format=PercentFormatter(1, 0))
    bar.set_label("share of the true genre")
    return figure


@styled
def auc_bars(aucs: Mapping[str, Interval], label: str = "AUC-ROC") -> Figure:
    """Each tag's AUC as a bar from chance (0.5), with its interval; tags without an AUC are not shown."""
    known = {name: each for name, each in aucs.items() if each.value is not None}
    ranked = sorted(known, key=lambda name: (-(known[name].value or 0), name))
    shown = _ends(ranked)
    figure, (axes,) = _figure(_bars_in(len(shown)))
    values = np.array([known[name].value for name in shown], np.float64)
    low, high = np.array([(known[name].low, known[name].high) for name in shown], np.float64).T
    rows = np.arange(len(shown))
    axes.barh(rows, values - 0.5, left=0.5, color=BLUE, height=0.72)
    # The AUC of few positives can lie outside the interval of its resamples.
    reach = np.nan_to_num(np.maximum([values - low, high - values], 0))
    axes.errorbar(values, rows, xerr=reach, fmt="none", ecolor=INK, elinewidth=1, capsize=2)
    axes.axvline(0.5, color=INK, linewidth=0.8)
    _tag_axis(axes, shown)
    axes.set_xlim(min(0.45, float(np.nanmin([*values, *low])) - 0.02), 1.005)
    axes.set_xlabel(f"{label} (0.5 is chance), with its 95 % interval" + _cut(ranked, shown))
    return figure


@styled
def tag_distribution(counts: Mapping[str, Mapping[str, int]], tags: Sequence[str]) -> Figure:
    """Each tag's share of the labels of each split, the most common tag first; `counts` are tracks by split and tag."""
    ranked = sorted(tags, key=lambda tag: (-sum(split.get(tag, 0) for split in counts.values()), tag))
    shown = _ends(ranked)
    splits = [name for name in counts if sum(counts[name].values())]
    figure, (axes,) = _figure(_bars_in(len(shown), 0.3))
    height = 0.82 / max(len(splits), 1)
    for index, split in enumerate(splits):
        total = sum(counts[split].values())
        shares = [counts[split].get(tag, 0) / total for tag in shown]
        rows = np.arange(len(shown)) + (index - (len(splits) - 1) / 2) * height
        label = f"{split} ({total:,} labels)"
        axes.barh(rows, shares, height=height, color=(BLUE, ORANGE, GREEN)[index % 3], label=label)
    _tag_axis(axes, shown)
    axes.xaxis.set_major_formatter(PercentFormatter(1, None))
    axes.set_xlabel("share of the split's labels" + _cut(ranked, shown))
    figure.legend(loc="outside upper right", ncols=3)
    return figure


def _look(index: int, marker: str = "") -> dict[str, Any]:
    """Colour, dashes and marker of the line with this index."""
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": DASHES[index % len(DASHES)], "marker": marker}


def _bars_in(bars: int, each_in: float = 0.23) -> float:
    return max(1.8, 1.0 + each_in * bars)


def _ends(ranked: Sequence[str], each: int = MAX_BARS // 2) -> list[str]:
    return list(ranked) if len(ranked) <= 2 * each else [*ranked[:each], *ranked[-each:]]


def _cut(ranked: Sequence[str], shown: Sequence[str]) -> str:
    return "" if len(ranked) == len(shown) else f"\n(the first and last {len(shown) // 2} of {len(ranked):,})"


def _tag_axis(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), [short(name) for name in names], fontsize=9)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(True, axis="x")


@styled
def reliability(truth: Truth, raw: AnyFloatArray, calibrated: AnyFloatArray, bins: int = 10) -> Figure:
    """The share of true tags over the mean score, in bins of the scores of all tags, from [tracks, tags]."""
    from sklearn.calibration import calibration_curve

    figure, (axes,) = _figure(4.2, width_in=5.6)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":")
    for index, (label, scores) in enumerate((("uncalibrated", raw), ("calibrated", calibrated))):
        # The mean of scores of exactly 1 may lie above 1 by a rounding error.
        share, mean = calibration_curve(truth.ravel(), np.clip(scores.ravel(), 0, 1), n_bins=bins)
        axes.plot(mean, share, label=label, **_look(1 - index, MARKERS[index]))
    axes.set(xlabel="mean score of a bin", ylabel="share of true tags", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set_aspect("equal")
    axes.grid(True)
    axes.legend(loc="upper left")
    return figure


@styled
def embedding_map(positions: DoubleArray, labels: Sequence[str]) -> Figure:
    """Tracks at `positions` [tracks, 2], marked by label; beyond 18 labels the rarer ones are "other"."""
    figure, (axes,) = _figure(5.4)
    known = [label for label, _ in sorted(Counter(labels).items(), key=lambda pair: (-pair[1], pair[0])) if label]
    for index, label in enumerate(known[: 3 * len(COLOURS)]):
        rows = [row for row, own in enumerate(labels) if own == label]
        marker = MARKERS[(index + index // len(COLOURS)) % len(MARKERS)]
        look: dict[str, Any] = {"color": COLOURS[index % len(COLOURS)], "marker": marker, "alpha": 0.8, "linewidths": 0}
        axes.scatter(
            positions[rows, 0], positions[rows, 1], s=16 if len(labels) > 200 else 36, label=short(label), **look
        )
    named = set(known[: 3 * len(COLOURS)])
    rest = [row for row, own in enumerate(labels) if own not in named]
    if rest:
        axes.scatter(positions[rest, 0], positions[rest, 1], s=9, color=GREY, marker=".", label="other", zorder=0)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(True)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), markerscale=1.4)
    return figure


def tsne(embeddings: npt.ArrayLike, seed: int = 0) -> DoubleArray:
    """Positions [tracks, 2] by t-SNE (van der Maaten and Hinton 2008) from [tracks, dim]; at least 5 tracks."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    values = np.asarray(embeddings, np.float64)
    values = (values - values.mean(axis=0)) / np.maximum(values.std(axis=0), 1e-9)
    if min(values.shape) > 50:
        values = PCA(50, svd_solver="full").fit_transform(values)
    perplexity = min(30.0, max(2.0, (len(values) - 1) / 3))
    # One thread is three times as fast as two, and sums in the same order every time.
    with threadpool_limits(1):
        model = TSNE(2, perplexity=perplexity, init="random", random_state=seed, n_jobs=1)
        return np.asarray(model.fit_transform(values), np.float64)


@styled
def mel_examples(mels: Sequence[tuple[str, npt.ArrayLike]], frame_s: float) -> Figure:
    """Log-mel spectrograms [n_mels, columns] of frames of `frame_s` seconds, under their titles."""
    rows = -(-len(mels) // 2)
    figure, axes = _figure(0.5 + 1.75 * rows, 2, rows)
    for index, (panel, (title, mel)) in enumerate(zip(axes, mels, strict=False)):
        values = np.asarray(mel, np.float64)
        panel.imshow(values, origin="lower", aspect="auto", cmap="magma", extent=(0, frame_s, 0, len(values)))
        panel.set_title(short(title, 40), fontsize=10)
        panel.set_ylabel("mel band" if index % 2 == 0 else "")
        panel.set_xlabel("seconds" if index >= len(mels) - 2 else "")
    for panel in axes[len(mels) :]:
        panel.set_visible(False)
    return figure


def short(name: str, max_characters: int = 28) -> str:
    """Shorten a label to fit beside a plot, and escape what matplotlib would read as a formula."""
    plain = name.replace("$", r"\$")
    return plain if len(name) <= max_characters else plain[: max_characters - 1] + "…"
