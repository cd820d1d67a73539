"""Classifiers on the embeddings of a frozen backbone: embedding, cross-validation, fit and export as tensors.

Source: Roy et al. 2020 and Wang et al. 2019 (V.G: MFCC with an SVM); the probabilities of SVMs are Platt's (1999).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from musictagger.audio.logmel import LogMel
from musictagger.datasets.base import Example
from musictagger.datasets.splitting import group_of
from musictagger.errors import BadRequestError
from musictagger.evaluation.checks import Truth
from musictagger.evaluation.thresholds import platt
from musictagger.models.backbone import Backbone
from musictagger.models.card import Task
from musictagger.models.fuse import fuse
from musictagger.models.heads import PREFIX, Head
from musictagger.models.inference import BATCH_FRAMES
from musictagger.progress import SILENT, Progress
from musictagger.records import FloatArray
from musictagger.training.heads.classifiers import CLASSIFIERS, Classifier, Params, describe
from musictagger.training.options import TrainOptions
from musictagger.training.windows import Material

HEAD_FRAMES = 8
"""Maximum number of frames of a track that a head is fitted on: more frames of a track add little."""
FOLDS = 3
SEARCH_ROWS = 2_000
"""Embeddings in the search for hyper-parameters. An RBF SVM takes rows^2 of memory and more than that of time: 10
genres x 9 combinations x 3 folds on 2,000 rows take under a minute on one core, on 8,000 a quarter of an hour."""

RARE_TAG_ROWS = 5
"""Embeddings of the rarest tag that are kept, if it has that many, when only some rows are used."""


@dataclass(frozen=True, eq=False)
class FittedHead:
    """A classifier as a model stores it."""

    description: Mapping[str, Any]
    """Card.head without `backbone_outputs`, which `pack` adds. `fitted.notes` are what a reader of the metrics should
    know: unused rows, tags whose probabilities could not be fitted."""
    tensors: Mapping[str, Tensor]
    """By name without the prefix `head.`."""


def train_head(
    backbone: Backbone,
    material: Material,
    examples: Sequence[Example],
    options: TrainOptions,
    device: torch.device,
    progress: Progress,
) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Fit a classifier on the frozen embedding of the training tracks, whose `examples` name their artists.

    Returns the tensors of the model's file and Card.head, or None when stopped. Raises BadRequestError for tracks that
    no classifier can be fitted on.
    """
    progress.start("embedding", len(material.train), "tracks")
    embeddings, numbers = embed_tracks(backbone, material, HEAD_FRAMES, device, progress)
    if progress.stopping:
        return None
    targets, groups = material.train_targets() > 0.5, np.asarray(groups_of(examples))
    rows = LabelledRows.checked(embeddings, targets[numbers], groups[numbers], material.task, material.outputs)
    return pack(backbone, len(material.outputs), fit_head(rows, options, progress))


def embed_tracks(
    backbone: nn.Module, material: Material, max_frames: int, device: torch.device, progress: Progress = SILENT
) -> tuple[FloatArray, npt.NDArray[np.intp]]:
    """Embeddings float32 [frames, dim] of frames of the training tracks, and the number of each frame's track [frames].

    Up to `max_frames` evenly spaced frames of each track are taken, sliced as in a scan, edges included. `progress` is
    advanced by tracks. Once it is stopping, the embeddings so far are returned.
    """
    ready, log_mel = fuse(backbone).to(device), LogMel(material.front_end).to(device)
    embeddings: list[Tensor] = []
    numbers: list[int] = []
    tracks = material.spaced_frames(material.train, max_frames)
    numbered = ((number, frame) for number, frames in tracks for frame in frames)
    while batch := list(islice(numbered, BATCH_FRAMES.get(device.type, 8))):
        mel = torch.from_numpy(np.stack([frame for _, frame in batch])).to(device)
        with torch.inference_mode():
            embeddings.append(ready(log_mel.normalise(mel)).embedding.float().cpu())
        numbers += [number for number, _ in batch]
        progress.advance(numbers[-1] + 1)
        if progress.stopping:
            break
    joined = torch.cat(embeddings).numpy() if embeddings else np.zeros((0, 0), np.float32)
    return joined, np.asarray(numbers, np.intp)


def groups_of(examples: Sequence[Example]) -> list[str]:
    """The group of each track that cross-validation keeps together: its artist or, without one, the track alone."""
    return ["\0".join(group_of(str(example.path), example)) for example in examples]


def pack(backbone: Backbone, outputs: int, head: FittedHead) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors of the model's file, Card.head) of a backbone built with `outputs` outputs and a head on it.

    Raises BadRequestError for a backbone whose own tensors have the names of a head's.
    """
    state = dict(backbone.state_dict())
    if any(name.startswith(PREFIX) for name in state):
        raise BadRequestError(f"backbone {backbone.name} has a module called head, so no head can be stored beside it")
    tensors = state | {PREFIX + name: tensor for name, tensor in head.tensors.items()}
    return tensors, {**head.description, "backbone_outputs": outputs}


@dataclass(frozen=True, eq=False)
class LabelledRows:
    """Embeddings with their labels, of frames or tracks."""

    x: FloatArray
    """float32 [rows, dim]."""
    y: Truth
    """bool [rows, tags], exactly one true in a row for a genre."""
    groups: npt.NDArray[np.intp]
    """[rows]: the number of the group that cross-validation keeps together."""
    task: Task
    names: Sequence[str]
    """Of the tags."""

    @classmethod
    def checked(
        cls, embeddings: npt.ArrayLike, targets: npt.ArrayLike, groups: object, task: Task, names: Sequence[str]
    ) -> LabelledRows:
        """The rows, where `groups` may be any values (see `groups_of`).

        Raises BadRequestError for rows that no classifier can be fitted on.
        """
        x, y = np.asarray(embeddings, np.float32), np.asarray(targets, np.bool_)
        numbers = np.unique(np.asarray(groups), return_inverse=True)[1].reshape(-1)
        if x.ndim != 2 or not x.size or y.shape != (len(x), len(names)) or len(numbers) != len(x):
            raise BadRequestError(
                f"a head cannot be fitted on embeddings {list(x.shape)}, targets {list(y.shape)} and {len(numbers)} "
                f"groups; [rows, dim], [rows, {len(names)} tags] and [rows] are needed, with one row at least"
            )
        if not np.isfinite(x).all():
            raise BadRequestError("a head cannot be fitted: embeddings of the backbone are not finite")
        for name, column in zip(names, y.T, strict=True):
            if column.all() or not column.any():
                rows = "every row has" if column.any() else "no row has"
                raise BadRequestError(f"a head cannot be fitted: {rows} {name!r}; take it out, or add other tracks")
        if numbers.max() < 1:
            raise BadRequestError("a head cannot be fitted on a single group (track or artist), which leaves no test")
        return cls(x, y, numbers, task, names)

    def sample(self, max_rows: int, seed: int) -> LabelledRows:
        """At most `max_rows` rows, a few of every tag among them."""
        if max_rows >= len(self.x):
            return self
        shuffled = np.random.default_rng(seed).permutation(len(self.x))
        rare = [shuffled[self.y[shuffled, tag]][:RARE_TAG_ROWS] for tag in range(self.y.shape[1])]
        first = np.concatenate([*rare, shuffled])
        order = first[np.sort(np.unique(first, return_index=True)[1])]
        rows = np.sort(order[: max(max_rows, len(np.unique(np.concatenate(rare))))])
        return LabelledRows(self.x[rows], self.y[rows], self.groups[rows], self.task, self.names)


def fit_head(rows: LabelledRows, options: TrainOptions, progress: Progress = SILENT) -> FittedHead:
    """The classifier of a small grid with the best accuracy (genre) or mean AUC (tags) in cross-validation over groups.

    The options give its kind, the seed, and whether rare tags count as much as frequent ones. It is fitted on all
    rows, and the same rows and options give the same head.
    """
    classifier = CLASSIFIERS[options.head]
    notes: list[str] = []
    if classifier.max_rows is not None and classifier.max_rows < len(rows.x):
        notes.append(
            f"head fitted on {classifier.max_rows:,} of {len(rows.x):,} rows: more take too much memory and time"
        )
        rows = rows.sample(classifier.max_rows, options.seed)
    # On such small matrices threads mostly wait for each other: 20 times as long beside other work. One thread also
    # adds up in one order, so that the head does not depend on the number of cores.
    with threadpool_limits(1, user_api="blas"):
        params, value = _search(classifier, rows.sample(SEARCH_ROWS, options.seed), options)
        head = classifier.fit(rows.x, rows.y, params, rows.task, options.class_weights)
        if classifier.calibrated:
            notes += _calibrate(head, _held_out(classifier, rows, params, options), rows)
    metric = "accuracy" if rows.task == "genre" else "auc"
    chosen = ", ".join(f"{name} {number:g}" for name, number in params.items())
    for line in (f"{options.head}: {chosen}; {metric} {value:.3f} of rows in cross-validation", *notes):
        progress.say(line)
    fitted = {"head": options.head, **params, f"cv_{metric}": round(value, 4), "rows": len(rows.x), "notes": notes}
    return FittedHead({**describe(head), "fitted": fitted}, head.state_dict())


def _search(classifier: Classifier, rows: LabelledRows, options: TrainOptions) -> tuple[Params, float]:
    """The best of the grid and its metric; of two equally good ones the earlier, which is the simpler."""
    best: tuple[Params, float] | None = None
    for params in classifier.grid(rows.x):
        value = _metric(_held_out(classifier, rows, params, options), rows)
        if best is None or value > best[1] + 1e-6:
            best = params, value
    assert best is not None
    return best


def _held_out(
    classifier: Classifier, rows: LabelledRows, params: Params, options: TrainOptions
) -> npt.NDArray[np.float64]:
    """Margins [rows, tags] of each row, by a head fitted on the other folds; NaN for tags that they cannot fit."""
    margins = np.full(rows.y.shape, np.nan)
    for held in group_folds(rows.y, rows.groups, FOLDS, options.seed):
        x, y = rows.x[~held], rows.y[~held]
        able = y.any(axis=0) & ~y.all(axis=0)
        if not able.any():
            continue
        head = classifier.fit(x, y[:, able], params, rows.task, options.class_weights)
        margins[np.ix_(held, able)] = head_margins(head, rows.x[held])
    return margins


def head_margins(head: Head, x: FloatArray, batch_rows: int = 1024) -> FloatArray:
    """`head.margins` of float32 [n, dim] -> [n, tags], in batches."""
    with torch.inference_mode():
        margins: FloatArray = torch.cat(
            [head.margins(rows) for rows in torch.split(torch.from_numpy(x), batch_rows)]
        ).numpy()
    return margins


def group_folds(y: Truth, groups: npt.NDArray[np.intp], folds: int, seed: int) -> list[npt.NDArray[np.bool_]]:
    """The held-out rows of each fold, bool [rows]; a group is in one fold, each tag in as many as possible.

    Groups are placed one by one, those with the rarest tags first, where their tags are fewest so far. Not
    scikit-learn's StratifiedGroupKFold, which takes one class a row where tracks have several tags.
    """
    count = int(groups.max()) + 1
    tags = np.zeros((count, y.shape[1]))
    np.add.at(tags, groups, y)
    shares = tags / np.maximum(y.sum(axis=0), 1)
    sizes = np.bincount(groups, minlength=count) / len(groups)
    shuffled = np.random.default_rng(seed).permutation(count)
    order = shuffled[np.argsort(-shares.max(axis=1)[shuffled], kind="stable")]
    filled = np.zeros((min(folds, count), y.shape[1] + 1))
    fold_of = np.zeros(count, np.intp)
    for group in order[sizes[order] > 0]:
        share = np.append(shares[group], sizes[group])
        fold_of[group] = np.argmin(filled @ share)
        filled[fold_of[group]] += share
    held = [(fold_of == fold)[groups] for fold in range(len(filled))]
    return [rows for rows in held if rows.any() and not rows.all()]


def _metric(margins: npt.NDArray[np.float64], rows: LabelledRows) -> float:
    if rows.task == "genre":
        scored = ~np.isnan(margins).all(axis=1)
        best = np.where(np.isnan(margins), -np.inf, margins)[scored].argmax(axis=1)
        return float(rows.y[scored, best].mean()) if scored.any() else 0.0
    values = []
    for column, truth in zip(margins.T, rows.y.T, strict=True):
        known = ~np.isnan(column)
        if truth[known].any() and not truth[known].all():
            values.append(roc_auc_score(truth[known], column[known]))
    return float(np.mean(values)) if values else 0.5


def _calibrate(head: Head, margins: npt.NDArray[np.float64], rows: LabelledRows) -> list[str]:
    """Set the head's slopes and offsets by Platt's method; return a note on the tags for which that is impossible."""
    unfitted = []
    for tag, name in enumerate(rows.names):
        known = ~np.isnan(margins[:, tag])
        truth = rows.y[known, tag]
        if truth.any() and not truth.all():
            head.slope[tag], head.offset[tag] = platt(margins[known, tag], truth)
        else:
            unfitted.append(name)
    names = ", ".join(unfitted)
    note = f"too few tracks or artists to fit probabilities for {names}: their margins are used as log-odds"
    return [note] if unfitted else []
