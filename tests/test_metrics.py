"""Metrics against scikit-learn, torchmetrics, cases computed by hand, and properties that hold for any scores."""

from __future__ import annotations

import json
import math
import time
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import sklearn.metrics as sk
import torch
import torchmetrics.functional.classification as tm
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torchmetrics.functional.retrieval import retrieval_normalized_dcg, retrieval_recall

from musictagger.errors import BadRequestError
from musictagger.evaluation import metrics
from musictagger.evaluation.bootstrap import Resampling, bootstrap, mean_defined, mean_of_rows, once
from musictagger.evaluation.results import genre_metrics, tag_metrics
from musictagger.scores.aggregate import aggregate

FloatArray = npt.NDArray[np.float64]
Truth = npt.NDArray[np.bool_]

TRACKS, TAGS = 300, 12


def names_of(tags: int) -> list[str]:
    return [f"tag {index:02}" for index in range(tags)]


def tagged(seed: int, *, ties: bool, tracks: int = TRACKS, tags: int = TAGS) -> tuple[Truth, FloatArray]:
    """Scores from 0 to 1 that correlate with the truth; each track and tag has a positive."""
    random = np.random.default_rng(seed)
    truth = random.random((tracks, tags)) < 0.2
    truth[np.arange(tracks), random.integers(tags, size=tracks)] = True
    scores = (random.random((tracks, tags)) + 0.4 * truth) / 1.4
    return truth, scores.round(1) if ties else scores


def genres(seed: int, rows: int = 400, n: int = 7) -> tuple[npt.NDArray[np.intp], FloatArray]:
    random = np.random.default_rng(seed)
    truth = random.choice(n, size=rows, p=np.arange(1, n + 1) / (n * (n + 1) / 2)).astype(np.intp)
    scores = random.random((rows, n)) + 0.5 * (truth[:, None] == np.arange(n))
    return truth, scores / scores.sum(axis=1, keepdims=True)


def ranking(truth: npt.ArrayLike, scores: npt.ArrayLike) -> FloatArray:
    """AUC and average precision of each tag, [2, tags]."""
    flags = np.asarray(truth, np.bool_)
    found: FloatArray = metrics.ranking_statistic(flags, np.asarray(scores, np.float64))(once(len(flags)))[0]
    return found


def mean_recall(truth: npt.ArrayLike, scores: npt.ArrayLike, k: int) -> float:
    return float(mean_defined(metrics.recall_per_track(np.asarray(truth, np.bool_), np.asarray(scores), k)))


def mean_ndcg(truth: npt.ArrayLike, scores: npt.ArrayLike, k: int) -> float:
    return float(mean_defined(metrics.ndcg_per_track(np.asarray(truth, np.bool_), np.asarray(scores), k)))


def mean_jaccard(truth: npt.ArrayLike, predicted: npt.ArrayLike) -> float:
    return float(mean_defined(metrics.jaccard_per_track(np.asarray(truth, np.bool_), np.asarray(predicted, np.bool_))))


def confusion(truth: npt.NDArray[np.intp], predicted: npt.NDArray[np.intp], n: int) -> FloatArray:
    matrix: FloatArray = metrics.confusion_statistic(truth, predicted, n)(once(len(truth)))[0]
    return matrix


both_kinds = pytest.mark.parametrize(("seed", "ties"), [(0, False), (1, True), (2, True)])


# Against scikit-learn and torchmetrics


@both_kinds
def test_auc_and_average_precision_agree(seed: int, ties: bool) -> None:
    truth, scores = tagged(seed, ties=ties)
    auc, ap = ranking(truth, scores)
    assert auc.tolist() == metrics.auc_roc(truth, scores, names_of(TAGS)).tolist()
    tensors = torch.tensor(scores), torch.tensor(truth).long(), TAGS
    assert auc == pytest.approx(sk.roc_auc_score(truth, scores, average=None), abs=1e-12)
    assert auc.mean() == pytest.approx(sk.roc_auc_score(truth, scores, average="macro"), abs=1e-12)
    assert auc.mean() == pytest.approx(float(tm.multilabel_auroc(*tensors, average="macro")), abs=1e-6)
    assert ap == pytest.approx(sk.average_precision_score(truth, scores, average=None), abs=1e-12)
    assert ap.mean() == pytest.approx(float(tm.multilabel_average_precision(*tensors, average="macro")), abs=1e-6)


@both_kinds
def test_resampled_counts_are_sample_weights(seed: int, ties: bool) -> None:
    truth, scores = tagged(seed, ties=ties, tracks=60, tags=3)
    counts = np.random.default_rng(seed).integers(0, 4, (5, 60)).astype(np.int32)
    found = metrics.ranking_statistic(truth, scores)(counts)
    for sample, weights in zip(found, counts, strict=True):
        drawn = np.repeat(np.arange(60), weights)
        for tag in range(3):
            expected = [
                f(truth[drawn, tag], scores[drawn, tag]) for f in (sk.roc_auc_score, sk.average_precision_score)
            ]
            assert sample[:, tag] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("k", [1, 3, 5, 10, 50])
def test_recall_and_ndcg_agree_without_ties(k: int) -> None:
    truth, scores = tagged(3, ties=False)
    pairs = [(torch.tensor(s), torch.tensor(t)) for s, t in zip(scores, truth, strict=True)]
    recall = [float(retrieval_recall(*pair, top_k=min(k, TAGS))) for pair in pairs]
    ndcg = [float(retrieval_normalized_dcg(*pair, top_k=min(k, TAGS))) for pair in pairs]
    assert metrics.recall_per_track(truth, scores, k) == pytest.approx(recall, abs=1e-6)
    assert metrics.ndcg_per_track(truth, scores, k) == pytest.approx(ndcg, abs=1e-5)
    assert mean_ndcg(truth, scores, k) == pytest.approx(sk.ndcg_score(truth, scores, k=k), abs=1e-12)


@pytest.mark.parametrize("k", [1, 3, 50])
def test_ndcg_shares_ranks_among_ties_as_scikit_learn_does(k: int) -> None:
    truth, scores = tagged(4, ties=True)
    assert mean_ndcg(truth, scores, k) == pytest.approx(sk.ndcg_score(truth, scores, k=k), abs=1e-12)


def test_jaccard_agrees() -> None:
    truth, scores = tagged(5, ties=False)
    predicted = scores >= 0.5
    assert mean_jaccard(truth, predicted) == pytest.approx(sk.jaccard_score(truth, predicted, average="samples"))
    over_tags = mean_jaccard(truth.T, predicted.T)
    assert over_tags == pytest.approx(sk.jaccard_score(truth, predicted, average="macro"))
    index = tm.multilabel_jaccard_index(torch.tensor(predicted).long(), torch.tensor(truth).long(), TAGS)
    assert over_tags == pytest.approx(float(index), abs=1e-6)


def test_tag_confusion_agrees() -> None:
    truth, scores = tagged(6, ties=False)
    (tn, fp), (fn, tp) = sk.multilabel_confusion_matrix(truth, scores >= 0.5).transpose(1, 2, 0)
    assert metrics.tag_confusion(truth, scores >= 0.5).T.tolist() == [x.tolist() for x in (tp, fp, fn, tn)]


def test_genre_metrics_agree() -> None:
    truth, scores = genres(7)
    n, names = scores.shape[1], names_of(scores.shape[1])
    predicted = metrics.predict_genres(scores, names)
    matrix = confusion(truth, predicted, n)
    assert matrix.tolist() == sk.confusion_matrix(truth, predicted).tolist()
    assert float(metrics.accuracy(matrix)) == pytest.approx(sk.accuracy_score(truth, predicted))
    precision, recall, f1, _ = sk.precision_recall_fscore_support(truth, predicted, average=None, zero_division=0)
    ours = metrics.class_scores(matrix)
    for mine, theirs in zip(ours, (recall, precision, f1), strict=True):
        assert mine == pytest.approx(theirs)
    tensors = torch.tensor(scores), torch.tensor(truth)
    for mine, theirs in zip(ours, (tm.multiclass_recall, tm.multiclass_precision, tm.multiclass_f1_score), strict=True):
        assert mine.mean() == pytest.approx(float(theirs(*tensors, n, average="macro")), abs=1e-6)
    auc = ranking(metrics.one_hot(truth, n), scores)[0].mean()
    assert auc == pytest.approx(sk.roc_auc_score(truth, scores, multi_class="ovr", average="macro"))
    assert auc == pytest.approx(float(tm.multiclass_auroc(*tensors, n)), abs=1e-6)


# By hand


def test_auc_by_hand() -> None:
    # Of the pairs (0.9, 0.4), (0.9, 0.1), (0.4, 0.4), (0.4, 0.1) three are right and one is equal.
    found = metrics.auc_roc([[1], [1], [0], [0]], [[0.9], [0.4], [0.4], [0.1]], ["rock"])
    assert found.tolist() == [3.5 / 4]


def test_average_precision_by_hand() -> None:
    # At 0.9: recall 1/2, precision 1. At 0.4, which two tracks share: recall 1, precision 2/3.
    found = ranking([[1], [1], [0], [0]], [[0.9], [0.4], [0.4], [0.1]])[1]
    assert found[0] == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_recall_by_hand_divides_by_all_true_tags() -> None:
    truth, scores = [[1, 1, 0, 0], [0, 0, 1, 0]], [[0.9, 0.1, 0.5, 0.2], [0.9, 0.1, 0.5, 0.2]]
    assert [mean_recall(truth, scores, k) for k in (1, 2, 4)] == [0.25, 0.75, 1.0]


def test_recall_among_ties_is_the_mean_over_their_orders() -> None:
    assert mean_recall([[1, 0, 0, 0]], [[0.5] * 4], 1) == 0.25
    assert mean_recall([[0, 1, 1, 0]], [[0.9, 0.5, 0.5, 0.5]], 2) == pytest.approx(1 / 3)


def test_ndcg_by_hand() -> None:
    found = mean_ndcg([[0, 1, 1]], [[0.9, 0.5, 0.1]], 3)
    assert found == pytest.approx((1 / math.log2(3) + 1 / 2) / (1 + 1 / math.log2(3)))
    assert mean_ndcg([[0, 1, 1]], [[0.9, 0.5, 0.1]], 1) == 0.0


def test_jaccard_by_hand_leaves_out_tracks_without_true_and_predicted_tags() -> None:
    truth, predicted = np.array([[1, 1, 0], [0, 0, 0], [0, 0, 0]]) > 0, np.array([[1, 0, 1], [0, 0, 0], [0, 0, 1]]) > 0
    assert metrics.jaccard_per_track(truth, predicted) == pytest.approx([1 / 3, np.nan, 0], nan_ok=True)
    assert mean_jaccard(truth, predicted) == pytest.approx(1 / 6)


def test_a_tag_without_positives_or_negatives_is_named_and_not_averaged() -> None:
    truth, scores = [[1, 0, 1], [0, 0, 1]], [[0.9, 0.1, 0.2], [0.1, 0.9, 0.1]]
    found = tag_metrics(truth, scores, ["rock", "jazz", "music"], 0.5, Resampling(5))
    for metric in (found.auc, found.average_precision):
        assert [metric.macro.value, *(each.value for each in metric.per_tag.values())] == [1.0, 1.0, None, None]
    assert found.left_out == ["jazz", "music"]
    nothing = tag_metrics([[0], [0]], [[1.0], [0.0]], ["jazz"], 0.5, Resampling(5))
    assert (nothing.auc.macro.value, nothing.left_out) == (None, ["jazz"])


def test_tracks_without_tags_are_in_no_mean() -> None:
    truth, scores = [[1, 0], [0, 0]], [[0.9, 0.1], [0.9, 0.1]]
    assert mean_recall(truth, scores, 1) == mean_ndcg(truth, scores, 2) == 1.0
    assert math.isnan(mean_recall([[0, 0]], [[0.9, 0.1]], 1))


def test_a_genre_without_tracks_is_undefined_and_one_never_predicted_has_precision_zero() -> None:
    recall, precision, f1 = metrics.class_scores([[2, 0, 1], [1, 0, 0], [0, 0, 0]])
    assert recall == pytest.approx([2 / 3, 0, np.nan], nan_ok=True)
    assert precision == pytest.approx([2 / 3, 0, np.nan], nan_ok=True)
    assert f1 == pytest.approx([2 / 3, 0, np.nan], nan_ok=True)


def test_ties_between_genres_go_to_the_first_name() -> None:
    assert metrics.predict_genres(np.array([[0.5, 0.5], [0.5, 0.6]]), ["rock", "jazz"]).tolist() == [1, 1]
    assert metrics.predict_genres(np.array([[0.5, 0.5]]), ["jazz", "rock"]).tolist() == [0]


def test_the_mean_over_frames_outvotes_a_frame() -> None:
    frames = [np.array([[0.9, 0.1], [0.45, 0.55], [0.8, 0.2]], np.float32), np.array([[0.2, 0.8]], np.float32)]
    songs = np.stack([aggregate(each) for each in frames])
    assert songs == pytest.approx(np.array([[2.15 / 3, 0.85 / 3], [0.2, 0.8]]))
    found = genre_metrics(np.array([0, 1]), songs, frames, ["rock", "jazz"], Resampling(20))
    assert (found.frame.accuracy.value, found.song.accuracy.value) == (0.75, 1.0)
    assert found.frame.confusion == [[2, 1], [0, 1]]


# For any scores


@st.composite
def any_tags(draw: st.DrawFn) -> tuple[Truth, FloatArray]:
    shape = draw(st.tuples(st.integers(1, 12), st.integers(1, 6)))
    truth = draw(hnp.arrays(np.bool_, shape))
    # Sixteenths stay apart under the maps below, and few enough of them make ties.
    scores = draw(hnp.arrays(np.float64, shape, elements=st.integers(0, 16).map(lambda n: n / 16)))
    return truth, scores


def all_metrics(truth: Truth, scores: FloatArray) -> FloatArray:
    means = [mean_defined(ranking(truth, scores))]
    for k in (1, 3, 50):
        means += [np.array([mean_recall(truth, scores, k), mean_ndcg(truth, scores, k)])]
    return np.concatenate(means)


@given(any_tags())
def test_metrics_lie_between_0_and_1(case: tuple[Truth, FloatArray]) -> None:
    found = all_metrics(*case)
    defined = found[~np.isnan(found)]
    assert ((defined >= 0) & (defined <= 1 + 1e-12)).all()


@given(any_tags(), st.randoms(use_true_random=False))
def test_the_order_of_tracks_and_tags_has_no_influence(case: tuple[Truth, FloatArray], random: Any) -> None:
    truth, scores = case
    rows, columns = (random.sample(range(n), n) for n in truth.shape)
    shuffled = truth[rows][:, columns], scores[rows][:, columns]
    assert all_metrics(*shuffled) == pytest.approx(all_metrics(*case), nan_ok=True)


@given(any_tags(), st.sampled_from([np.exp, lambda x: x**3, lambda x: 7 * x - 40]))
def test_only_the_order_of_scores_matters(case: tuple[Truth, FloatArray], rising: Any) -> None:
    assert all_metrics(case[0], rising(case[1])) == pytest.approx(all_metrics(*case), nan_ok=True)


@given(any_tags())
def test_negated_scores_have_the_complementary_auc(case: tuple[Truth, FloatArray]) -> None:
    truth, scores = case
    one, other = (ranking(truth, s)[0] for s in (scores, -scores))
    assert one + other == pytest.approx(np.where(np.isnan(one), np.nan, 1.0), nan_ok=True)


@given(any_tags())
def test_constant_scores_are_at_chance(case: tuple[Truth, FloatArray]) -> None:
    truth, scores = case
    auc, ap = ranking(truth, np.zeros_like(scores))
    assert set(auc[~np.isnan(auc)]) <= {0.5}
    assert ap[~np.isnan(ap)] == pytest.approx(truth.mean(axis=0)[~np.isnan(ap)])


@given(any_tags())
def test_recall_never_falls_with_k(case: tuple[Truth, FloatArray]) -> None:
    recalls = np.array([metrics.recall_per_track(*case, k) for k in (1, 2, 3, 6)])
    assert not (np.diff(recalls, axis=0) < 0).any()
    assert (recalls[-1][~np.isnan(recalls[-1])] == 1).all()


# Invalid input


@pytest.mark.parametrize(
    ("truth", "scores", "names", "message"),
    [
        ([[1, 0]], [[0.5, np.nan]], ["rock", "jazz"], "row 0, 'jazz' is nan, not a finite number"),
        ([[1, 0]], [[np.inf, 0.5]], ["rock", "jazz"], "row 0, 'rock' is inf"),
        ([[2, 0]], [[0.5, 0.5]], ["rock", "jazz"], "truth: row 0, 'rock' is 2, neither 0 nor 1"),
        ([[np.nan, 0]], [[0.5, 0.5]], ["rock", "jazz"], "row 0, 'rock' is nan"),
        ([[1, 0]], [[0.5, 0.5]], ["rock"], "1 names for 2 columns"),
        ([[1, 0]], [[0.5, 0.5]], ["rock", "rock"], "both named 'rock'"),
        ([[1]], [[0.5, 0.5]], ["rock", "jazz"], r"truth has shape \[1, 1\], the scores \[1, 2\]"),
        ([], [], [], "at least one of each"),
        ([["a"]], [["b"]], ["rock"], "not numbers"),
        ([["a"]], [[0.5]], ["rock"], "not true or false"),
    ],
)
def test_invalid_input_raises_with_its_position(truth: Any, scores: Any, names: list[str], message: str) -> None:
    with pytest.raises(BadRequestError, match=message):
        metrics.auc_roc(truth, scores, names)


def test_a_single_track_has_no_interval() -> None:
    with pytest.raises(BadRequestError, match="no interval from 1 tracks"):
        bootstrap(lambda counts: counts.sum(axis=1).astype(np.float64), 1, Resampling())


# Intervals


def test_intervals_are_those_of_the_mean_of_many_tracks() -> None:
    values = np.random.default_rng(0).normal(5.0, 2.0, 2000)
    found = bootstrap(lambda counts: mean_of_rows(values, counts), len(values), Resampling(2000, seed=1))
    error = 1.96 * values.std() / math.sqrt(len(values))
    assert (found.value, found.low, found.high) == pytest.approx(
        (values.mean(), values.mean() - error, values.mean() + error), abs=0.01
    )


def test_an_interval_contains_the_true_auc_about_95_times_in_100() -> None:
    held = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        truth = random.random((150, 1)) < 0.4
        scores = random.normal(size=(150, 1)) + truth
        found = bootstrap(metrics.ranking_statistic(truth, scores), 150, Resampling(300, seed))
        # Two normal distributions one standard deviation apart: Phi(1 / sqrt 2).
        held += bool(found.low[0, 0] <= 0.5 * (1 + math.erf(0.5)) <= found.high[0, 0])
    assert 182 <= held <= 198


def test_the_same_seed_gives_the_same_interval_in_chunks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, scores = tagged(8, ties=True)
    statistic = metrics.ranking_statistic(truth, scores)
    whole = bootstrap(statistic, TRACKS, Resampling(50, 3))
    monkeypatch.setattr("musictagger.evaluation.bootstrap.CHUNK_CELLS", 7 * TRACKS)
    assert all((a == b).all() for a, b in zip(whole, bootstrap(statistic, TRACKS, Resampling(50, 3)), strict=True))
    assert (whole.low != bootstrap(statistic, TRACKS, Resampling(50, 4)).low).any()


def test_the_interval_of_a_rare_tag_is_over_the_samples_that_contain_it() -> None:
    truth, scores = tagged(9, ties=False, tracks=40, tags=2)
    truth[:, 1] = False
    truth[3, 1] = True
    found = tag_metrics(truth, scores, ["rock", "jazz"], 0.5, Resampling(200))
    rare = found.auc.per_tag["jazz"]
    assert rare.low is not None and rare.value is not None and rare.high is not None
    assert rare.low <= rare.value <= rare.high


def test_tag_metrics_as_json_contain_the_plain_metrics() -> None:
    truth, scores = tagged(10, ties=False)
    truth[:, 4] = False
    names = names_of(TAGS)
    found = tag_metrics(truth, scores, names, np.full(TAGS, 0.5), Resampling(50)).to_json()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["auc"]["macro"]["value"] == pytest.approx(np.nanmean(metrics.auc_roc(truth, scores, names)))
    assert found["recall@3"]["value"] == pytest.approx(mean_recall(truth, scores, 3))
    assert found["jaccard"]["value"] == pytest.approx(mean_jaccard(truth, scores >= 0.5))
    assert found["left_out"] == ["tag 04"]
    assert found["auc"]["per_tag"]["tag 04"] == {"value": None, "low": None, "high": None}
    for metric in (found["auc"]["macro"], found["ndcg@50"], found["average_precision"]["macro"]):
        assert metric["low"] <= metric["value"] <= metric["high"]


def test_genre_metrics_contain_the_plain_metrics() -> None:
    truth, _ = genres(11, rows=60)
    track = np.repeat(np.arange(60), 5)
    frames = np.random.default_rng(1).random((300, 7)) + 0.4 * (truth[track][:, None] == np.arange(7))
    of_tracks = [*frames.astype(np.float32).reshape(60, 5, 7)]
    songs = np.stack([aggregate(each) for each in of_tracks])
    found = genre_metrics(truth, songs, of_tracks, names_of(7), Resampling(50))
    for level, labels, scores in ((found.frame, truth[track], frames), (found.song, truth, songs)):
        predicted = scores.argmax(axis=1)
        assert level.confusion == sk.confusion_matrix(labels, predicted).tolist()
        assert level.accuracy.value == pytest.approx(sk.accuracy_score(labels, predicted))
        expected = sk.f1_score(labels, predicted, average="macro", zero_division=0)
        assert level.f1.macro.value == pytest.approx(expected)
        auc = ranking(metrics.one_hot(labels, 7), scores)[0]
        assert level.auc.macro.value == pytest.approx(auc.mean())
    assert (found.song.accuracy.value or 0) > (found.frame.accuracy.value or 1)


def test_two_hundred_resamples_of_5000_tracks_and_80_tags_take_seconds() -> None:
    truth, scores = tagged(12, ties=False, tracks=5000, tags=80)
    begin = time.process_time()
    bootstrap(metrics.ranking_statistic(truth, scores), 5000, Resampling(200))
    assert time.process_time() - begin < 5
