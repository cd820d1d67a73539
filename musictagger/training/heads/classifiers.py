"""The kinds of heads: their hyper-parameters, scikit-learn's classifier, and the tensors that reproduce it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

from musictagger.evaluation.checks import Truth
from musictagger.models.card import Task
from musictagger.models.heads import Head, KernelHead, LinearHead, NeighbourHead, rbf
from musictagger.records import FloatArray
from musictagger.training.options import HeadKind

Params = Mapping[str, float]


@dataclass(frozen=True)
class Classifier:
    """One kind of head."""

    grid: Callable[[FloatArray], Iterator[Params]]
    """Hyper-parameters to try on embeddings [rows, dim], the simplest first."""
    fit: Callable[[FloatArray, Truth, Params, Task, bool], Head]
    """(embeddings [rows, dim], truth [rows, tags] with both values in each column, hyper-parameters, task,
    class weights) -> head without Platt's slope and offset."""
    calibrated: bool = False
    """Whether its margins need Platt's slope and offset to become log-odds."""
    max_rows: int | None = None
    """Upper limit of the embeddings that it is fitted on."""


def describe(head: Head) -> dict[str, Any]:
    """The description from which `build_head` builds the same head."""
    shared = {"dim": len(head.mean), "normalise": head.normalise}
    if isinstance(head, KernelHead):
        return {"kind": "kernel", **shared, "support": len(head.vectors), "gamma": head.gamma}
    if isinstance(head, NeighbourHead):
        return {"kind": "neighbours", **shared, "stored": len(head.vectors), "k": head.k}
    return {"kind": "linear", **shared}


def _standardise(head: Head, x: FloatArray) -> npt.NDArray[np.float64]:
    """Set the head's mean and deviation to those of x [rows, dim], and return x standardised by them, as float32."""
    deviation = x.std(axis=0, dtype=np.float64)
    # Dividing a constant feature by its rounding errors would make it seem informative.
    deviation[deviation <= 1e-6 * np.abs(x).max(axis=0, initial=0.0)] = 1.0
    head.mean.copy_(torch.from_numpy(x.mean(axis=0, dtype=np.float64)))
    head.deviation.copy_(torch.from_numpy(deviation))
    return head.standardised(torch.from_numpy(x)).double().numpy()


def _logistic_grid(x: FloatArray) -> Iterator[Params]:
    return ({"C": c} for c in (0.1, 0.01, 0.001, 1.0))


def _logistic(x: FloatArray, y: Truth, params: Params, task: Task, balanced: bool) -> Head:
    """Multinomial for a genre, one regression per tag otherwise. Source: scikit-learn's LogisticRegression."""
    head = LinearHead(x.shape[1], y.shape[1])
    scaled = _standardise(head, x)
    weights = "balanced" if balanced else None

    def fitted(truth: npt.NDArray[Any]) -> LogisticRegression:
        model = LogisticRegression(C=params["C"], tol=1e-5, max_iter=2000, class_weight=weights)
        return model.fit(scaled, truth)

    if task == "tags" or y.shape[1] < 3:
        models = [fitted(column) for column in y.T]
        weight, bias = np.stack([m.coef_[0] for m in models]), np.stack([m.intercept_[0] for m in models])
        if task == "genre":
            # The regressions of two genres mirror each other, so half of each makes the softmax equal to either.
            weight, bias = weight / 2, bias / 2
    else:
        model = fitted(y.argmax(axis=1))
        weight, bias = model.coef_, model.intercept_
    head.weight.copy_(torch.from_numpy(weight))
    head.bias.copy_(torch.from_numpy(bias))
    return head


def _svm_grid(x: FloatArray) -> Iterator[Params]:
    # Standardised embeddings are 2 * dim apart (squared) on average: gamma = 1 / dim is scikit-learn's "scale".
    for c, width in itertools.product((1.0, 10.0, 100.0), (1.0, 0.25, 4.0)):
        yield {"C": c, "gamma": width / x.shape[1]}


def _svm(x: FloatArray, y: Truth, params: Params, task: Task, balanced: bool) -> Head:
    """One RBF SVM per tag, all on one kernel matrix. Source: scikit-learn's SVC."""
    empty = KernelHead(x.shape[1], y.shape[1], 1, params["gamma"])
    scaled = torch.from_numpy(_standardise(empty, x))
    kernel = rbf(scaled, scaled, params["gamma"]).numpy()
    dual = np.zeros((y.shape[1], len(x)))
    intercepts = np.zeros(y.shape[1])
    weights = "balanced" if balanced else None
    for tag, column in enumerate(y.T):
        model = SVC(C=params["C"], kernel="precomputed", class_weight=weights, cache_size=400, tol=1e-5)
        model.fit(kernel, column)
        dual[tag, model.support_] = model.dual_coef_[0]
        intercepts[tag] = model.intercept_[0]
    used = np.flatnonzero(dual.any(axis=0))
    head = KernelHead(x.shape[1], y.shape[1], len(used), params["gamma"], normalise=task == "genre")
    head.mean.copy_(empty.mean)
    head.deviation.copy_(empty.deviation)
    head.vectors.copy_(scaled[used])
    head.dual.copy_(torch.from_numpy(dual[:, used]))
    head.intercept.copy_(torch.from_numpy(intercepts))
    return head


def _knn_grid(x: FloatArray) -> Iterator[Params]:
    # The search fits on a fraction of these rows, which k must not exceed.
    return ({"k": k} for k in (20, 10, 5, 40, 80) if k <= max(5, len(x) // 4))


def _knn(x: FloatArray, y: Truth, params: Params, task: Task, balanced: bool) -> Head:
    """All rows are stored. Class weights have no effect on neighbours."""
    k = min(int(params["k"]), len(x))
    head = NeighbourHead(x.shape[1], y.shape[1], len(x), k, normalise=task == "genre")
    head.vectors.copy_(torch.nn.functional.normalize(torch.from_numpy(_standardise(head, x))))
    head.labels.copy_(torch.from_numpy(y))
    head.prior.copy_(torch.from_numpy(y.mean(axis=0)))
    return head


CLASSIFIERS: Mapping[HeadKind, Classifier] = {
    # The kernel takes 8 bytes x rows^2, here 0.5 GB.
    "svm": Classifier(_svm_grid, _svm, calibrated=True, max_rows=8_000),
    "logistic": Classifier(_logistic_grid, _logistic),
    "knn": Classifier(_knn_grid, _knn),
}
