"""CRNN-TF: its map, its eight scans, and its Grid LSTM against one written out step by step."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from musictagger.errors import ModelError

FILE = Path(__file__).parents[1] / "plugins" / "crnn_tf.py"
SPEC = importlib.util.spec_from_file_location("plugin_crnn_tf", FILE)
assert SPEC is not None
assert SPEC.loader is not None
plugin = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(plugin)


def crnn_tf(n_tags: int = 50, **config: Any) -> Any:
    torch.manual_seed(3)
    return plugin.CRNNTF(n_tags, **config)


def test_shapes_are_those_of_the_paper() -> None:
    model = crnn_tf().eval()
    seen: list[tuple[int, ...]] = []
    for child in model.cnn.children():
        child.register_forward_hook(lambda _m, _i, out: seen.append(tuple(out.shape)))
    model.rnn.register_forward_pre_hook(lambda _m, given: seen.append(tuple(given[0].shape)))
    model.rnn.register_forward_hook(lambda _m, _i, out: seen.append(tuple(out.shape)))
    with torch.no_grad():
        logits, embedding = model(torch.randn(2, 96, 1366))
    assert seen == [
        (2, 1, 96, 1366),
        (2, 64, 48, 342),
        (2, 128, 24, 86),
        (2, 128, 12, 22),
        (2, 128, 6, 6),
        (8, 36, 2, 128),
        (2, 256),
    ]
    assert (logits.shape, embedding.shape) == ((2, 50), (2, 256))
    torch.testing.assert_close(logits, model.dense(embedding))


def test_parameters_add_up() -> None:
    convolutions = 9 * (1 * 64 + 64 * 128 + 128 * 128 + 128 * 128)
    norms = 2 * (1 + 64 + 128 + 128 + 128)
    lstm = 4 * (32 * (32 + 32) + 32)
    blocks = 8 * (2 * 128 * 32 + 2 * lstm)
    dense = 256 * 50 + 50
    assert sum(p.numel() for p in crnn_tf().parameters()) == convolutions + norms + blocks + dense == 581_620


def test_every_parameter_lies_in_cnn_rnn_or_dense() -> None:
    assert {name.split(".")[0] for name, _ in crnn_tf().named_parameters()} == {"cnn", "rnn", "dense"}


SCANNED = {
    "A_r": [0, 1, 2, 3, 4, 5],
    "A_c": [0, 3, 1, 4, 2, 5],
    "B_r": [2, 1, 0, 5, 4, 3],
    "B_c": [2, 5, 1, 4, 0, 3],
    "C_r": [3, 4, 5, 0, 1, 2],
    "C_c": [3, 0, 4, 1, 5, 2],
    "D_r": [5, 4, 3, 2, 1, 0],
    "D_c": [5, 2, 4, 1, 3, 0],
}
"""What each scan reads of the map [[0, 1, 2], [3, 4, 5]]: rows are mel bands from the lowest, columns are time."""


def test_all_eight_scans_of_a_small_map() -> None:
    assert tuple(SCANNED) == plugin.SCANS
    numbers = torch.arange(6).reshape(1, 1, 2, 3)
    cells = torch.cat([torch.cat([numbers, 10 + numbers], dim=1), torch.cat([100 + numbers, 110 + numbers], dim=1)])
    scanned = plugin.scan(cells, plugin.SCANS)
    assert scanned.shape == (8, 6, 2, 2)
    for number, order in enumerate(SCANNED.values()):
        for frame, channel in ((0, 0), (0, 1), (1, 0), (1, 1)):
            assert scanned[number, :, frame, channel].tolist() == [cell + 100 * frame + 10 * channel for cell in order]


def test_top_is_the_lowest_mel_band_and_left_the_first_column() -> None:
    model = crnn_tf(channels=[1], pools=[[2, 2]], n_mels=4, input_norm=False, scans=["A_r", "D_r"]).eval()
    nn.init.zeros_(model.cnn.block1.conv.weight)
    model.cnn.block1.conv.weight.data[0, 0, 1, 1] = 1.0
    given: list[Tensor] = []
    model.rnn.register_forward_pre_hook(lambda _m, args: given.append(args[0]))
    mel = torch.zeros(1, 4, 6)
    mel[0, 0, 0], mel[0, 3, 5] = 1.0, 2.0
    model(mel)
    first, last = given[0][0, :, 0, 0], given[0][1, :, 0, 0]
    torch.testing.assert_close(first[[0, -1]], torch.tensor([1.0, 2.0]), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(last[[0, -1]], torch.tensor([2.0, 1.0]), atol=1e-4, rtol=1e-4)


def slow_lstm(weight: Tensor, bias: Tensor, both: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    """Kalchbrenner et al. 2015, equation 1, gate by gate: [2 * units] -> new hidden, new memory."""
    units = len(memory)
    take, keep, show, candidate = (both @ weight[:, k * units : (k + 1) * units] for k in range(4))
    take, keep, show, candidate = (
        g + bias[k * units : (k + 1) * units] for k, g in enumerate((take, keep, show, candidate))
    )
    memory = torch.sigmoid(keep) * memory + torch.sigmoid(take) * torch.tanh(candidate)
    return torch.tanh(torch.sigmoid(show) * memory), memory


def slow_block(rnn: Any, block: int, sequence: Tensor) -> Tensor:
    """One Grid LSTM block on one sequence [steps, features], every step of both dimensions computed."""
    time_hidden = time_memory = depth_hidden = torch.zeros(rnn.units)
    for x in sequence:
        depth_hidden, depth_memory = x @ rnn.project_hidden[block], x @ rnn.project_memory[block]
        time_hidden, time_memory = slow_lstm(
            rnn.time_weight[block], rnn.time_bias[block, 0], torch.cat([time_hidden, depth_hidden]), time_memory
        )
        depth_hidden, depth_memory = slow_lstm(
            rnn.depth_weight[block], rnn.depth_bias[block, 0], torch.cat([time_hidden, depth_hidden]), depth_memory
        )
    return depth_hidden


def test_batched_blocks_equal_the_slow_ones() -> None:
    torch.manual_seed(1)
    rnn = plugin.GridLSTMBlocks(8, 12, 5)
    for bias in (rnn.time_bias, rnn.depth_bias):
        bias.data += torch.randn_like(bias)
    sequences = torch.randn(8, 9, 3, 12)
    expected = torch.stack(
        [torch.cat([slow_block(rnn, block, sequences[block, :, frame]) for block in range(8)]) for frame in range(3)]
    )
    torch.testing.assert_close(rnn(sequences), expected, atol=1e-5, rtol=1e-5)


def test_forget_gates_start_open() -> None:
    rnn = plugin.GridLSTMBlocks(8, 12, 5)
    for bias in (rnn.time_bias, rnn.depth_bias):
        assert bias.shape == (8, 1, 20)
        assert bias[0, 0].tolist() == [0] * 5 + [1] * 5 + [0] * 10


@pytest.mark.parametrize("scans", [["A_r"], ["D_c", "A_r"], ["A_r", "B_r", "C_r", "D_r"]])
def test_a_subset_of_scans(scans: list[str]) -> None:
    model = crnn_tf(4, scans=scans, channels=[4, 8], pools=[[4, 4], [4, 4]]).eval()
    mel = torch.randn(2, 96, 60)
    logits, embedding = model(mel)
    assert (logits.shape, embedding.shape) == ((2, 4), (2, 32 * len(scans)))
    cells = model.cnn(mel)
    alone = [slow_block(model.rnn, k, plugin.scan(cells, [name])[0, :, 1]) for k, name in enumerate(scans)]
    torch.testing.assert_close(embedding[1], torch.cat(alone), atol=1e-5, rtol=1e-5)


def test_a_frame_scores_the_same_alone_and_in_a_batch() -> None:
    model, mel = crnn_tf().eval(), torch.randn(3, 96, 1366)
    with torch.no_grad():
        torch.testing.assert_close(model(mel[1:2]).logits[0], model(mel).logits[1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("columns", [1, 500, 1365, 1500])
def test_any_number_of_columns_works(columns: int) -> None:
    assert crnn_tf(channels=[2, 2, 2, 2]).eval()(torch.randn(1, 96, columns)).logits.shape == (1, 50)


def test_a_training_step_lowers_the_loss_and_reaches_every_parameter() -> None:
    model = crnn_tf(5, channels=[8, 16, 16, 16], dropout=0).train()
    mel, truth = torch.randn(4, 96, 300) * 20 - 40, torch.eye(5)[:4]
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    before = F.binary_cross_entropy_with_logits(model(mel).logits, truth)
    before.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    for name, parameter in model.rnn.named_parameters():
        assert (parameter.grad.flatten(1).abs().sum(1) > 0).all(), name
    optimiser.step()
    assert F.binary_cross_entropy_with_logits(model(mel).logits, truth) < before


@pytest.mark.parametrize(
    "config",
    [
        {"n_tags": 0},
        {"scans": []},
        {"scans": ["A_r", "A_r"]},
        {"scans": ["E_r"]},
        {"scans": "A_r"},
        {"scans": [1]},
        {"scans": [["A_r"]]},
        {"units": 0},
        {"units": 3.5},
        {"channels": [64, 128]},
        {"pools": [[2, 4]] * 3},
        {"activation": ""},
        {"dropout": -1},
        {"conv_dropout": 1},
    ],
)
def test_invalid_configurations_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ModelError):
        crnn_tf(**config)


def test_an_input_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ModelError, match="96 mel bands"):
        crnn_tf()(torch.randn(1, 128, 1366))
