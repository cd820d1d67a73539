"""The musicnn backbone: shapes, its two equivalent computations, and the published models' golden scores."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from musictagger.errors import ModelError
from musictagger.models import layers
from musictagger.models.inference import Predictor
from musictagger.models.layers import cut, mean_score_logits
from musictagger.models.published.pull import pull
from musictagger.models.registry import find_backbones
from musictagger.models.weights import Model, load_model

musicnn: Any = sys.modules[find_backbones()["musicnn"].__module__]  # as the program loads it: by file
MusiCNN = musicnn.MusiCNN
DATA = Path(__file__).parents[2] / "shared" / "data"
GOLDEN = DATA / "golden" / "musicnn.json"
MODELS = {"musicnn-msd": "MSD_musicnn", "musicnn-mtt": "MTT_musicnn", "vgg-msd": "MSD_vgg", "vgg-mtt": "MTT_vgg"}
"""Those in the musicnn wheel, by our name: theirs. VGG is a configuration of backbone `fcn`."""


def small(**changed: Any) -> Any:
    """A narrow one with everything random, BatchNorm scales of both signs included."""
    torch.manual_seed(3)
    config = {"timbral_channels": 6, "temporal_channels": 4, "mid_channels": 5, "units": 7}
    backbone: nn.Module = MusiCNN(3, **(config | changed))
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            for tensor in (module.weight.data, module.bias.data, module.running_mean):
                nn.init.normal_(tensor)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return backbone.eval()


def mel(batch: int, columns: int, n_mels: int = 96) -> Tensor:
    return torch.rand(batch, n_mels, columns, generator=torch.Generator().manual_seed(5)) * 4


def test_published_size_and_shapes() -> None:
    backbone = MusiCNN(50).eval()
    assert sum(p.numel() for p in backbone.parameters()) == 787_159
    with torch.inference_mode():
        features = backbone.cnn(mel(2, 187))
        assert features.shape == (2, 187, 753)  # 2 x 204 timbral, 3 x 51 temporal, 3 x 64 in the middle
        output = backbone(mel(2, 1821))
    assert output.logits.shape == (2, 50)
    assert output.embedding.shape == (2, 200)


def test_front_blocks_see_two_fifths_and_seven_tenths_of_the_bands() -> None:
    shapes = [tuple(block.conv.weight.shape) for block in (*MusiCNN(50).cnn.timbral, *MusiCNN(50).cnn.temporal)]
    assert shapes == [(204, 1, 38, 7), (204, 1, 67, 7), (51, 1, 1, 128), (51, 1, 1, 64), (51, 1, 1, 32)]


@pytest.mark.parametrize(("columns", "n_mels"), [(187, 96), (190, 95), (400, 80), (400, 64), (1821, 96)])
def test_fast_inference_equals_the_layers_as_written(columns: int, n_mels: int) -> None:
    backbone, frames = small(n_mels=n_mels), mel(2, columns, n_mels)
    plain = backbone(frames)
    with torch.inference_mode():
        fast = backbone(frames)
    torch.testing.assert_close(fast.logits, plain.logits.detach(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(fast.embedding, plain.embedding.detach(), atol=1e-4, rtol=1e-4)


def test_one_convolution_on_an_accelerator_equals_the_matrix_products() -> None:
    backbone, x = small(), mel(2, 320)
    with torch.inference_mode():
        for block in (*backbone.cnn.timbral, *backbone.cnn.temporal):
            filters = block.conv.weight[:, 0]
            torch.testing.assert_close(
                block.highest(x, filters), musicnn._Front.highest(block, x, filters), atol=1e-4, rtol=1e-4
            )


def test_the_number_of_patches_at_once_does_not_change_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = small()
    with torch.inference_mode():
        whole = backbone(mel(3, 600))
        monkeypatch.setattr(layers, "PATCHES_AT_ONCE", 2)
        torch.testing.assert_close(backbone(mel(3, 600)).logits, whole.logits)


def test_a_frame_scores_the_mean_of_its_patches() -> None:
    backbone, frame = small(), mel(1, 3 * 187 + 50)
    with torch.inference_mode():
        patches = torch.cat([frame[:, :, i * 187 : (i + 1) * 187] for i in range(3)])
        expected = backbone(patches).logits.sigmoid().mean(0)
        torch.testing.assert_close(backbone(frame).logits.sigmoid()[0], expected)


@pytest.mark.parametrize("columns", [1, 50, 186])
def test_a_frame_shorter_than_a_patch_is_repeated_to_fill_one(columns: int) -> None:
    frame = mel(2, columns)
    patches = cut(frame, 187)
    assert patches.shape == (2, 1, 96, 187)
    torch.testing.assert_close(patches[:, 0, :, columns:], patches[:, 0, :, : 187 - columns])


@settings(deadline=None)
@given(st.lists(st.floats(-200, 200, width=32), min_size=1, max_size=9))
def test_mean_score_logits_are_finite_and_their_score_is_the_mean(values: list[float]) -> None:
    logits = torch.tensor(values)[None, :, None]
    frame = mean_score_logits(logits)
    assert torch.isfinite(frame).all()
    torch.testing.assert_close(frame.sigmoid(), logits.sigmoid().mean(1), atol=1e-6, rtol=1e-4)


WON: dict[str, Any] = {
    "temporal_steps": [129, 65, 33],
    "temporal_bands": "mean",
    "norm_first": True,
    "pooled_norm": False,
    "norm_eps": 1e-5,
}
"""The version of Won et al. 2020."""


def test_the_version_of_won_is_a_configuration() -> None:
    backbone = small(**WON)
    shapes = [tuple(block.conv.weight.shape) for block in backbone.cnn.temporal]
    assert shapes == [(4, 1, 1, 129), (4, 1, 1, 65), (4, 1, 1, 33)]
    assert isinstance(backbone.dense.norm, nn.Identity)
    assert {m.eps for m in backbone.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)} == {1e-5}
    frames = mel(2, 400)
    plain = backbone(frames)
    with torch.inference_mode():
        fast = backbone(frames)
    torch.testing.assert_close(fast.logits, plain.logits.detach(), atol=1e-4, rtol=1e-4)


def test_a_temporal_filter_of_the_mean_sees_the_mean_of_the_bands() -> None:
    block, x = small(**WON).cnn.temporal[2], mel(2, 40)
    expected = torch.relu(block.norm(block.conv(nn.functional.pad(x.mean(1)[:, None, None], (16, 16)))))
    torch.testing.assert_close(block(x), expected[:, :, 0].transpose(1, 2))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        *[(name, (0, -3, "x", 1.5, True, None)) for name in ("n_mels", "patch_columns", "units")],
        *[(name, (0, -3, "x", 1.5, True, None)) for name in ("timbral_channels", "temporal_channels", "mid_channels")],
        ("n_mels", (2,)),
        ("temporal_bands", ("all", None)),
        ("temporal_steps", ([], [0], "x", 5)),
        *[(name, (-0.1, 1, "x", float("nan"))) for name in ("dropout", "norm_eps")],
    ],
)
def test_invalid_configurations_are_refused(name: str, values: tuple[object, ...]) -> None:
    for value in values:
        with pytest.raises(ModelError, match=name):
            small(**{name: value})
    with pytest.raises(ModelError, match="n_tags"):
        MusiCNN(0)


def test_the_minimum_number_of_bands_works() -> None:
    assert small(n_mels=3)(mel(1, 187, 3)).logits.shape == (1, 3)


def test_a_mel_of_another_front_end_is_refused() -> None:
    with pytest.raises(ModelError, match="96 mel bands"):
        small()(mel(1, 187, 128))


@pytest.mark.parametrize("changed", [{}, WON])
def test_gradients_reach_every_parameter(changed: dict[str, Any]) -> None:
    backbone = small(dropout=0.0, **changed).train()
    output = backbone(mel(3, 400))
    loss = nn.functional.binary_cross_entropy_with_logits(output.logits, torch.ones(3, 3))
    loss.backward()  # type: ignore[no-untyped-call]
    missing = [name for name, parameter in backbone.named_parameters() if parameter.grad is None]
    assert missing == []


def test_gradients_reach_the_input_in_evaluation_mode() -> None:
    x = mel(1, 200).requires_grad_()
    small()(x).logits.sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0


def test_every_parameter_lies_in_cnn_or_dense() -> None:
    assert {name.partition(".")[0] for name, _ in small().named_parameters()} == {"cnn", "dense"}


def test_autocast_computes_in_half_the_bits() -> None:
    backbone, x = small(), mel(1, 400)
    with torch.inference_mode():
        exact = backbone(x).logits.sigmoid()
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(backbone(x).logits.sigmoid().float(), exact, atol=0.03, rtol=0)


# --- the published models ----------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The published models of the wheel, pulled once; from the data folder that MUSICTAGGER_DATA_DIR names, if any."""
    kept = os.environ.get("MUSICTAGGER_DATA_DIR")
    folder = Path(kept) / "models" if kept else tmp_path_factory.mktemp("models")
    downloads = tmp_path_factory.mktemp("downloads")
    for name in MODELS:
        if not (folder / f"{name}.safetensors").exists():
            try:
                pull(name, folder, downloads=downloads)
            except ModelError as error:
                if "no network" not in str(error):
                    raise
                pytest.skip(str(error))
    yield folder


@pytest.fixture(scope="session")
def published(model_folder: Path) -> dict[str, Model]:
    return {name: load_model(model_folder / f"{name}.safetensors") for name in MODELS}


@pytest.fixture(scope="session")
def golden() -> dict[str, Any]:
    if not GOLDEN.exists():
        pytest.skip("the golden scores are not here")
    values: dict[str, Any] = json.loads(GOLDEN.read_text())
    return values


def clip(name: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Samples at 16 kHz, as the golden scores were made from."""
    if name == "chirp":
        t = np.arange(464_000) / 16_000
        return (0.5 * np.sin(2 * np.pi * (50 + (7000 - 50) * t / 58) * t)).astype(np.float32)
    wave, rate_hz = soundfile.read(DATA / "choi" / f"{name}.mp3", dtype="float32", always_2d=True)
    return np.asarray(soxr.resample(wave.mean(axis=1), rate_hz, 16_000, quality="HQ"))


def scores(model: Model, wave: np.ndarray[Any, np.dtype[np.float32]]) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.asarray(Predictor(model, "cpu")([wave]).scores[0])


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "name", ["bensound-actionable", "bensound-cute", "bensound-dubstep", "bensound-thejazzpiano", "chirp"]
)
def test_published_models_give_the_golden_scores(
    published: dict[str, Model], golden: dict[str, Any], model: str, name: str
) -> None:
    assert published[model].card.outputs == tuple(golden["tags"][MODELS[model][:3]])
    expected = np.array(golden["scores"][name][MODELS[model]])
    np.testing.assert_allclose(scores(published[model], clip(name)), expected, atol=1e-4)


@pytest.mark.parametrize("model", MODELS)
def test_loud_music_keeps_its_own_scores(published: dict[str, Model], golden: dict[str, Any], model: str) -> None:
    """The original package overflowed a 16-bit float here and scored every loud track the same."""
    loud = [scores(published[model], np.clip(clip(name) * 30, -1, 1)) for name in ("bensound-dubstep", "bensound-cute")]
    assert all(np.isfinite(each).all() for each in loud)
    assert np.abs(loud[0] - loud[1]).max() > 0.1
