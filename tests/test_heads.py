"""Heads: fitted on embeddings, stored without pickle, and with the scores of scikit-learn in a scan."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pytest
import torch
from conftest import mine_card, plugin_folder
from safetensors import safe_open
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC

from musictagger.audio.frontend import FrontEnd
from musictagger.audio.logmel import LogMel
from musictagger.datasets.base import Example
from musictagger.errors import BadRequestError, ModelError
from musictagger.evaluation.thresholds import platt
from musictagger.models.card import Tag, Task
from musictagger.models.fuse import fuse
from musictagger.models.heads import NEAR, PRIOR_VOTES, LinearHead, WithHead, build_head
from musictagger.models.inference import BATCH_FRAMES, Predictor
from musictagger.models.registry import build
from musictagger.models.weights import load_model, save_weights
from musictagger.progress import Progress
from musictagger.training.heads import fit
from musictagger.training.heads.classifiers import CLASSIFIERS
from musictagger.training.heads.fit import (
    FittedHead,
    LabelledRows,
    embed_tracks,
    fit_head,
    group_folds,
    groups_of,
    head_margins,
    pack,
)
from musictagger.training.options import HeadKind, TrainOptions
from musictagger.training.windows import Material, Track

FRONT_END = FrontEnd(frame_hops=60)
KINDS = tuple(CLASSIFIERS)
TASKS: tuple[Task, ...] = get_args(Task)
NAMES = ("dull", "middling", "bright")
FloatArray = npt.NDArray[Any]


@dataclass(frozen=True)
class Noise:
    """Frames of noise in three colours, two a track, with the embeddings of `mine`, their colours and tracks."""

    waves: list[npt.NDArray[np.float32]]
    x: npt.NDArray[np.float32]
    colour: npt.NDArray[np.intp]
    groups: npt.NDArray[np.intp]

    def targets(self, task: Task) -> npt.NDArray[np.bool_]:
        """[rows, 3]: one colour each, or as tags two at a time."""
        genre = np.eye(3, dtype=np.bool_)[self.colour]
        return genre if task == "genre" else genre | np.roll(genre, 1, axis=1)


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plugin_folder(tmp_path_factory.mktemp("user"))


@pytest.fixture(scope="module")
def material(plugins: Path) -> Noise:
    random = np.random.default_rng(7)
    colour = np.repeat(random.integers(0, 3, 60), 2)
    waves = []
    for kind in colour:
        noise = np.fft.rfft(random.normal(0, 0.05, FRONT_END.frame_samples))
        tilt = np.linspace(0.02, 1, len(noise)) ** ((1 - kind) * 0.2 + random.normal(0, 0.1))
        waves.append(np.fft.irfft(noise * tilt, FRONT_END.frame_samples).astype(np.float32))
    with torch.inference_mode():
        mel = LogMel(FRONT_END)(torch.from_numpy(np.stack(waves)))
        x = build("mine", 3, {}, [plugins])(mel).embedding.numpy()
    return Noise(waves, x, colour, np.arange(120) // 2)


class Reporter(Progress):
    """Keeps messages and progress."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.done: list[int] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def advance(self, done: int, **metrics: float) -> None:
        self.done.append(done)


FITTED: dict[tuple[str, str], FittedHead] = {}


def fitted(material: Noise, kind: HeadKind, task: Task) -> FittedHead:
    """Fitted on the first 90 rows, once a session."""
    if (kind, task) not in FITTED:
        train = slice(0, 90)
        targets = material.targets(task)[train]
        rows = LabelledRows.checked(material.x[train], targets, material.groups[train], task, NAMES)
        FITTED[kind, task] = fit_head(rows, TrainOptions(head=kind, seed=3))
    return FITTED[kind, task]


def save(folder: Path, plugins: Path, head: FittedHead, task: Task, **description: Any) -> Path:
    """A model of `mine`, whose own dense layer has 7 outputs, with a head."""
    torch.manual_seed(1)
    tensors, card_head = pack(build("mine", 7, {}, [plugins]), 7, head)
    weights = folder / "headed.safetensors"
    digest = save_weights(tensors, weights)
    tags = tuple(Tag(name, "genre", (name,), 0.5) for name in NAMES)
    card = mine_card(
        name="headed", outputs=NAMES, tags=tags, task=task, weights_sha256=digest, head={**card_head, **description}
    )
    card.save(weights.with_suffix(".json"))
    return weights


def sklearn_scores(material: Noise, kind: HeadKind, task: Task, head: FittedHead) -> FloatArray:
    """The scores that scikit-learn's own classifiers give the last 30 rows, [30, 3]."""
    scaled = ((material.x - head.tensors["mean"].numpy()) / head.tensors["deviation"].numpy()).astype(np.float64)
    x, y, test = scaled[:90], material.targets(task)[:90], scaled[90:]
    chosen = head.description["fitted"]
    if kind == "knn":
        shares = neighbours(x, y, test, task, chosen["k"])
        return np.asarray((chosen["k"] * shares + PRIOR_VOTES * y.mean(axis=0)) / (chosen["k"] + PRIOR_VOTES))
    if kind == "logistic":
        if task == "genre":
            return np.asarray(logistic(chosen["C"]).fit(x, y.argmax(axis=1)).predict_proba(test))
        return np.stack([logistic(chosen["C"]).fit(x, column).predict_proba(test)[:, 1] for column in y.T], axis=1)
    margins = np.stack([svm(chosen).fit(x, column).decision_function(test) for column in y.T], axis=1)
    own: FloatArray = 1 / (1 + np.exp(-(head.tensors["slope"].numpy() * margins + head.tensors["offset"].numpy())))
    return own / own.sum(axis=1, keepdims=True) if task == "genre" else own


def logistic(c: float) -> LogisticRegression:
    return LogisticRegression(C=c, tol=1e-5, max_iter=2000)


def svm(chosen: Mapping[str, Any]) -> SVC:
    return SVC(C=chosen["C"], gamma=chosen["gamma"], tol=1e-5)


def neighbours(x: FloatArray, y: npt.NDArray[np.bool_], test: FloatArray, task: Task, k: int) -> FloatArray:
    model = KNeighborsClassifier(k, metric="cosine", algorithm="brute", weights=lambda distance: 1 / (distance + NEAR))
    if task == "genre":
        return np.asarray(model.fit(x, y.argmax(axis=1)).predict_proba(test))
    return np.stack([model.fit(x, column).predict_proba(test)[:, 1] for column in y.T], axis=1)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_gives_the_scores_of_scikit_learn(
    kind: HeadKind, task: Task, material: Noise, plugins: Path, tmp_path: Path
) -> None:
    head = fitted(material, kind, task)
    model = load_model(save(tmp_path, plugins, head, task), [plugins])
    found = Predictor(model, "cpu")(material.waves[90:])
    np.testing.assert_allclose(found.embedding, material.x[90:], atol=1e-5)
    np.testing.assert_allclose(found.scores, sklearn_scores(material, kind, task, head), atol=1e-5)
    truth = material.targets(task)[90:]
    assert roc_auc_score(truth, found.scores) > (0.85 if task == "genre" else 0.75)
    if task == "genre":
        np.testing.assert_allclose(found.scores.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_heads_are_stored_as_safetensors_and_json(
    kind: HeadKind, material: Noise, plugins: Path, tmp_path: Path
) -> None:
    head = fitted(material, kind, "tags")
    weights = save(tmp_path, plugins, head, "tags")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["headed.json", "headed.safetensors"]
    with safe_open(weights, "pt") as file:
        names = set(file.keys())
    assert names == {"dense.weight", "dense.bias", *(f"head.{name}" for name in head.tensors)}
    size = int.from_bytes(weights.read_bytes()[:8], "little")
    entries = json.loads(weights.read_bytes()[8 : 8 + size])
    assert weights.stat().st_size == 8 + size + max(entry["data_offsets"][1] for entry in entries.values())
    assert json.loads(json.dumps(head.description)) == head.description


def test_the_backbone_below_a_head_is_available(material: Noise, plugins: Path, tmp_path: Path) -> None:
    model = load_model(save(tmp_path, plugins, fitted(material, "logistic", "tags"), "tags"), [plugins])
    assert isinstance(model.backbone, WithHead)
    assert not model.backbone.training
    assert model.bare is model.backbone.backbone
    assert model.bare.state_dict()["dense.weight"].shape == (7, 96)


def test_a_backbone_below_a_head_is_fused(material: Noise) -> None:
    torch.manual_seed(4)
    backbone = build("fcn", 5, {"n_mels": 96, "channels": [4, 6], "pools": [[4, 4], [4, 4]]})
    plain = WithHead(backbone, LinearHead(6, 3)).eval()
    torch.nn.init.normal_(plain.head.weight)  # type: ignore[arg-type]
    mel = torch.randn(2, 96, 61)
    fast = fuse(plain)
    torch.testing.assert_close(fast(mel).logits, plain(mel).logits, atol=1e-4, rtol=1e-4)
    assert "FusedConvBlock" in {type(module).__name__ for module in fast.modules()}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "forest"}, "unknown kind 'forest'"),
        ({"kind": None}, "unknown kind None"),
        ({"dim": 0}, "dim must be a whole number"),
        ({"dim": 95}, "does not fit backbone mine"),
        ({"support": True}, "support must be a whole number"),
        ({"gamma": -1}, "gamma must be a finite number above 0, not -1"),
        ({"gamma": "wide"}, "gamma must be a finite number above 0, not 'wide'"),
        ({"normalise": 1}, "normalise must be true or false"),
        ({"trees": 4}, "has unknown fields: trees"),
        ({"backbone_outputs": None}, "backbone_outputs must be a whole number"),
        ({"backbone_outputs": 3}, "does not fit backbone mine"),
        ({"kind": "linear"}, "has unknown fields: gamma, support"),
    ],
)
def test_an_invalid_description_is_refused_with_the_file(
    changes: dict[str, Any], message: str, material: Noise, plugins: Path, tmp_path: Path
) -> None:
    weights = save(tmp_path, plugins, fitted(material, "svm", "tags"), "tags", **changes)
    with pytest.raises(ModelError) as caught:
        load_model(weights, [plugins])
    assert str(caught.value).startswith(str(weights))
    assert message in str(caught.value)


def test_a_card_without_a_head_does_not_take_a_file_with_one(material: Noise, plugins: Path, tmp_path: Path) -> None:
    weights = save(tmp_path, plugins, fitted(material, "svm", "tags"), "tags")
    card = weights.with_suffix(".json")
    for head, message in (
        (None, "does not fit backbone mine"),
        ([1], r"head must be a mapping of names to values, not \[1\]"),
        ({}, "unknown kind"),
    ):
        card.write_text(json.dumps({**json.loads(card.read_text()), "head": head}))
        with pytest.raises(ModelError, match=message):
            load_model(weights, [plugins])


def test_an_incomplete_description_is_refused() -> None:
    with pytest.raises(ModelError, match="lacks support, gamma"):
        build_head({"kind": "kernel", "dim": 3, "normalise": False}, 2)
    with pytest.raises(ModelError, match="k is 5, but only 4"):
        build_head({"kind": "neighbours", "dim": 3, "normalise": False, "stored": 4, "k": 5}, 2)


def test_a_head_refuses_another_backbones_embedding() -> None:
    with pytest.raises(ModelError, match="reads embeddings \\[batch, 3\\], the backbone gives \\[2, 4\\]"):
        LinearHead(3, 2)(torch.zeros(2, 4))


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_rows_give_the_same_head(kind: HeadKind, material: Noise) -> None:
    first = fitted(material, kind, "genre")
    FITTED.pop((kind, "genre"))
    again = fitted(material, kind, "genre")
    assert first.description == again.description
    assert all(torch.equal(tensor, again.tensors[name]) for name, tensor in first.tensors.items())


@pytest.mark.parametrize("kind", KINDS)
def test_two_genres_are_enough(kind: HeadKind, material: Noise) -> None:
    rows = material.colour < 2
    x, y = material.x[rows], np.eye(2, dtype=np.bool_)[material.colour[rows]]
    labelled = LabelledRows.checked(x, y, material.groups[rows], "genre", NAMES[:2])
    head = fit_head(labelled, TrainOptions(head=kind))
    module = build_head(head.description, 2)
    module.load_state_dict(dict(head.tensors))
    scores = module(torch.from_numpy(x)).softmax(dim=1).numpy()
    assert (scores.argmax(axis=1) == y.argmax(axis=1)).mean() > 0.8
    if kind == "logistic":
        scaled = module.standardised(torch.from_numpy(x)).double().numpy()
        wanted = logistic(head.description["fitted"]["C"]).fit(scaled, y[:, 1]).predict_proba(scaled)
        np.testing.assert_allclose(scores, wanted, atol=1e-5)


def test_platt_is_scikit_learns_calibration(material: Noise) -> None:
    x, truth = material.x.astype(np.float64), material.colour == 1
    held = group_folds(truth[:, None], material.groups, 3, 0)
    splits = [(np.flatnonzero(~rows), np.flatnonzero(rows)) for rows in held]
    oracle = CalibratedClassifierCV(SVC(), method="sigmoid", cv=splits, ensemble=False).fit(x, truth)
    margins = np.zeros(len(x))
    for train, test in splits:
        margins[test] = SVC().fit(x[train], truth[train]).decision_function(x[test])
    calibrator = oracle.calibrated_classifiers_[0].calibrators[0]
    slope, offset = platt(margins, truth)
    assert (slope, offset) == pytest.approx((-calibrator.a_, -calibrator.b_), rel=1e-3)


def test_class_weights_favour_rare_tags(material: Noise) -> None:
    rare = (material.colour == 2) & (material.groups % 3 == 0)
    y = np.stack([rare, material.colour == 0], axis=1)
    rows = LabelledRows.checked(material.x, y, material.groups, "tags", ("a", "b"))
    plain, weighed = (
        fit_head(rows, TrainOptions(head="logistic", class_weights=balanced)) for balanced in (False, True)
    )
    assert weighed.tensors["bias"][0] > plain.tensors["bias"][0]


def test_a_tag_of_one_track_is_fitted_and_noted(material: Noise) -> None:
    y = np.stack([material.groups == 4, material.colour == 0], axis=1)
    rows = LabelledRows.checked(material.x, y, material.groups, "tags", ("lone", "dull"))
    reporter = Reporter()
    head = fit_head(rows, TrainOptions(head="svm"), reporter)
    assert len(head.description["fitted"]["notes"]) == 1
    assert head.description["fitted"]["notes"][0].startswith("too few tracks or artists to fit probabilities for lone:")
    assert reporter.lines[1:] == list(head.description["fitted"]["notes"])
    assert [float(head.tensors[name][0]) for name in ("slope", "offset")] == [1, 0]


def test_a_sample_of_rows_has_every_tag(material: Noise, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "SEARCH_ROWS", 30)
    monkeypatch.setitem(CLASSIFIERS, "knn", replace(CLASSIFIERS["knn"], max_rows=40))
    y = np.stack([material.groups % 20 == 4, material.colour == 0], axis=1)
    rows = LabelledRows.checked(material.x, y, material.groups, "tags", ("rare", "dull"))
    head = fit_head(rows, TrainOptions(head="knn"))
    assert head.tensors["vectors"].shape == (40, 96)
    assert head.tensors["labels"][:, 0].sum() >= 5
    assert head.description["fitted"]["notes"] == ["head fitted on 40 of 120 rows: more take too much memory and time"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ({"embeddings": np.zeros((0, 96))}, "with one row at least"),
        ({"embeddings": np.zeros((120, 0))}, "with one row at least"),
        ({"embeddings": np.zeros((119, 96))}, r"embeddings \[119, 96\], targets \[120, 3\]"),
        ({"embeddings": np.full((120, 96), np.nan)}, "not finite"),
        ({"targets": np.zeros((120, 3)), "task": "tags"}, "no row has 'dull'"),
        ({"targets": np.ones((120, 3)), "task": "tags"}, "every row has 'dull'"),
        ({"groups": np.zeros(120)}, "single group"),
        ({"groups": ["a"]}, "1 groups"),
    ],
)
def test_unsuitable_rows_are_refused(spoil: dict[str, Any], message: str, material: Noise) -> None:
    values: dict[str, Any] = {
        "embeddings": material.x,
        "targets": material.targets("genre"),
        "groups": material.groups,
        "task": "genre",
        "names": NAMES,
    }
    with pytest.raises(BadRequestError, match=message):
        LabelledRows.checked(**(values | spoil))


def test_a_group_is_in_one_fold_and_a_tag_in_as_many_as_possible() -> None:
    random = np.random.default_rng(2)
    groups = random.integers(0, 40, 300)
    groups[:40] = np.arange(40)
    y = random.random((300, 5)) < (0.5, 0.3, 0.1, 0.02, 0.0)
    y[:3, 4] = True
    held = group_folds(y, groups, 3, 0)
    assert np.array_equal(np.sum(held, axis=0), np.ones(300))
    for rows in held:
        assert not set(groups[rows]) & set(groups[~rows])
        assert 60 < rows.sum() < 140
        assert y[rows].any(axis=0).all()
    assert len(group_folds(y[:4], np.array([0, 0, 1, 1]), 3, 0)) == 2


def test_artists_are_groups_or_single_tracks() -> None:
    examples = [
        Example(Path(f"{number}.mp3"), (), "train", artist)
        for number, artist in enumerate(["Ann", None, "ann ", "Various Artists", None])
    ]
    groups = groups_of(examples)
    assert groups[0] == groups[2]
    assert len(set(groups)) == 4


def material_of(columns: list[int]) -> Material:
    """Training tracks with random mels of these lengths."""
    random = np.random.default_rng(5)
    mels = {f"d{i}": random.normal(-40, 10, (count, 96)).astype(np.float16) for i, count in enumerate(columns)}
    tracks = [Track(Path(f"{name}.mp3"), name, len(mel)) for name, mel in mels.items()]
    truth = np.zeros((0, 3), np.bool_)
    return Material(
        "tags", NAMES, FRONT_END, tracks, [], mels.__getitem__, lambda *excerpt: np.zeros(3, np.float32), truth
    )


def test_tracks_are_embedded_frame_by_frame(plugins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracks = material_of([61, 181, 20, 180])
    backbone, cpu = build("mine", 3, {}, [plugins]), torch.device("cpu")
    whole, _ = embed_tracks(backbone, tracks, 100, cpu)
    monkeypatch.setitem(BATCH_FRAMES, "cpu", 2)
    reporter = Reporter()
    embeddings, numbers = embed_tracks(backbone, tracks, 100, cpu, reporter)
    assert numbers.tolist() == [0, 1, 1, 1, 2, 3, 3]
    assert reporter.done == [2, 2, 4, 4]
    log_mel = LogMel(FRONT_END)
    for row, (name, start) in enumerate(zip(("d0", "d1", "d1", "d1"), (0, 0, 60, 120), strict=True)):
        mel = torch.from_numpy(tracks.read_mel(name)[start : start + 61].astype(np.float32).T)[None]
        torch.testing.assert_close(torch.from_numpy(embeddings[row : row + 1]), backbone(log_mel.normalise(mel))[1])
    assert np.isfinite(embeddings[4]).all()
    np.testing.assert_allclose(whole, embeddings, atol=1e-6)
    assert embed_tracks(backbone, tracks, 1, cpu)[1].tolist() == [0, 1, 2, 3]


def test_no_tracks_give_no_embeddings(plugins: Path) -> None:
    embeddings, numbers = embed_tracks(build("mine", 3, {}, [plugins]), material_of([]), 100, torch.device("cpu"))
    assert len(embeddings) == len(numbers) == 0


def test_a_backbone_with_a_module_called_head_cannot_have_one(material: Noise, plugins: Path) -> None:
    backbone = build("mine", 3, {}, [plugins])
    backbone.head = torch.nn.Linear(1, 1)
    with pytest.raises(BadRequestError, match="a module called head"):
        pack(backbone, 3, fitted(material, "logistic", "tags"))


def test_margins_do_not_depend_on_the_batch_size(material: Noise) -> None:
    head = fitted(material, "svm", "tags")
    module = build_head(head.description, 3)
    module.load_state_dict(dict(head.tensors))
    whole = head_margins(module, material.x)
    np.testing.assert_allclose(head_margins(module, material.x, batch_rows=7), whole, atol=1e-5)
