"""Classifiers on the embeddings of a frozen backbone: embed, choose by cross-validation, fit, hand over as tensors.

Source: Roy et al. 2020 and Wang et al. 2019 (V.G: MFCC with an SVM); the SVMs' probabilities are Platt's (1999).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from musictagger.audio.frontend import FrontEnd
from musictagger.audio.logmel import LogMel
from musictagger.datasets.base import Example
from musictagger.datasets.splitting import Item
from musictagger.errors import BadRequestError
from musictagger.evaluation.checks import Truth
from musictagger.evaluation.thresholds import platt
from musictagger.models.backbone import Backbone
from musictagger.models.card import Task
from musictagger.models.fuse import fuse
from musictagger.models.heads import PREFIX, Head
from musictagger.models.inference import BATCH_FRAMES
from musictagger.records import FloatArray
from musictagger.training.heads.classifiers import FITS, HeadFit
from musictagger.training.windows import ReadMel, Track, spaced_frames

FittedKind = Literal["svm", "logistic", "knn"]
"""svm is an RBF SVM."""

SEARCH_ROWS = 2_000
"""Embeddings that hyper-parameters are looked for on. An RBF SVM takes rows^2 of memory and more than that of time:
10 genres x 9 combinations x 3 folds on 2,000 rows are under a minute on one core, on 8,000 a quarter of an hour."""
MOST_ROWS = 8_000
"""Embeddings that an RBF SVM is fitted on unless told otherwise: its kernel takes 8 bytes x rows^2, here 0.5 GB."""
LEAST_OF_A_TAG = 5
"""Embeddings of the rarest tag that stay when only some are taken, as far as there are so many."""
FOLDS = 3


@dataclass(frozen=True, eq=False)
class Embedded:
    """Embeddings of frames."""

    embeddings: FloatArray
    """float32 [frames, dim], track after track."""
    tracks: npt.NDArray[np.intp]
    """[frames]: the position of each frame's track in what was asked for."""


@dataclass(frozen=True, eq=False)
class FittedHead:
    """A classifier as a model keeps it."""

    description: Mapping[str, Any]
    """What becomes Card.head, `backbone_outputs` included only by `pack`."""
    tensors: Mapping[str, Tensor]
    """By name without the prefix `head.`."""
    notes: tuple[str, ...] = ()
    """What a reader of the figures should know: rows left out, tags whose probabilities could not be fitted."""


def embed_tracks(
    backbone: nn.Module,
    front_end: FrontEnd,
    read_mel: ReadMel,
    tracks: Sequence[Track],
    *,
    device: torch.device | str = "cpu",
    batch_frames: int | None = None,
    most: int = 1_000_000,
    advance: Callable[[int], None] = lambda done: None,
    stop: Callable[[], bool] = lambda: False,
) -> Embedded:
    """Embeddings of the frames of cached tracks: side by side as a scan slices them, a short track repeated.

    `most` frames of a track at most, evenly spaced. `advance` is told how many tracks are done. Edges are not trimmed.
    Once `stop` says True, no batch is begun; what is there by then is returned.
    """
    device = torch.device(device)
    ready, log_mel = fuse(backbone).to(device), LogMel(front_end).to(device)
    embeddings: list[Tensor] = []
    numbers: list[int] = []
    size = batch_frames or BATCH_FRAMES.get(device.type, 8)
    for batch in _batches(spaced_frames(tracks, read_mel, front_end, most), size):
        mel = torch.from_numpy(np.stack([frame for _, frame in batch])).to(device)
        with torch.inference_mode():
            embeddings.append(ready(log_mel.normalise(mel)).embedding.float().cpu())
        numbers += [number for number, _ in batch]
        advance(numbers[-1] + 1)
        if stop():
            break
    joined = torch.cat(embeddings).numpy() if embeddings else np.zeros((0, 0), np.float32)
    return Embedded(joined, np.asarray(numbers, np.intp))


def _batches(tracks: Iterable[tuple[int, list[FloatArray]]], size: int) -> Iterator[list[tuple[int, FloatArray]]]:
    batch: list[tuple[int, FloatArray]] = []
    for number, frames in tracks:
        for frame in frames:
            batch.append((number, frame))
            if len(batch) == size:
                yield batch
                batch = []
    if batch:
        yield batch


def groups_of(examples: Sequence[Example]) -> list[str]:
    """For each track what cross-validation keeps together with it: its artist, or the track alone."""
    return ["\0".join(Item(str(example.path), (), example.artist).group) for example in examples]


def pack(backbone: Backbone, outputs: int, head: FittedHead) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors of the model's file, Card.head) of a backbone built with `outputs` outputs and a head on it.

    Raises BadRequestError for a backbone whose own tensors have the names of a head's.
    """
    state = dict(backbone.state_dict())
    if any(name.startswith(PREFIX) for name in state):
        raise BadRequestError(f"backbone {backbone.name} has a part called head, so no head can be stored beside it")
    tensors = state | {PREFIX + name: tensor for name, tensor in head.tensors.items()}
    return tensors, {**head.description, "backbone_outputs": outputs}


def fit_head(
    kind: FittedKind,
    embeddings: npt.ArrayLike,
    targets: npt.ArrayLike,
    groups: Sequence[str] | npt.NDArray[Any],
    *,
    task: Task,
    names: Sequence[str],
    seed: int = 0,
    class_weights: bool = False,
    folds: int = FOLDS,
    search_rows: int = SEARCH_ROWS,
    most_rows: int | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> FittedHead:
    """The classifier that cross-validation over `groups` finds best among a small grid, fitted on all rows.

    embeddings: float32 [rows, dim], of frames or tracks. targets: bool [rows, tags], exactly one true a row for a
    genre. groups: [rows], what may not be torn apart (see `groups_of`). The figure compared is the accuracy (genre)
    or the mean AUC (tags) over rows. `class_weights`: a rare tag counts as much as a frequent one (not for knn).
    The same rows and seed give the same head. Raises BadRequestError for rows nothing can be learnt from.
    """
    if kind not in FITS:
        raise BadRequestError(f"there is no head {kind!r} (there are: {', '.join(FITS)})")
    fit = FITS[kind]
    data = _Rows.checked(embeddings, targets, groups, task, names)
    notes: list[str] = []
    most = most_rows or (MOST_ROWS if kind == "svm" else None)
    if most is not None and most < len(data.x):
        notes.append(f"head fitted on {most:,} of {len(data.x):,} rows: more take too much memory and time")
        data = data.some(most, seed)
    # On such small matrices threads mostly wait for each other: 20 times as long beside other work. And one thread adds
    # up in one order, so the head does not depend on the number of cores.
    with threadpool_limits(1, user_api="blas"):
        params, figure = _search(fit, data.some(search_rows, seed), task, folds, class_weights, seed)
        head = fit.fit(data.x, data.y, params, task, class_weights)
        if fit.calibrated:
            margins = _held_out(fit, data, params, task, folds, class_weights, seed)
            notes += _calibrate(head, margins, data.y, names)
    measure = "accuracy" if task == "genre" else "auc"
    chosen = ", ".join(f"{name} {value:g}" for name, value in params.items())
    say(f"{kind}: {chosen}; {measure} {figure:.3f} of rows in cross-validation")
    for note in notes:
        say(note)
    fitted = {"head": kind, **params, f"cv_{measure}": round(figure, 4), "rows": len(data.x), "notes": notes}
    return FittedHead({**fit.describe(head), "fitted": fitted}, head.state_dict(), tuple(notes))


@dataclass(frozen=True, eq=False)
class _Rows:
    x: FloatArray
    y: Truth
    groups: npt.NDArray[np.intp]

    @classmethod
    def checked(
        cls, embeddings: npt.ArrayLike, targets: npt.ArrayLike, groups: object, task: Task, names: Sequence[str]
    ) -> _Rows:
        """Raises BadRequestError for what no classifier can be fitted on."""
        x, y = np.asarray(embeddings, np.float32), np.asarray(targets, np.bool_)
        numbers = np.unique(np.asarray(groups), return_inverse=True)[1].reshape(-1)
        if x.ndim != 2 or not x.size or y.shape != (len(x), len(names)) or len(numbers) != len(x):
            raise BadRequestError(
                f"a head cannot be fitted on embeddings {list(x.shape)}, targets {list(y.shape)} and {len(numbers)} "
                f"groups; [rows, dim], [rows, {len(names)} tags] and [rows] are needed, with one row at least"
            )
        if not np.isfinite(x).all():
            raise BadRequestError("a head cannot be fitted: the backbone gives embeddings that are not finite numbers")
        if task == "genre" and not (y.sum(axis=1) == 1).all():
            raise BadRequestError("a head for one genre needs rows with exactly one genre each")
        for name, column in zip(names, y.T, strict=True):
            if column.all() or not column.any():
                what = "every row has" if column.any() else "no row has"
                raise BadRequestError(f"a head cannot be fitted: {what} {name!r}; take it out, or add other tracks")
        if numbers.max() < 1:
            raise BadRequestError("a head cannot be fitted on a single group (track or artist): nothing to judge it on")
        return cls(x, y, numbers)

    def some(self, most: int, seed: int) -> _Rows:
        """At most `most` rows, a few of every tag among them; all of them where there are no more."""
        if most >= len(self.x):
            return self
        shuffled = np.random.default_rng(seed).permutation(len(self.x))
        rare = [shuffled[self.y[shuffled, tag]][:LEAST_OF_A_TAG] for tag in range(self.y.shape[1])]
        first = np.concatenate([*rare, shuffled])
        order = first[np.sort(np.unique(first, return_index=True)[1])]
        rows = np.sort(order[: max(most, len(np.unique(np.concatenate(rare))))])
        return _Rows(self.x[rows], self.y[rows], self.groups[rows])


def _search(
    fit: HeadFit, data: _Rows, task: Task, folds: int, class_weights: bool, seed: int
) -> tuple[dict[str, float], float]:
    """The best of the grid and its figure; the earlier one, which is the simpler, where two are as good."""
    best: tuple[dict[str, float], float] | None = None
    for params in fit.grid(data.x):
        margins = _held_out(fit, data, params, task, folds, class_weights, seed)
        figure = _figure(margins, data.y, task)
        if best is None or figure > best[1] + 1e-6:
            best = params, figure
    assert best is not None
    return best


def _held_out(
    fit: HeadFit, data: _Rows, params: Mapping[str, float], task: Task, folds: int, class_weights: bool, seed: int
) -> npt.NDArray[np.float64]:
    """Margins [rows, tags] of each row by a head fitted on the other folds; NaN where a tag cannot be learnt."""
    margins = np.full(data.y.shape, np.nan)
    for held in split_groups(data.y, data.groups, folds, seed):
        x, y = data.x[~held], data.y[~held]
        able = y.any(axis=0) & ~y.all(axis=0)
        if not able.any():
            continue
        head = fit.fit(x, y[:, able], params, task, class_weights)
        margins[np.ix_(held, able)] = head_margins(head, data.x[held])
    return margins


def head_margins(head: Head, x: FloatArray, rows: int = 1024) -> FloatArray:
    """`head.margins` of float32 [n, dim] -> [n, tags], some rows at a time."""
    with torch.inference_mode():
        parts = [head.margins(torch.from_numpy(x[start : start + rows])) for start in range(0, len(x), rows)]
    joined: FloatArray = torch.cat(parts).numpy()
    return joined


def split_groups(y: Truth, groups: npt.NDArray[np.intp], folds: int, seed: int) -> list[npt.NDArray[np.bool_]]:
    """For each fold which rows are held out, bool [rows]; a group lies in one fold, each tag in as many as it can.

    Groups are placed one by one, those with the rarest tags first, where their tags are fewest so far.
    """
    count = int(groups.max()) + 1
    tags = np.zeros((count, y.shape[1]))
    np.add.at(tags, groups, y)
    wants = tags / np.maximum(y.sum(axis=0), 1)
    sizes = np.bincount(groups, minlength=count) / len(groups)
    shuffled = np.random.default_rng(seed).permutation(count)
    order = shuffled[np.argsort(-wants.max(axis=1)[shuffled], kind="stable")]
    has = np.zeros((min(folds, count), y.shape[1] + 1))
    place = np.zeros(count, np.intp)
    for group in order[sizes[order] > 0]:
        share = np.append(wants[group], sizes[group])
        place[group] = np.argmin(has @ share)
        has[place[group]] += share
    held = [(place == fold)[groups] for fold in range(len(has))]
    return [rows for rows in held if rows.any() and not rows.all()]


def _figure(margins: npt.NDArray[np.float64], y: Truth, task: Task) -> float:
    if task == "genre":
        track_scores = ~np.isnan(margins).all(axis=1)
        best = np.where(np.isnan(margins), -np.inf, margins)[track_scores].argmax(axis=1)
        return float(y[track_scores, best].mean()) if track_scores.any() else 0.0
    values = []
    for column, truth in zip(margins.T, y.T, strict=True):
        known = ~np.isnan(column)
        if truth[known].any() and not truth[known].all():
            values.append(roc_auc_score(truth[known], column[known]))
    return float(np.mean(values)) if values else 0.5


def _calibrate(head: Head, margins: npt.NDArray[np.float64], y: Truth, names: Sequence[str]) -> list[str]:
    """Put Platt's slope and offset into the head; a note of the tags for which there is nothing to fit them on."""
    without = []
    for tag, name in enumerate(names):
        known = ~np.isnan(margins[:, tag])
        truth = y[known, tag]
        if not truth.any() or truth.all():
            without.append(name)
            continue
        slope, offset = platt(margins[known, tag], truth)
        head.slope[tag], head.offset[tag] = slope, offset
    if not without:
        return []
    return [
        f"too few tracks or artists to fit probabilities for {', '.join(without)}: their margins are taken as log-odds"
    ]
