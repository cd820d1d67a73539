"""CRNN against the tables of its papers."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from musictagger.errors import ModelError

FILE = Path(__file__).parents[1] / "plugins" / "crnn.py"
SPEC = importlib.util.spec_from_file_location("plugin_crnn", FILE)
assert SPEC is not None
assert SPEC.loader is not None
plugin = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(plugin)


def crnn(n_tags: int = 50, **config: Any) -> Any:
    torch.manual_seed(3)
    return plugin.CRNN(n_tags, **config)


def shapes(module: nn.Module, x: Tensor) -> dict[str, tuple[int, ...]]:
    """Output shape, without the batch, of every named child of `cnn` and of every GRU."""
    seen: dict[str, tuple[int, ...]] = {}

    def note(name: str) -> Any:
        def hook(_module: nn.Module, _given: Any, out: Any) -> None:
            seen[name] = tuple((out[0] if isinstance(out, tuple) else out).shape[1:])

        return hook

    for name, child in module.named_modules():
        if name.count(".") == 1 or isinstance(child, nn.GRU):
            child.register_forward_hook(note(name))
    with torch.no_grad():
        module.eval()(x)
    return seen


def test_shapes_are_those_of_the_paper() -> None:
    seen = shapes(crnn(), torch.randn(2, 96, 1366))
    expected = {
        "cnn.input": (1, 96, 1440),
        "cnn.block1": (64, 48, 720),
        "cnn.block2": (128, 16, 240),
        "cnn.block3": (128, 4, 60),
        "cnn.block4": (128, 1, 15),
        "rnn.layers.0": (15, 32),
        "rnn.layers.1": (15, 32),
    }
    assert {name: seen[name] for name in expected} == expected


def test_parameters_add_up() -> None:
    convolutions = 9 * (1 * 64 + 64 * 128 + 128 * 128 + 128 * 128)
    norms = 2 * (1 + 64 + 128 + 128 + 128)
    grus = 3 * (32 * (128 + 32) + 2 * 32) + 3 * (32 * (32 + 32) + 2 * 32)
    dense = 32 * 50 + 50
    assert sum(p.numel() for p in crnn().parameters()) == convolutions + norms + grus + dense == 393_652


def test_every_parameter_lies_in_cnn_rnn_or_dense() -> None:
    assert {name.split(".")[0] for name, _ in crnn().named_parameters()} == {"cnn", "rnn", "dense"}


def test_output_and_embedding() -> None:
    model = crnn(7).eval()
    with torch.no_grad():
        logits, embedding = model(torch.randn(2, 96, 1366))
    assert logits.shape == (2, 7)
    assert embedding.shape == (2, 32)
    torch.testing.assert_close(logits, model.dense(embedding))


def test_sequence_is_time_by_channels_then_bands() -> None:
    model = crnn(channels=[2, 3], pools=[[2, 2], [2, 2]], n_mels=8, padded_columns=None).eval()
    given: list[Tensor] = []
    model.rnn.register_forward_pre_hook(lambda _m, args: given.append(args[0]))
    mel = torch.randn(1, 8, 12)
    with torch.no_grad():
        model(mel)
        image = model.cnn(mel)
    assert given[0].shape == (1, 3, 6)
    torch.testing.assert_close(given[0][0, 1], torch.stack([image[0, c, b, 1] for c in range(3) for b in range(2)]))


@pytest.mark.parametrize("columns", [200, 1365, 1366, 1440, 1500])
def test_any_number_of_columns_works(columns: int) -> None:
    model = crnn(channels=[2, 2, 2, 2]).eval()
    assert model(torch.randn(1, 96, columns)).logits.shape == (1, 50)


def test_a_frame_scores_the_same_alone_and_in_a_batch() -> None:
    model, mel = crnn().eval(), torch.randn(3, 96, 1366)
    with torch.no_grad():
        torch.testing.assert_close(model(mel[1:2]).logits[0], model(mel).logits[1], atol=1e-5, rtol=1e-5)


def test_a_training_step_lowers_the_loss_and_reaches_every_parameter() -> None:
    model = crnn(5, padded_columns=192, conv_dropout=0, dropout=0).train()
    mel, truth = torch.randn(4, 96, 180) * 20 - 40, torch.eye(5)[:4]
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    before = F.binary_cross_entropy_with_logits(model(mel).logits, truth)
    before.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    optimiser.step()
    assert F.binary_cross_entropy_with_logits(model(mel).logits, truth) < before


def test_configuration_changes_what_it_names() -> None:
    model = crnn(input_norm=False, gru_units=[16, 24, 8], activation="relu", n_mels=192)
    assert not any(isinstance(m, nn.BatchNorm2d) and m.num_features == 1 for m in model.modules())
    assert [(g.input_size, g.hidden_size) for g in model.rnn.layers] == [(256, 16), (16, 24), (24, 8)]
    assert model.dense.in_features == 8


@pytest.mark.parametrize(
    "config",
    [
        {"n_tags": 0},
        {"channels": [64, 128]},
        {"channels": []},
        {"pools": [[2, 2], [3, 3], [4, 4], [4]]},
        {"activation": "swish"},
        {"gru_units": []},
        {"gru_units": [32, 0]},
        {"gru_units": 32},
        {"dropout": 1.0},
        {"conv_dropout": -0.1},
        {"padded_columns": -1},
        {"n_mels": 40},
        {"n_mels": "96"},
        {"gru": "keras2"},
        {"input_norm": "bands"},
        {"input_norm": "columns", "padded_columns": None},
    ],
)
def test_invalid_configurations_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ModelError):
        crnn(**config)


def test_an_input_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ModelError, match="96 mel bands"):
        crnn()(torch.randn(1, 128, 1366))
    with pytest.raises(ModelError, match="too short"):
        crnn(padded_columns=None)(torch.randn(1, 96, 50))


def test_a_norm_of_columns_comes_after_the_padding() -> None:
    model = crnn(input_norm="columns", padded_columns=20).eval()
    norm = model.cnn.input.norm
    assert norm.num_features == 20
    torch.nn.init.normal_(norm.running_mean)
    torch.nn.init.normal_(norm.bias)
    mel = torch.randn(2, 96, 16)
    image = model.cnn.input(mel)
    expected = (F.pad(mel, (2, 2)) - norm.running_mean) / (1 + norm.eps) ** 0.5 + norm.bias
    torch.testing.assert_close(image[:, 0], expected)
    with pytest.raises(ModelError, match="at most 20 mel columns, not 21"):
        model(torch.randn(1, 96, 21))


def test_the_gru_of_keras_1_resets_before_the_product_and_has_hard_gates() -> None:
    torch.manual_seed(1)
    gru = plugin.Keras1GRU(3, 2)
    torch.nn.init.normal_(gru.bias)
    steps = torch.randn(2, 4, 3)
    states, last = gru(steps)
    w, u, b = (t.detach().split(2) for t in (gru.weight_ih, gru.weight_hh, gru.bias))  # update, reset, candidate
    state = torch.zeros(2, 2)
    for x in steps.unbind(1):
        update, reset = ((0.2 * (x @ w[g].T + state @ u[g].T + b[g]) + 0.5).clamp(0, 1) for g in (0, 1))
        candidate = torch.tanh(x @ w[2].T + (reset * state) @ u[2].T + b[2])
        state = update * state + (1 - update) * candidate
    torch.testing.assert_close(last, state)
    assert torch.equal(states[:, -1], last)


def test_the_configuration_of_choi_trains_and_names_its_size() -> None:
    model = crnn(input_norm="columns", gru="keras1", conv_dropout=0, dropout=0).train()
    assert sum(p.numel() for p in model.parameters()) == 393_652 + 2 * 1440 - 2 - 2 * 3 * 32
    model(torch.randn(2, 96, 1366)).logits.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
