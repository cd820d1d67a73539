"""Learning rates, losses, weights and penalties against values computed by hand or by torch."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from training_material import CONFIG, small_options

from musictagger.errors import BadRequestError
from musictagger.models.backbone import Backbone
from musictagger.models.registry import build
from musictagger.training.optimise import (
    class_weights,
    ema_decay,
    freeze_layers,
    l2_penalty,
    logit_scale,
    lr_at,
    make_optimiser,
    update_ema,
    warm_up_batch_norm,
    window_losses,
)

NAN = float("nan")


def _backbone() -> Backbone:
    backbone = build("fcn", 3, CONFIG, ())
    assert isinstance(backbone, Backbone)
    return backbone


class TestLearningRate:
    def test_exponential_falls_after_each_epoch(self) -> None:
        options = small_options(lr=1.0, schedule="exponential", lr_decay=0.9)
        assert [lr_at(step, 4, options) for step in (0, 3, 4, 7, 8)] == pytest.approx([1, 1, 0.9, 0.9, 0.81])

    def test_inverse_falls_with_each_step(self) -> None:
        options = small_options(lr=1.0, schedule="inverse", lr_decay=0.5)
        assert [lr_at(step, 4, options) for step in range(3)] == pytest.approx([1, 1 / 1.5, 1 / 2])

    def test_constant(self) -> None:
        assert {lr_at(step, 4, small_options(lr=0.3, schedule="constant")) for step in range(9)} == {0.3}

    def test_cosine_is_torchs(self) -> None:
        weight = nn.Parameter(torch.zeros(1))
        optimiser = torch.optim.SGD([weight], lr=1.0)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 20)
        for step in range(20):
            assert lr_at(step, 5, small_options(epochs=4, lr=1.0, schedule="cosine")) == pytest.approx(
                schedule.get_last_lr()[0]
            )
            optimiser.step()
            schedule.step()

    def test_onecycle_is_torchs(self) -> None:
        optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
        # torch puts the top a step earlier than three tenths of the way; with 11 steps both put it on a step.
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1.0, total_steps=11, pct_start=4 / 11)
        ours = [lr_at(step, 11, small_options(epochs=1, lr=1.0, schedule="onecycle")) for step in range(11)]
        theirs = [schedule.get_last_lr()[0]]
        for _ in range(10):
            optimiser.step()
            schedule.step()
            theirs.append(schedule.get_last_lr()[0])
        assert ours[:10] == pytest.approx(theirs[:10], abs=1e-4)
        assert ours[-1] == pytest.approx(1e-4)

    def test_warmup_rises_to_the_first_rate(self) -> None:
        options = small_options(lr=1.0, schedule="constant", warmup_epochs=1)
        rates = [lr_at(step, 4, options) for step in range(6)]
        assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])

    def test_onecycle_takes_no_warmup(self) -> None:
        with pytest.raises(BadRequestError, match="onecycle has its own warm-up"):
            small_options(schedule="onecycle", warmup_epochs=1.0)


class TestLosses:
    logits = torch.tensor([[1.0, -2.0, 0.5], [0.1, 0.2, -3.0]])

    def test_tags_are_torchs_binary_cross_entropy(self) -> None:
        target = torch.tensor([[1.0, 0.0, 0.3], [0.0, 1.0, 1.0]])
        weights = torch.tensor([2.0, 1.0, 0.5])
        expected = F.binary_cross_entropy_with_logits(self.logits, target, pos_weight=weights, reduction="none")
        torch.testing.assert_close(window_losses(self.logits, target, "tags", weights), expected.mean(dim=1))

    def test_unknown_outputs_are_ignored(self) -> None:
        target = torch.tensor([[1.0, NAN, 0.0], [NAN, NAN, NAN]])
        logits = self.logits.clone().requires_grad_()
        losses = window_losses(logits, target, "tags", None)
        known = F.binary_cross_entropy_with_logits(self.logits[0, [0, 2]], torch.tensor([1.0, 0.0]))
        torch.testing.assert_close(losses, torch.stack([known, torch.tensor(0.0)]))
        losses.sum().backward()  # type: ignore[no-untyped-call]
        assert logits.grad is not None
        assert (logits.grad != 0).tolist() == [[True, False, True], [False, False, False]]

    @pytest.mark.parametrize("smoothing", [0.0, 0.2])
    def test_genre_is_torchs_cross_entropy(self, smoothing: float) -> None:
        target = torch.eye(3)[[2, 0]]
        expected = F.cross_entropy(self.logits, torch.tensor([2, 0]), reduction="none", label_smoothing=smoothing)
        torch.testing.assert_close(window_losses(self.logits, target, "genre", None, smoothing), expected)

    def test_genre_losses_are_weighted(self) -> None:
        target, weights = torch.eye(3)[[2, 0]], torch.tensor([0.5, 9.0, 2.0])
        plain = window_losses(self.logits, target, "genre", None)
        torch.testing.assert_close(window_losses(self.logits, target, "genre", weights), plain * weights[[2, 0]])

    def test_label_smoothing_moves_tags_towards_the_middle(self) -> None:
        expected = window_losses(self.logits, torch.tensor([[0.9, 0.1, 0.1]]).expand(2, 3), "tags", None)
        smoothed = window_losses(self.logits, torch.tensor([[1.0, 0.0, 0.0]]).expand(2, 3), "tags", None, 0.2)
        torch.testing.assert_close(smoothed, expected)


class TestLogitScale:
    soft = torch.tensor([[0.9, 0.01, NAN], [0.5, 0.001, NAN], [0.1, 0.0001, NAN], [NAN, 0.002, NAN]])

    def test_comes_from_the_known_targets(self) -> None:
        scale = logit_scale(self.soft)
        known = self.soft[:3, 0].logit()
        torch.testing.assert_close(scale.mean[0], known.mean())
        torch.testing.assert_close(scale.deviation[0], known.std(unbiased=False))
        torch.testing.assert_close(scale.standardised(torch.tensor([0.0, 0.0, 3.0]))[2], torch.tensor(3.0))

    def test_labels_keep_their_logits(self) -> None:
        labels = torch.tensor([[1.0, 0.3], [0.0, 0.2], [0.0, NAN], [NAN, 0.1]])
        standardised = logit_scale(labels).standardised(torch.tensor([[-2.0, 0.0]]))
        torch.testing.assert_close(standardised[0, 0], torch.tensor(-2.0))

    def test_the_deviation_has_a_lower_bound(self) -> None:
        assert logit_scale(torch.full((5, 1), 0.3)).deviation.tolist() == [0.25]

    def test_standardised_is_zero_at_the_90th_percentile(self) -> None:
        logits = torch.randn(20_000, 1) * 3 - 5
        standardised = logit_scale(logits.sigmoid()).standardised(logits)
        assert (standardised > 0).float().mean() == pytest.approx(0.1, abs=0.01)

    def test_rare_and_common_tags_have_equal_gradients(self) -> None:
        target = (torch.randn(1000, 1) + torch.tensor([0.0, -7.0])).sigmoid()
        scale = logit_scale(target)
        gradients = {}
        for name, given in (("plain", None), ("standardised", scale)):
            logits = scale.mean.expand(1000, 2).clone().requires_grad_()
            window_losses(logits, target, "tags", scale=given).sum().backward()  # type: ignore[no-untyped-call]
            assert logits.grad is not None
            common, rare = logits.grad.abs().mean(dim=0)
            gradients[name] = float(rare / common)
        assert gradients["plain"] < 0.05
        assert gradients["standardised"] == pytest.approx(1, abs=0.15)

    def test_unknown_outputs_are_ignored(self) -> None:
        logits = torch.ones(4, 3, requires_grad=True)
        window_losses(logits, self.soft, "tags", scale=logit_scale(self.soft)).sum().backward()  # type: ignore[no-untyped-call]
        assert logits.grad is not None and logits.grad.isfinite().all()
        assert (logits.grad != 0).sum(dim=0).tolist() == [3, 4, 0]


class TestClassWeights:
    def test_genres_are_balanced_and_one_on_average(self) -> None:
        target = torch.eye(3)[[0, 0, 0, 0, 1, 2]]
        weights = class_weights(target, "genre")
        torch.testing.assert_close(weights, torch.tensor([0.5, 2.0, 2.0]))
        assert (target * weights).sum() / len(target) == pytest.approx(1)

    def test_tags_balance_positives_and_negatives(self) -> None:
        target = torch.tensor([[1.0, 0.0], [0.0, NAN], [0.0, NAN], [0.0, 1.0]])
        torch.testing.assert_close(class_weights(target, "tags"), torch.tensor([3.0, 1.0]))

    def test_the_weight_of_a_tag_without_positives_is_finite(self) -> None:
        assert class_weights(torch.zeros(1000, 1), "tags").tolist() == [100.0]


def test_l2_covers_only_the_weights_of_each_group() -> None:
    backbone = _backbone()
    options = small_options(l2={"cnn": 0.1, "dense": 2.0, "rnn": 5.0})
    convolutions = [layer.weight for layer in backbone.modules() if isinstance(layer, nn.Conv2d)]
    assert isinstance(backbone.dense, nn.Linear)
    expected = 0.1 * sum(weight.square().sum() for weight in convolutions) + 2 * backbone.dense.weight.square().sum()
    penalty = l2_penalty(backbone, options)
    assert penalty is not None
    torch.testing.assert_close(penalty, torch.as_tensor(expected))
    assert l2_penalty(backbone, small_options()) is None
    freeze_layers(backbone, "cnn")
    frozen = l2_penalty(backbone, options)
    assert frozen is not None
    torch.testing.assert_close(frozen, 2 * backbone.dense.weight.square().sum())


def _crnn_tf() -> Backbone:
    backbone = build("crnn_tf", 3, {"n_mels": 12, "channels": [4], "pools": [[4, 8]], "units": 4, "dropout": 0.5})
    assert isinstance(backbone, Backbone)
    return backbone


def test_l2_excludes_the_biases_of_grid_lstms() -> None:
    backbone = _crnn_tf()
    before = l2_penalty(backbone, small_options(l2={"rnn": 1.0}))
    with torch.no_grad():
        biases = [weight for name, weight in backbone.rnn.named_parameters() if name.endswith("_bias")]  # type: ignore[union-attr]
        for bias in biases:
            bias += 3
    assert len(biases) == 2
    assert l2_penalty(backbone, small_options(l2={"rnn": 1.0})) == before


def test_dropout_before_the_dense_layer_is_not_frozen() -> None:
    backbone = _crnn_tf()
    frozen = freeze_layers(backbone, "all")
    assert frozen == [backbone.cnn, backbone.rnn]
    assert {name.split(".")[0] for name, weight in backbone.named_parameters() if weight.requires_grad} == {"dense"}


def test_freezing_needs_a_layer_of_that_name() -> None:
    class Odd(Backbone):
        name = "odd"

        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.Linear(1, 1)
            self.dense = nn.Linear(1, 1)

    odd = Odd()
    assert freeze_layers(odd, "none") == [] and freeze_layers(odd, "all") == [odd.rnn]
    with pytest.raises(BadRequestError, match="backbone odd has no layers that freeze cnn applies to"):
        freeze_layers(Odd(), "cnn")


def test_optimisers_have_their_options() -> None:
    weights = [nn.Parameter(torch.zeros(1))]
    sgd = make_optimiser(weights, small_options(optimiser="sgd", momentum=0.8)).defaults
    assert (sgd["momentum"], sgd["nesterov"], sgd["weight_decay"]) == (0.8, True, 0)
    assert not make_optimiser(weights, small_options(optimiser="sgd", momentum=0.0)).defaults["nesterov"]
    assert make_optimiser(weights, small_options(optimiser="adam", weight_decay=0.1)).defaults["weight_decay"] == 0
    assert make_optimiser(weights, small_options(optimiser="adamw", weight_decay=0.1)).defaults["weight_decay"] == 0.1


def test_ema_averages_weights_and_copies_statistics() -> None:
    one, other = nn.BatchNorm1d(1), nn.BatchNorm1d(1)
    with torch.no_grad():
        other.weight.fill_(3.0)
        assert isinstance(other.running_mean, Tensor) and isinstance(one.running_mean, Tensor)
        other.running_mean.fill_(7.0)
    update_ema(one, other, 0.75)
    assert one.weight.item() == pytest.approx(1.5) and one.running_mean.item() == 7.0


def test_initial_weights_fade_from_the_ema() -> None:
    left = 1.0
    for step in range(100):
        left *= ema_decay(step, 0.9999)
    assert left < 1e-6
    assert ema_decay(10**6, 0.99) == 0.99
    assert all(a < b for a, b in itertools.pairwise(ema_decay(step, 0.99) for step in range(50)))


def test_running_statistics_are_the_mean_of_the_first_steps() -> None:
    norm = nn.Sequential(nn.BatchNorm1d(1))
    random = torch.Generator().manual_seed(1)
    batches = [-40 + 5 * torch.randn(16, 1, generator=random) for _ in range(6)]
    for step, batch in enumerate(batches):
        warm_up_batch_norm(norm, step)
        norm(batch)
    running = norm[0].running_mean
    assert isinstance(running, Tensor)
    torch.testing.assert_close(running, torch.stack([batch.mean() for batch in batches]).mean()[None])
    for step in (9, 10, 500):
        warm_up_batch_norm(norm, step)
        assert norm[0].momentum == 0.1
