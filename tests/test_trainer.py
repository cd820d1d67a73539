"""The training loop on random mels: it learns, resumes bit for bit, and stops correctly."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training_material import CONFIG, material, read_log, small_options

from musictagger.errors import BadRequestError, MusictaggerError
from musictagger.models.backbone import Backbone
from musictagger.models.registry import build
from musictagger.progress import Progress
from musictagger.training import checkpoint
from musictagger.training.distributed import Processes
from musictagger.training.options import TrainOptions
from musictagger.training.trainer import BEST, LOG, Trainer


class _Stopping(Progress):
    """Asks to stop from the given step on."""

    def __init__(self, step: float) -> None:
        self._steps_left = step

    @property
    def stopping(self) -> bool:  # type: ignore[override]
        self._steps_left -= 1
        return self._steps_left <= 0


def _trainer(
    folder: Path,
    options: TrainOptions,
    *,
    config: dict[str, Any] | None = None,
    tracks: int = 24,
    stop_after: float = math.inf,
    **changes: Any,
) -> Trainer:
    folder.mkdir(exist_ok=True)
    torch.manual_seed(options.seed)
    backbone = build("fcn", 3, CONFIG if config is None else config, ())
    assert isinstance(backbone, Backbone)
    return Trainer(
        backbone,
        dataclasses.replace(material(tracks), **changes),
        options,
        folder,
        torch.device("cpu"),
        _Stopping(stop_after),
    )


class TestLearning:
    def test_learns_to_separate_three_bands(self, tmp_path: Path) -> None:
        result = _trainer(tmp_path, small_options(epochs=20)).fit()
        records = read_log(tmp_path)
        assert result.epochs == 20 and not result.interrupted
        assert records[-1]["train_loss"] < records[0]["train_loss"] / 2
        assert max(record["accuracy"] for record in records) == 1.0
        assert max(record["auc"] for record in records) == 1.0

    @pytest.mark.parametrize("optimiser", ["adam", "adamw", "sgd"])
    def test_every_optimiser_learns(self, tmp_path: Path, optimiser: str) -> None:
        rate = 0.05 if optimiser == "sgd" else 1e-2
        result = _trainer(tmp_path, small_options(epochs=4, optimiser=optimiser, lr=rate)).fit()
        assert result.records[-1]["train_loss"] < result.records[0]["train_loss"]

    def test_learns_tags(self, tmp_path: Path) -> None:
        result = _trainer(tmp_path, small_options(epochs=20), task="tags").fit()
        assert "accuracy" not in result.records[-1]
        assert max(record["auc"] for record in result.records) == 1.0

    def test_learns_tags_with_low_teacher_scores(self, tmp_path: Path) -> None:
        faint = np.array([1e-3, 3e-3, 0.3], np.float32)
        soft = material(24).target
        options = small_options(epochs=20, balanced=True, teachers=("a",))
        trainer = _trainer(tmp_path, options, task="tags", target=lambda *excerpt: faint * (0.1 + soft(*excerpt)))
        before = trainer._backbone.get_parameter("dense.bias").sigmoid()
        assert before[0] < before[1] < before[2]
        result = trainer.fit()
        assert max(record["auc"] for record in result.records) == 1.0

    @pytest.mark.parametrize("ema", [0.0, 0.9])
    def test_only_a_fresh_dense_layer_gets_its_output_bias(self, tmp_path: Path, ema: float) -> None:
        options = small_options(balanced=True, teachers=("a",), ema=ema)
        changes: dict[str, Any] = {"task": "tags", "target": lambda *excerpt: np.array([0.01, 0.1, 0.5], np.float32)}
        torch.manual_seed(0)
        for fresh in (True, False):
            backbone = build("fcn", 3, CONFIG, ())
            assert isinstance(backbone, Backbone)
            before = backbone.get_parameter("dense.bias").detach().clone()
            whole = dataclasses.replace(material(24), **changes)
            trainer = Trainer(backbone, whole, options, tmp_path, torch.device("cpu"), Progress(), fresh_dense=fresh)
            bias = torch.tensor([0.01, 0.1, 0.5]).logit() if fresh else before
            torch.testing.assert_close(trainer._evaluated.get_parameter("dense.bias"), bias)

    def test_saves_the_weights_of_the_best_epoch(self, tmp_path: Path) -> None:
        trainer = _trainer(tmp_path, small_options(epochs=3, metric="loss"))
        result = trainer.fit()
        losses = [record["valid_loss"] for record in result.records]
        assert result.best_epoch == 1 + losses.index(min(losses))
        assert set(load_file(tmp_path / BEST)) == set(build("fcn", 3, CONFIG, ()).state_dict())

    def test_log_has_a_record_for_each_epoch(self, tmp_path: Path) -> None:
        _trainer(tmp_path, small_options(epochs=2)).fit()
        lines = (tmp_path / LOG).read_text().splitlines()
        record = json.loads(lines[1])
        assert len(lines) == 2 and record["epoch"] == 2
        assert 0 <= record["loader_share"] <= 1 and record["windows_per_s"] > 0 and record["seconds"] > 0

    def test_stops_when_nothing_improves(self, tmp_path: Path) -> None:
        result = _trainer(tmp_path, small_options(epochs=30, lr=1e-12, patience=2, schedule="constant")).fit()
        assert result.best_epoch is not None and result.epochs == result.best_epoch + 2 < 30

    def test_all_augmentation_at_once_still_learns(self, tmp_path: Path) -> None:
        options = small_options(
            epochs=20,
            gain_db=6,
            tilt_db=6,
            mixup=0.4,
            time_masks=1,
            time_mask_columns=4,
            band_masks=1,
            band_mask_bands=2,
        )
        result = _trainer(tmp_path, options).fit()
        assert max(record["accuracy"] for record in result.records) >= 0.9

    def test_averaged_weights_are_evaluated_and_saved(self, tmp_path: Path) -> None:
        trainer = _trainer(tmp_path, small_options(epochs=1, ema=0.2))
        weight = trainer._backbone.get_parameter("dense.weight")
        mean = weight.detach().clone()
        seen: list[torch.Tensor] = []
        trainer._optimiser.register_step_post_hook(lambda *_: seen.append(weight.detach().clone()))
        trainer.fit()
        for decay, each in zip((1 / 10, 2 / 11, 0.2), seen, strict=True):
            mean = decay * mean + (1 - decay) * each
        torch.testing.assert_close(load_file(tmp_path / BEST)["dense.weight"], mean)
        assert (mean - weight).abs().max() > 1e-4


class TestResume:
    @pytest.mark.parametrize("steps", [1, 3, 7, 8, 11])
    def test_resumed_run_is_the_same_bit_for_bit(self, tmp_path: Path, steps: int) -> None:
        config = {**CONFIG, "dropout": 0.3}
        options = small_options(
            epochs=3, ema=0.9, mixup=0.2, time_masks=1, time_mask_columns=3, gain_db=3, batch_size=6
        )
        _trainer(tmp_path / "whole", options, config=config).fit()
        stopped = _trainer(tmp_path / "parts", options, config=config, stop_after=steps).fit()
        assert stopped.interrupted
        second = _trainer(tmp_path / "parts", options, config=config)
        second.resume()
        assert not second.fit().interrupted
        timeless = [
            [{k: v for k, v in record.items() if k not in _TIMES} for record in read_log(tmp_path / name)]
            for name in ("whole", "parts")
        ]
        assert timeless[0] == timeless[1]
        for name in (BEST,):
            assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
        states = [torch.load(tmp_path / name / checkpoint.NAME, weights_only=True) for name in ("whole", "parts")]
        for key, weight in states[0]["backbone"].items():
            assert torch.equal(weight, states[1]["backbone"][key]), key

    def test_resumed_run_with_standardised_targets_and_noise_is_the_same(self, tmp_path: Path) -> None:
        options = small_options(balanced=True, teachers=("a",), noise=0.5, mixup=0.2, ema=0.9)
        soft = material(24).target
        changes: dict[str, Any] = {"task": "tags", "target": lambda *excerpt: 0.1 + 0.5 * soft(*excerpt)}
        whole = _trainer(tmp_path / "whole", options, **changes)
        whole.fit()
        _trainer(tmp_path / "halves", options, stop_after=4, **changes).fit()
        again = _trainer(tmp_path / "halves", options, **changes)
        again.resume()
        again.fit()
        for name, weight in whole._backbone.state_dict().items():
            assert torch.equal(weight, again._backbone.state_dict()[name]), name

    def test_options_missing_in_a_checkpoint_have_their_defaults(self, tmp_path: Path) -> None:
        _trainer(tmp_path, small_options(), stop_after=1).fit()
        saved = torch.load(tmp_path / checkpoint.NAME, weights_only=True)
        del saved["identity"]["noise"]
        torch.save(saved, tmp_path / checkpoint.NAME)
        _trainer(tmp_path, small_options()).resume()
        with pytest.raises(BadRequestError, match="noise was 0"):
            _trainer(tmp_path, small_options(noise=0.5)).resume()

    def test_nothing_to_resume(self, tmp_path: Path) -> None:
        with pytest.raises(BadRequestError, match="no checkpoint to resume"):
            _trainer(tmp_path, small_options()).resume()

    def test_checkpoint_of_another_run_is_refused(self, tmp_path: Path) -> None:
        _trainer(tmp_path, small_options(epochs=1)).fit()
        with pytest.raises(BadRequestError, match=r"lr was 0\.01, now 0\.02"):
            _trainer(tmp_path, small_options(epochs=1, lr=0.02)).resume()

    def test_checkpoint_of_other_data_is_refused(self, tmp_path: Path) -> None:
        _trainer(tmp_path, small_options(epochs=1)).fit()
        with pytest.raises(BadRequestError, match="training tracks was 24, now 12"):
            _trainer(tmp_path, small_options(epochs=1), tracks=12).resume()

    def test_other_tags_of_the_same_tracks_are_refused(self, tmp_path: Path) -> None:
        _trainer(tmp_path, small_options(epochs=1)).fit()
        others = [dataclasses.replace(track, tags=("low",)) for track in material(24).train]
        with pytest.raises(BadRequestError, match="digest of all tracks and their tags"):
            _trainer(tmp_path, small_options(epochs=1), train=others).resume()

    @pytest.mark.parametrize("entry", ["identity", "backbone", "optimiser", "state"])
    def test_incomplete_checkpoint_is_refused(self, tmp_path: Path, entry: str) -> None:
        _trainer(tmp_path, small_options(epochs=1)).fit()
        state = torch.load(tmp_path / checkpoint.NAME, weights_only=True)
        torch.save({name: value for name, value in state.items() if name != entry}, tmp_path / checkpoint.NAME)
        with pytest.raises(MusictaggerError, match="remove it and start again"):
            _trainer(tmp_path, small_options(epochs=1)).resume()

    def test_damaged_checkpoint_is_refused(self, tmp_path: Path) -> None:
        trainer = _trainer(tmp_path, small_options(epochs=1))
        trainer.fit()
        path = tmp_path / checkpoint.NAME
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(MusictaggerError, match="not a readable checkpoint"):
            _trainer(tmp_path, small_options(epochs=1)).resume()

    def test_more_epochs_are_allowed_if_the_schedule_does_not_depend_on_them(self, tmp_path: Path) -> None:
        _trainer(tmp_path, small_options(epochs=1, schedule="exponential")).fit()
        more = _trainer(tmp_path, small_options(epochs=2, schedule="exponential"))
        more.resume()
        assert more.fit().epochs == 2


class TestFailures:
    def test_nan_loss_names_the_step_and_the_tracks(self, tmp_path: Path) -> None:
        whole = material(24)

        def broken(digest: str) -> Any:
            mel = np.array(whole.read_mel(digest))
            return mel * np.float16("nan") if digest == whole.train[5].digest else mel

        with pytest.raises(MusictaggerError, match=r"loss is nan in epoch 1, step \d of 3.*5\.wav"):
            _trainer(tmp_path, small_options(), read_mel=broken).fit()

    def test_unreadable_track_stops_with_the_reason(self, tmp_path: Path) -> None:
        def gone(digest: str) -> Any:
            raise MusictaggerError(f"{digest}: is gone")

        with pytest.raises(MusictaggerError, match="is gone"):
            _trainer(tmp_path, small_options(), read_mel=gone).fit()

    def test_full_disk_keeps_the_last_checkpoint(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        _trainer(tmp_path, small_options(epochs=1, schedule="constant")).fit()
        kept = (tmp_path / checkpoint.NAME).read_bytes()

        def full(state: object, file: Any) -> None:
            file.write(b"half")
            raise OSError(28, "No space left on device")

        more = _trainer(tmp_path, small_options(epochs=2, schedule="constant"))
        more.resume()
        monkeypatch.setattr(torch, "save", full)
        with pytest.raises(MusictaggerError, match=r"the disk is full; free some space; the last checkpoint is kept"):
            more.fit()
        assert (tmp_path / checkpoint.NAME).read_bytes() == kept
        assert not list(tmp_path.glob(".*tmp"))

    def test_full_disk_at_the_best_epoch_gives_the_remedy(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        trainer = _trainer(tmp_path, small_options(epochs=1))

        def full(path: Path, content: bytes) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "write_bytes", full)
        with pytest.raises(MusictaggerError, match=r"best\.safetensors.*the disk is full; free some space"):
            trainer.fit()

    def test_threshold_options_may_change(self, tmp_path: Path) -> None:
        _trainer(tmp_path, small_options(epochs=1)).fit()
        later = _trainer(tmp_path, small_options(epochs=1, min_precision=0.8, calibration="platt"))
        later.resume()
        assert later.fit().epochs == 1


def test_too_few_windows_for_all_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def three(self: Processes, device: torch.device) -> None:
        self.rank, self.world = 0, 3

    monkeypatch.setattr(Processes, "__init__", three)
    monkeypatch.setattr(Processes, "wrap", lambda self, backbone: backbone)
    with pytest.raises(BadRequestError, match="3 processes cannot share steps of 2 windows; start fewer"):
        _trainer(tmp_path, small_options(batch_size=2))


class TestFreezing:
    def test_frozen_layers_do_not_change(self, tmp_path: Path) -> None:
        trainer = _trainer(tmp_path, small_options(epochs=2, init="some", freeze="cnn"))
        before = {name: value.clone() for name, value in trainer._backbone.state_dict().items()}
        trainer.fit()
        after = trainer._backbone.state_dict()
        for name, value in before.items():
            assert torch.equal(value, after[name]) == name.startswith("cnn"), name


_TIMES = {"seconds", "windows_per_s", "loader_share"}


@pytest.mark.skipif(sys.platform == "win32", reason="gloo over a local port")
def test_two_processes_follow_the_curve_of_one(tmp_path: Path) -> None:
    """Without BatchNorm, whose statistics on the CPU are those of each process's half."""
    script = Path(__file__).with_name("train_in_processes.py")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(script.parents[1]), str(script.parent)])}
    curves = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        done = subprocess.run(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
                *("--nproc-per-node", str(processes), str(script), str(folder)),
            ],
            env=environment,
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert done.returncode == 0, done.stderr
        curves.append([record["train_loss"] for record in read_log(folder)])
    assert len(curves[0]) == 3 and all(math.isfinite(loss) for loss in curves[0])
    np.testing.assert_allclose(curves[0], curves[1], rtol=1e-4)


_ONE_FAILS = """
import sys
import torch
from musictagger.errors import MusictaggerError
from musictagger.training.distributed import Processes, joined
try:
    with joined(torch.device("cpu")) as device:
        if Processes(device).first:
            sys.exit(0)
        Processes(device).shared(1)
except MusictaggerError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="gloo over a local port")
def test_a_process_reports_that_another_has_ended(tmp_path: Path) -> None:
    script = tmp_path / "one_fails.py"
    script.write_text(_ONE_FAILS)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)],
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert "another process of this run has ended" in done.stdout
