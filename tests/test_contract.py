"""The contract of backbones, for each bundled one and a file in the user's plugin folder."""

from __future__ import annotations

import copy
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import plugin_folder
from torch import Tensor

from musictagger.audio.frontend import FrontEnd
from musictagger.models.backbone import Backbone, Output
from musictagger.models.fuse import fuse
from musictagger.models.published.catalogue import entry
from musictagger.models.registry import build, find_backbones

N_TAGS = 7
FRONT_ENDS = {"musicnn": entry("musicnn-msd").front_end}
"""Front ends of backbones that were not designed for the papers' 12 kHz."""

SHORTER = {"musicnn": 400}
"""Number of columns that suffices where a whole frame takes seconds."""

NAMES = [*sorted(find_backbones()), "mine"]


@pytest.fixture(scope="module", params=NAMES)
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    torch.manual_seed(11)
    folder = plugin_folder(tmp_path_factory.mktemp("user"))
    return build(request.param, N_TAGS, {}, [folder])


def mel_of(backbone: Backbone, frames: int = 2, columns: int | None = None) -> Tensor:
    """Random decibels in the shape of the backbone's front end, or a shorter one from SHORTER."""
    front_end = FRONT_ENDS.get(backbone.name, FrontEnd())
    columns = columns or SHORTER.get(backbone.name, front_end.columns)
    return torch.randn(frames, front_end.n_mels, columns, generator=torch.Generator().manual_seed(1)) * 20 - 30


def test_all_backbones_are_tested() -> None:
    assert {"crnn", "crnn_tf", "fcn", "mfcc", "musicnn", "mine"} <= set(NAMES)


@pytest.fixture(scope="module")
def seen(backbone: Backbone) -> tuple[Tensor, Output]:
    """Two frames, and the output of the backbone in eval mode."""
    mel = mel_of(backbone)
    with torch.inference_mode():
        return mel, backbone.eval()(mel)


def test_forward_gives_logits_and_an_embedding(backbone: Backbone, seen: tuple[Tensor, Output]) -> None:
    output = seen[1]
    if backbone.name in SHORTER:
        with torch.inference_mode():
            output = backbone.eval()(mel_of(backbone, 2, FRONT_ENDS[backbone.name].columns))
    assert output.logits.shape == (2, N_TAGS)
    assert output.embedding.dim() == 2
    assert len(output.embedding) == 2
    assert output.logits.dtype == output.embedding.dtype == torch.float32
    assert torch.isfinite(output.logits).all()
    assert torch.isfinite(output.embedding).all()


def test_a_frame_in_eval_mode_gives_the_same_alone_and_in_a_batch(
    backbone: Backbone, seen: tuple[Tensor, Output]
) -> None:
    mel, together = seen
    before = mel.clone()
    with torch.inference_mode():
        alone, again = backbone.eval()(mel[1:]), backbone(mel[1:])
    for both, one, other in zip(together, alone, again, strict=True):
        assert torch.equal(one, other)
        torch.testing.assert_close(both[1:], one, atol=1e-4, rtol=1e-4)
    assert torch.equal(mel, before)


def test_every_parameter_lies_in_cnn_rnn_or_dense(backbone: Backbone) -> None:
    assert {name.partition(".")[0] for name, _ in backbone.named_parameters()} <= {"cnn", "rnn", "dense"}
    assert any(True for _ in backbone.parameters())


def test_the_default_configuration_can_be_stored_in_a_card(backbone: Backbone) -> None:
    config = defaults(type(backbone))
    restored = json.loads(json.dumps(config))
    # Called as `build` calls it, which mypy cannot know.
    again: Any = type(backbone)
    shapes = [
        {name: value.shape for name, value in b.state_dict().items()} for b in (backbone, again(N_TAGS, **restored))
    ]
    assert shapes[0] == shapes[1]


def defaults(kind: type[Backbone]) -> dict[str, object]:
    parameters = list(inspect.signature(kind).parameters.values())
    assert parameters[0].name == "n_tags"
    for parameter in parameters[1:]:
        assert parameter.kind is parameter.KEYWORD_ONLY, parameter
        assert parameter.default is not parameter.empty, parameter
    return {parameter.name: parameter.default for parameter in parameters[1:]}


def test_fused_equals_plain(backbone: Backbone, seen: tuple[Tensor, Output]) -> None:
    mel, plain = seen
    with torch.inference_mode():
        fused = fuse(backbone)(mel)
    for one, other in zip(plain, fused, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_gradients_reach_every_parameter(backbone: Backbone) -> None:
    torch.manual_seed(2)
    trained = copy.deepcopy(backbone).train()
    targets = torch.rand(2, N_TAGS).round()
    loss = torch.nn.functional.binary_cross_entropy_with_logits(trained(mel_of(backbone)).logits, targets)
    loss.backward()  # type: ignore[no-untyped-call]
    unreached = [name for name, p in trained.named_parameters() if p.grad is None or not p.grad.any()]
    assert unreached == []


def test_the_output_layer_computes_the_logits(backbone: Backbone) -> None:
    changed = copy.deepcopy(backbone).eval()
    assert changed.output_layer is not None
    assert changed.output_layer.out_features == N_TAGS
    torch.nn.init.zeros_(changed.output_layer.weight)
    torch.nn.init.constant_(changed.output_layer.bias, 0.5)
    with torch.inference_mode():
        logits = changed(mel_of(backbone, 1)).logits
    torch.testing.assert_close(logits, torch.full((1, N_TAGS), 0.5))


def test_a_backbone_has_a_name_and_a_docstring(backbone: Backbone) -> None:
    assert backbone.name
    assert inspect.getdoc(type(backbone))


def test_one_tag_is_enough(backbone: Backbone, tmp_path: Path) -> None:
    single = build(backbone.name, 1, {}, [plugin_folder(tmp_path)]).eval()
    with torch.inference_mode():
        assert single(mel_of(backbone, 1)).logits.shape == (1, 1)
