"""From waves to scores: equal to the plain module, with little memory, on every device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import mine_card, plugin_folder

from musictagger.audio.frames import Wave
from musictagger.audio.frontend import FrontEnd
from musictagger.audio.logmel import LogMel
from musictagger.config import Settings
from musictagger.errors import BadRequestError, ModelError, MusictaggerError
from musictagger.models.backbone import Output
from musictagger.models.inference import BATCH_FRAMES, Predictor, load_predictor, pick_device
from musictagger.models.registry import build
from musictagger.models.weights import Model, save_weights

TINY: dict[str, Any] = {"channels": [4, 4, 4, 4], "gru_units": [4, 4], "padded_columns": None}


def model(tmp_path: Path, config: dict[str, Any] | None = None, backbone: str = "mine", **changes: Any) -> Model:
    torch.manual_seed(5)
    config = config or {}
    card = mine_card(backbone=backbone, config=config, **changes)
    built = build(backbone, len(card.outputs), config, [plugin_folder(tmp_path)])
    return Model(card, built.eval().requires_grad_(False))


def waves(count: int, front_end: FrontEnd) -> list[Wave]:
    random = np.random.default_rng(1)
    return [random.normal(0, 0.1, front_end.frame_samples).astype(np.float32) * (i + 1) for i in range(count)]


def plain(trained: Model, frames: list[Wave]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The plain front end and module, one frame at a time."""
    with torch.inference_mode():
        mels = [LogMel(trained.card.front_end)(torch.from_numpy(wave)[None]) for wave in frames]
        outputs = [trained.backbone(mel) for mel in mels]
        logits = torch.cat([output.logits for output in outputs])
        activated = logits.sigmoid() if trained.card.task == "tags" else logits.softmax(dim=1)
        return activated.numpy(), torch.cat([output.embedding for output in outputs]).numpy()


def batches(predictor: Predictor) -> list[int]:
    sizes: list[int] = predictor._backbone.batches  # type: ignore[assignment]
    return sizes


@pytest.mark.parametrize("task", ["tags", "genre"])
@pytest.mark.parametrize(
    ("backbone", "config", "hops"), [("mine", {}, 60), ("crnn", TINY, 400), ("fcn", {"channels": [4] * 5}, 1365)]
)
def test_scores_equal_those_of_the_plain_module(
    backbone: str, config: dict[str, Any], hops: int, task: str, tmp_path: Path
) -> None:
    trained = model(tmp_path, config, backbone, front_end=FrontEnd(frame_hops=hops), task=task)
    frames = waves(5, trained.card.front_end)
    prediction = Predictor(trained, "cpu", 2)(frames)
    scores, embedding = plain(trained, frames)
    assert prediction.scores.dtype == prediction.embedding.dtype == np.float32
    np.testing.assert_allclose(prediction.scores, scores, atol=1e-4)
    np.testing.assert_allclose(prediction.embedding, embedding, atol=1e-4, rtol=1e-4)


def test_bfloat16_changes_scores_a_little(tmp_path: Path) -> None:
    trained = model(tmp_path, TINY, "crnn", front_end=FrontEnd(frame_hops=400))
    frames = waves(5, trained.card.front_end)
    exact, rounded = (Predictor(trained, "cpu", bfloat16=choice)(frames).scores for choice in (False, True))
    assert rounded.dtype == np.float32
    assert 0 < np.abs(exact - rounded).max() < 0.02


def test_genre_scores_of_a_frame_add_up_to_one(tmp_path: Path) -> None:
    trained = model(tmp_path, task="genre")
    scores = Predictor(trained, "cpu")(waves(3, trained.card.front_end)).scores
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)


def test_any_number_of_frames_is_cut_into_batches(tmp_path: Path) -> None:
    trained = model(tmp_path)
    predictor = Predictor(trained, "cpu", 4)
    assert predictor(waves(10, trained.card.front_end)).scores.shape == (10, 9)
    assert batches(predictor) == [4, 4, 2]


def test_no_frames_give_no_scores(tmp_path: Path) -> None:
    assert Predictor(model(tmp_path), "cpu")([]).scores.shape == (0, 9)


@pytest.mark.parametrize("oom", ["torch", "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"])
def test_a_full_memory_halves_the_batch_and_loses_no_frame(oom: str, tmp_path: Path) -> None:
    trained = model(tmp_path, {"max_frames": 3, "oom": oom})
    frames = waves(11, trained.card.front_end)
    predictor = Predictor(trained, "cpu", 8)
    prediction = predictor(frames)
    assert batches(predictor) == [8, 4, 2, 2, 2, 2, 2, 1]
    assert predictor.batch_frames == 2
    np.testing.assert_allclose(prediction.scores, plain(trained, frames)[0], atol=1e-4)
    assert predictor(frames).scores.shape == (11, 9)


def test_a_short_last_batch_that_does_not_fit_is_halved_too(tmp_path: Path) -> None:
    trained = model(tmp_path, {"max_frames": 1})
    predictor = Predictor(trained, "cpu", 64)
    assert predictor(waves(3, trained.card.front_end)).scores.shape == (3, 9)
    assert predictor.batch_frames == 1


def test_without_memory_for_one_frame_the_error_gives_advice(tmp_path: Path) -> None:
    trained = model(tmp_path, {"max_frames": 0})
    with pytest.raises(MusictaggerError, match=r"not enough memory on cpu for one frame; .* --device cpu"):
        Predictor(trained, "cpu", 4)(waves(4, trained.card.front_end))


def test_another_error_of_the_backbone_is_not_hidden(tmp_path: Path) -> None:
    trained = model(tmp_path, {"max_frames": 1, "oom": "shapes do not fit"})
    with pytest.raises(ModelError, match=r"backbone mine \(.*mine.py\) failed: RuntimeError: shapes do not fit"):
        Predictor(trained, "cpu", 4)(waves(4, trained.card.front_end))


def test_cpu_exists_and_auto_finds_a_device() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type in BATCH_FRAMES


@pytest.mark.parametrize("name", ["gpu", "", "CPU", "tpu:0", "cpu:x", "cuda:x", "cuda:99", "cpu:"])
def test_a_device_that_does_not_exist_is_a_usage_error(name: str) -> None:
    with pytest.raises(BadRequestError, match=r"no device .* use --device auto"):
        pick_device(name)


def test_a_gpu_is_refused_on_a_machine_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BadRequestError, match=r"no device 'cuda' on this machine .*cpu"):
        pick_device("cuda")


def test_settings_lead_to_a_predictor(tmp_path: Path) -> None:
    trained = model(tmp_path)
    weights = tmp_path / "models" / "small.safetensors"
    digest = save_weights(trained.backbone.state_dict(), weights)
    card = mine_card(weights_sha256=digest)
    card.save(weights.with_suffix(".json"))
    plugin_folder(tmp_path)
    for name in ("small", str(weights)):
        predictor = load_predictor(Settings(data_dir=tmp_path, model=name, device="cpu", batch_size=3))
        assert (predictor.card, predictor.batch_frames, predictor.device.type) == (card, 3, "cpu")
    with pytest.raises(BadRequestError, match="did you mean 'small'"):
        load_predictor(Settings(data_dir=tmp_path, model="smal", device="cpu"))


class Wrong(torch.nn.Module):
    """A backbone that violates the contract."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def forward(self, features: torch.Tensor) -> object:
        """Fail in the way that `what` names."""
        if self.what == "exits":
            raise SystemExit(0)
        frames, outputs = len(features), len(mine_card().outputs)
        if self.what == "no output":
            return torch.zeros(frames, outputs)
        logits = torch.zeros(frames, outputs - (self.what == "outputs"))
        return Output(logits, torch.zeros(frames - (self.what == "rows"), 2))


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("exits", "SystemExit"),
        ("no output", "AttributeError"),
        ("outputs", "it gives logits"),
        ("rows", "it gives logits"),
    ],
)
def test_a_backbone_that_does_not_keep_the_contract_is_named(what: str, reason: str) -> None:
    trained = Model(mine_card(), Wrong(what))  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=rf"backbone mine \(.*test_inference.py\) failed: .*{reason}"):
        Predictor(trained, "cpu", 4)(waves(3, trained.card.front_end))
