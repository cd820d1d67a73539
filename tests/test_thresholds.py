"""Thresholds against an exhaustive search, calibration against scikit-learn and a known distribution."""

from __future__ import annotations

import json

import numpy as np
import numpy.typing as npt
import pytest
import sklearn.metrics as sk
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from torchmetrics.functional.classification import binary_calibration_error

from musictagger.errors import BadRequestError
from musictagger.evaluation.thresholds import fit_calibration, fit_lift, fit_thresholds
from musictagger.models.calibration import METHODS, Calibration, Method

FloatArray = npt.NDArray[np.float64]
Truth = npt.NDArray[np.bool_]

NAMES = ["rock", "jazz", "folk"]

both_methods = pytest.mark.parametrize("method", METHODS)


def overconfident(seed: int, tracks: int = 4000) -> tuple[Truth, FloatArray]:
    """Scores with twice the logits of the probabilities that the truth is drawn from, and slightly too high."""
    random = np.random.default_rng(seed)
    logits = random.normal(-1.0, 1.5, (tracks, len(NAMES)))
    truth = random.random(logits.shape) < 1 / (1 + np.exp(-logits))
    return truth, 1 / (1 + np.exp(-(2 * logits + 0.7)))


@st.composite
def one_tag(draw: st.DrawFn) -> tuple[Truth, FloatArray]:
    tracks = draw(st.integers(2, 20))
    truth = draw(hnp.arrays(np.bool_, (tracks, 1)))
    truth[:2, 0] = [True, False]
    return truth, draw(hnp.arrays(np.float64, (tracks, 1), elements=st.floats(0, 1, width=16)))


# Thresholds


@given(one_tag(), st.sampled_from([0.0, 0.4, 0.8]))
def test_no_other_score_is_a_better_threshold(case: tuple[Truth, FloatArray], floor: float) -> None:
    truth, scores = case
    found = fit_thresholds(truth, scores, ["rock"], min_precision=floor)
    tried = []
    for threshold in {*scores[:, 0], found.values["rock"]}:
        predicted = scores[:, 0] >= threshold
        tried.append((sk.precision_score(truth[:, 0], predicted), sk.f1_score(truth[:, 0], predicted), threshold))
    precision, f1, _ = next(line for line in tried if line[2] == found.values["rock"])
    reached = [line for line in tried if line[0] >= floor]
    assert found.f1["rock"] == pytest.approx(f1)
    assert found.below_floor == (() if reached else ("rock",))
    if reached:
        assert precision >= floor
        assert f1 == pytest.approx(max(line[1] for line in reached))
    else:
        assert precision == max(line[0] for line in tried)


def test_a_threshold_lies_half_way_between_the_scores_it_separates() -> None:
    found = fit_thresholds([[1], [1], [0], [0]], [[0.9], [0.6], [0.2], [0.1]], ["rock"])
    assert found.values["rock"] == pytest.approx(0.4)
    assert found.f1["rock"] == 1.0


@pytest.mark.parametrize("score", [1e-5, 0.03, 0.5, 0.7, 0.9999])
def test_the_lower_of_two_adjacent_scores_is_below_the_threshold(score: float) -> None:
    """Scores are compared with thresholds in float32."""
    low = np.float32(score)
    high = np.nextafter(low, np.float32(1))
    threshold = fit_thresholds([[1], [0]], [[high], [low]], ["rock"]).values["rock"]
    assert low < np.float32(threshold) <= high


def test_among_equal_f1_the_highest_threshold_is_taken() -> None:
    # From 0.9 precision 1 and recall 1/2; from 0.1 precision 1/2 and recall 1.
    found = fit_thresholds([[1], [0], [0], [1]], [[0.9], [0.5], [0.3], [0.1]], ["rock"])
    assert found.values["rock"] == pytest.approx(0.7)


def test_a_minimum_precision_raises_the_threshold() -> None:
    truth, scores = overconfident(0)
    free, strict = (fit_thresholds(truth, scores, NAMES, min_precision=floor) for floor in (0.0, 0.8))
    for column, name in enumerate(NAMES):
        assert strict.values[name] > free.values[name]
        assert sk.precision_score(truth[:, column], scores[:, column] >= strict.values[name]) >= 0.8


def test_tags_that_cannot_be_fitted_have_no_threshold() -> None:
    truth = [[1, 0, 1], [0, 0, 1], [1, 0, 1]]
    scores = [[0.9, 0.3, 0.2], [0.1, 0.8, 0.3], [0.8, 0.1, 0.4]]
    found = fit_thresholds(truth, scores, NAMES)
    assert [*found.values] == [*found.f1] == ["rock"]
    assert fit_thresholds(truth, scores, NAMES, min_positives=3).values == {}


def test_an_unreachable_precision_is_reported() -> None:
    found = fit_thresholds([[0], [1], [0]], [[0.9], [0.5], [0.4]], ["rock"], min_precision=0.9)
    assert found.below_floor == ("rock",)
    assert 0.4 < found.values["rock"] <= 0.5


# Calibration


@both_methods
def test_calibration_improves_scores_of_other_tracks(method: Method) -> None:
    calibration = fit_calibration(*overconfident(1), NAMES, method)
    truth, scores = overconfident(2)
    calibrated = calibration.apply(scores, NAMES)
    for column in range(len(NAMES)):
        flags, before, after = truth[:, column], scores[:, column], calibrated[:, column]
        assert sk.brier_score_loss(flags, after) < sk.brier_score_loss(flags, before) - 0.005
        positive = torch.tensor(flags).long()
        errors = [float(binary_calibration_error(torch.tensor(values), positive)) for values in (after, before)]
        assert errors[0] < errors[1] / 2


def test_platt_recovers_the_curve_the_truth_was_drawn_from() -> None:
    truth, scores = overconfident(3, tracks=50_000)
    for curve in fit_calibration(truth, scores, NAMES, "platt").curves.values():
        assert (curve.slope, curve.offset) == pytest.approx((0.5, -0.35), abs=0.05)


def test_platt_agrees_with_logistic_regression_on_soft_targets() -> None:
    truth, scores = overconfident(4, tracks=300)
    calibration = fit_calibration(truth, scores, NAMES, "platt")
    for column, name in enumerate(NAMES):
        positives = truth[:, column].sum()
        target = np.where(truth[:, column], (positives + 1) / (positives + 2), 1 / (300 - positives + 2))
        logits = np.log(scores[:, column] / (1 - scores[:, column]))[:, None]
        model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000)
        twice, labels = np.concatenate([logits, logits]), np.repeat([1, 0], 300)
        model.fit(twice, labels, sample_weight=np.concatenate([target, 1 - target]))
        curve = calibration.curves[name]
        assert (curve.slope, curve.offset) == pytest.approx((model.coef_[0, 0], model.intercept_[0]), rel=1e-3)


@given(one_tag())
def test_isotonic_agrees_with_scikit_learn(case: tuple[Truth, FloatArray]) -> None:
    truth, scores = case
    calibration = fit_calibration(truth, scores, ["rock"], "isotonic", min_positives=1)
    expected = IsotonicRegression(out_of_bounds="clip").fit(scores[:, 0], truth[:, 0])
    grid = np.linspace(0, 1, 33)
    if calibration.left_out:
        assert np.ptp(expected.predict(scores[:, 0])) == pytest.approx(0)
    else:
        assert calibration.apply(grid[:, None], ["rock"])[:, 0] == pytest.approx(expected.predict(grid))


@given(one_tag(), st.sampled_from(METHODS))
def test_calibrated_scores_keep_the_order_of_tracks_and_stay_within_0_to_1(
    case: tuple[Truth, FloatArray], method: Method
) -> None:
    calibration = fit_calibration(*case, ["rock"], method, min_positives=1)
    calibrated = calibration.apply(np.linspace(0, 1, 200)[:, None], ["rock"])
    assert (np.diff(calibrated[:, 0]) >= 0).all()
    assert ((calibrated >= 0) & (calibrated <= 1)).all()


def test_platt_of_perfect_scores_stays_finite() -> None:
    truth = np.arange(20)[:, None] >= 10
    curve = fit_calibration(truth, truth.astype(float), ["rock"], "platt").curves["rock"]
    assert curve.apply(np.array([0.0, 1.0])) == pytest.approx([1 / 12, 11 / 12], abs=1e-6)


@both_methods
def test_tags_that_cannot_be_calibrated_keep_their_scores(method: Method) -> None:
    random = np.random.default_rng(0)
    truth = np.zeros((100, 4), np.bool_)
    truth[:50, :3] = True
    scores = random.random((100, 4))
    scores[:, 1] = 0.5  # constant
    scores[:, 2] = np.where(truth[:, 2], 0.2, 0.8)  # reversed
    scores[:, 0] = np.where(truth[:, 0], 0.8, 0.2)
    names = [*NAMES, "polka"]  # polka has no positive
    calibration = fit_calibration(truth, scores, names, method)
    assert calibration.left_out == ("jazz", "folk", "polka")
    assert (calibration.apply(scores, names)[:, 1:] == scores[:, 1:]).all()


@both_methods
def test_a_card_can_hold_a_calibration(method: Method) -> None:
    truth, scores = overconfident(5, tracks=400)
    calibration = fit_calibration(truth, scores, NAMES, method)
    text = json.dumps(calibration.to_json(), allow_nan=False)
    read = Calibration.from_json(json.loads(text))
    assert (read.apply(scores, NAMES) == calibration.apply(scores, NAMES)).all()
    assert read.left_out == calibration.left_out == ()


def test_calibration_does_not_change_its_input() -> None:
    truth, scores = overconfident(6, tracks=200)
    before = scores.copy()
    fit_calibration(truth, scores, NAMES).apply(scores, NAMES)
    assert (scores == before).all()


# Invalid input


def test_invalid_input_raises_with_the_wrong_value() -> None:
    with pytest.raises(BadRequestError, match=r"row 1, 'rock' is 1\.5, not between 0 and 1"):
        fit_calibration([[1], [0]], [[0.5], [1.5]], ["rock"])
    with pytest.raises(BadRequestError, match="'magic' is not one of isotonic, platt"):
        fit_calibration([[1], [0]], [[0.5], [0.1]], ["rock"], "magic")  # type: ignore[arg-type]
    with pytest.raises(BadRequestError, match=r"min_precision is 1\.5, not between 0 and 1"):
        fit_thresholds([[1], [0]], [[0.5], [0.1]], ["rock"], min_precision=1.5)
    with pytest.raises(BadRequestError, match="row 0, 'rock' is nan"):
        fit_thresholds([[1], [0]], [[np.nan], [0.1]], ["rock"])


# Lift


def test_a_score_of_half_is_six_times_the_usual_odds() -> None:
    odds = np.array([0.01, 0.01, 0.01, 1.0])
    usual = float(np.exp(np.log(odds).mean()))  # far below the odds of the arithmetic mean
    curve = fit_lift((odds / (1 + odds))[:, None], ["rock"], ["rock"]).curves["rock"]
    odds = usual * np.array([1.0, 6.0, 12.0])
    assert curve.apply(odds / (1 + odds)) == pytest.approx([1 / 7, 1 / 2, 2 / 3])


def test_a_tag_without_alternatives_must_stand_out_too() -> None:
    logits = np.array([-3.0, 3.0, -3.0, 3.0])
    scores = np.repeat(1 / (1 + np.exp(-logits[:, None])), 2, axis=1)
    found = fit_lift(scores, ["rock", "harp"], ["rock"])
    assert found.curves["rock"].undo(0.5) == pytest.approx(6 / 7)
    assert found.curves["harp"].undo(0.5) == pytest.approx(1 / (1 + np.exp(-6.0)))  # two deviations of 3


def test_a_constant_tag_scores_half_at_six_times_its_odds() -> None:
    found = fit_lift(np.full((4, 1), 0.5), ["harp"])
    assert found.curves["harp"].undo(0.5) == pytest.approx(6 / 7)
