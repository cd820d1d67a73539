"""The training loop: from windows to the weights of the best epoch.

Source of the procedures: Wang et al. 2019 (V.C), Panwar et al. 2017 (IV), Roy et al. 2020 (III). The loop is plain
torch and writes only into its own folder: the checkpoint, the best weights and log.jsonl.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from musictagger.audio.logmel import LogMel
from musictagger.datasets.base import some
from musictagger.errors import BadRequestError, MusictaggerError, printable, reason_of
from musictagger.models.backbone import Backbone
from musictagger.models.inference import has_bfloat16
from musictagger.models.weights import save_weights
from musictagger.paths import replacing
from musictagger.progress import Progress
from musictagger.training import augment, checkpoint
from musictagger.training.distributed import Processes
from musictagger.training.optimise import (
    LogitScale,
    class_weights,
    ema_decay,
    freeze_layers,
    initialise_output_bias,
    l2_penalty,
    logit_scale,
    lr_at,
    make_optimiser,
    update_ema,
    warm_up_batch_norm,
    window_losses,
)
from musictagger.training.options import TrainOptions
from musictagger.training.validation import quality, validate
from musictagger.training.windows import Batch, Material, WindowLoader, plan_epoch, steps_per_epoch

BEST = "best.safetensors"
LOG = "log.jsonl"

Record = dict[str, Any]


@dataclass
class State:
    """The progress of a run. `step` counts within the epoch; the loss and the times are those of the epoch so far."""

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0
    waited_s: float = 0.0
    best: float | None = None
    best_epoch: int | None = None
    records: list[Record] = field(default_factory=list)


@dataclass(frozen=True)
class TrainResult:
    """The end of a training, whose epochs' records are those of log.jsonl."""

    epochs: int = 0
    best_epoch: int | None = None
    interrupted: bool = False
    records: Sequence[Record] = ()


class Trainer:
    """One training of one backbone. `fit` trains it; `resume`, called before, restores the folder's checkpoint.

    With torch.distributed set up, each process makes one with the same arguments; only the first writes and reports.
    """

    def __init__(
        self,
        backbone: Backbone,
        material: Material,
        options: TrainOptions,
        folder: Path,
        device: torch.device,
        progress: Progress,
        *,
        fresh_dense: bool = True,
    ) -> None:
        """`fresh_dense`: whether the dense layer is untrained."""
        self._material, self._options, self._folder = material, options, folder
        self._device, self._progress = device, progress
        self._processes = Processes(device)
        self._backbone: Backbone = backbone.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._frozen = freeze_layers(self._backbone, options.freeze)
        # Before the weights are copied, to the other processes and into the EMA.
        self._scale = self._scale_of_targets(fresh_dense=fresh_dense) if options.balanced else None
        self._network = self._processes.wrap(self._backbone)
        self._trained = [weight for weight in self._backbone.parameters() if weight.requires_grad]
        self._optimiser = make_optimiser(self._trained, options)
        self._averaged = copy.deepcopy(self._backbone).requires_grad_(False) if options.ema else None
        self._log_mel = LogMel(material.front_end).to(device)
        bfloat16 = has_bfloat16(device) if options.precision == "auto" else options.precision == "bfloat16"
        self._autocast = torch.autocast(device.type, torch.bfloat16, enabled=bfloat16)
        self._weights = class_weights(self._targets(), material.task).to(device) if options.class_weights else None
        world = self._processes.world
        self._loader = WindowLoader(material, self._processes.rank, world)
        self._windows = options.windows(len(material.train))
        self.steps = steps_per_epoch(self._windows, options.batch_size)
        if self._windows // self.steps < world:
            raise BadRequestError(
                f"{world} processes cannot share steps of {self._windows // self.steps} windows; "
                "start fewer, or raise --batch-size"
            )
        self.state = State()

    def fit(self, on_record: Callable[[Record], None] = lambda record: None) -> TrainResult:
        """Train until the last epoch, until nothing improves, or until the user stops it; then write the checkpoint.

        `on_record` receives each epoch's record. Raises MusictaggerError where the loss is not finite, or where a
        checkpoint cannot be written.
        """
        finished = True
        while finished and not self._over():
            finished = self._train_epoch()
            if finished:
                self._finish_epoch(on_record)
            self._save()
        return TrainResult(self.state.epoch, self.state.best_epoch, not finished, self.state.records)

    def resume(self) -> None:
        """Continue from the checkpoint in the folder. Raises as load_checkpoint does."""
        defaults = TrainOptions().to_json()
        saved = checkpoint.load_checkpoint(self._folder / checkpoint.NAME, self._identity(), defaults)
        try:
            self._backbone.load_state_dict(saved["backbone"])
            if self._averaged is not None:
                self._averaged.load_state_dict(saved["averaged"])
            self._optimiser.load_state_dict(saved["optimiser"])
            self.state = State(**saved["state"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise checkpoint.unreadable(self._folder / checkpoint.NAME, error) from error

    def _over(self) -> bool:
        state, patience = self.state, self._options.patience
        stale = state.epoch - (state.best_epoch or 0)
        return state.epoch >= self._options.epochs or (patience is not None and stale >= patience)

    def _train_epoch(self) -> bool:
        """Train the rest of an epoch; False when stopped before its end."""
        state, options = self.state, self._options
        material = self._material
        plan = plan_epoch(len(material.train), self._windows, options.batch_size, options.seed, state.epoch)
        self._progress.start(f"epoch {state.epoch + 1} of {options.epochs}", len(plan.track), "windows")
        self._network.train()
        for layer in self._frozen:
            layer.eval()
        asked_s = time.perf_counter()
        for batch in self._loader.epoch(plan, state.step):
            got_s = time.perf_counter()
            total_steps = state.epoch * plan.steps + state.step
            if not options.init:
                warm_up_batch_norm(self._backbone, total_steps)
            loss = self._step(batch, lr_at(total_steps, plan.steps, options))
            state.loss_sum += loss
            state.step += 1
            now_s = time.perf_counter()
            state.waited_s += got_s - asked_s
            state.seconds += now_s - asked_s
            asked_s = now_s
            done = plan.step(state.step - 1).stop
            speed = done / max(state.seconds, 1e-9)
            self._progress.advance(done, loss=state.loss_sum / state.step, windows_per_s=speed)
            if self._processes.any(self._progress.stopping) and state.step < plan.steps:
                return False
        return True

    def _step(self, batch: Batch, lr: float) -> float:
        """One step of the optimiser; the loss over all processes."""
        options, state = self._options, self.state
        # Dropout draws from torch's global generator, augmentation from the step's own.
        seed = options.seed + 7919 * self._processes.rank + 1
        torch.manual_seed(augment.step_generator(seed, state.epoch, state.step).initial_seed())
        mel, target = self._augmented(batch)
        with self._autocast:
            logits = self._network(mel).logits
        losses = window_losses(logits, target, self._material.task, self._weights, options.label_smoothing, self._scale)
        # Processes average their gradients, so a share of the step's mean is multiplied by their number.
        loss = losses.sum() / batch.windows * self._processes.world
        total = self._processes.sum(losses.detach().sum()) / batch.windows
        if not math.isfinite(total):
            raise self._not_finite(batch, total)
        penalty = l2_penalty(self._backbone, options)
        self._descend(loss if penalty is None else loss + penalty, lr)
        return total

    def _descend(self, loss: Tensor, lr: float) -> None:
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self._options.clip_norm is not None:
            nn.utils.clip_grad_norm_(self._trained, self._options.clip_norm)
        for group in self._optimiser.param_groups:
            group["lr"] = lr
        self._optimiser.step()
        if self._averaged is not None:
            step = self.state.epoch * self.steps + self.state.step
            update_ema(self._averaged, self._backbone, ema_decay(step, self._options.ema))

    def _augmented(self, batch: Batch) -> tuple[Tensor, Tensor]:
        options, front_end = self._options, self._material.front_end
        generator = augment.step_generator(options.seed, self.state.epoch, self.state.step)
        random = augment.StepRandom(generator, batch.rows, batch.windows)
        mel, target = batch.mel.to(self._device), batch.target.to(self._device)
        mel = augment.time_stretch(mel, options, random)
        mel = augment.pitch_shift(mel, front_end, options, random)
        mel = augment.gain_and_tilt(mel, front_end, options, random)
        mel = augment.add_noise(mel, front_end, options, random)
        mel, target = augment.mixup(self._log_mel.normalise(mel), target, options, random)
        return augment.spec_augment(mel, options, random), target

    def _finish_epoch(self, on_record: Callable[[Record], None]) -> None:
        """Validate, report, log, and keep the weights if they are the best so far."""
        state, options = self.state, self._options
        record: Record = {"epoch": state.epoch + 1}
        if self._processes.first:
            seconds = max(state.seconds, 1e-9)
            record |= {
                "lr": lr_at((state.epoch + 1) * self.steps - 1, self.steps, options),
                "train_loss": state.loss_sum / self.steps,
                **self._validate(),
                "seconds": round(state.seconds, 3),
                "windows_per_s": round(self._windows / seconds, 2),
                "loader_share": round(state.waited_s / seconds, 4),
            }
        record = self._processes.shared(record)
        value = quality(record, options.metric, self._material.task)
        if state.best is None or value > state.best:
            state.best, state.best_epoch = value, state.epoch + 1
            if self._processes.first:
                with checkpoint.resumable(self._folder / checkpoint.NAME):
                    save_weights(self._evaluated.state_dict(), self._folder / BEST)
        record["best"] = state.best_epoch == state.epoch + 1
        state.records.append(record)
        state.epoch, state.step = state.epoch + 1, 0
        state.loss_sum = state.seconds = state.waited_s = 0.0
        self._progress.epoch(record)
        if self._processes.first:
            on_record(record)

    def _validate(self) -> Record:
        return validate(
            self._evaluated, self._material, self._log_mel, self._device, self._autocast, self._progress, self._scale
        )

    @property
    def _evaluated(self) -> nn.Module:
        return self._backbone if self._averaged is None else self._averaged

    def _save(self) -> None:
        if not self._processes.first:
            return
        path = self._folder / checkpoint.NAME
        state = {
            "identity": self._identity(),
            "backbone": self._backbone.state_dict(),
            "averaged": None if self._averaged is None else self._averaged.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "state": dict(vars(self.state)),
        }
        with checkpoint.resumable(path):
            checkpoint.save_checkpoint(path, state)
            write_log(self._folder / LOG, self.state.records)

    def _identity(self) -> dict[str, Any]:
        """The properties that a run must share with a checkpoint to continue from it.

        Not among them are patience, the number of epochs where the schedule does not depend on it, and options that
        only matter after training.
        """
        options = self._options.to_json()
        free = {"patience", "min_precision", "calibration"}
        free |= set() if options["schedule"] in {"cosine", "onecycle"} else {"epochs"}
        return {
            "backbone": self._backbone.name,
            "outputs": list(self._material.outputs),
            "training tracks": len(self._material.train),
            "first training track": self._material.train[0].digest,
            "digest of all tracks and their tags": self._material.digest(),
            **{name: value for name, value in options.items() if name not in free},
        }

    def _targets(self) -> Tensor:
        return torch.from_numpy(self._material.train_targets())

    def _scale_of_targets(self, *, fresh_dense: bool) -> LogitScale:
        scale = logit_scale(self._targets())
        if fresh_dense and not initialise_output_bias(self._backbone, scale):
            self._progress.say(f"note: backbone {self._backbone.name} has no output bias to initialise")
        return scale.to(self._device)

    def _not_finite(self, batch: Batch, loss: float) -> MusictaggerError:
        state = self.state
        names = some((printable(track.path) for track in batch.tracks), 8)
        kept = "; the last finished epoch is in the checkpoint" if state.epoch else ""
        return MusictaggerError(
            f"the loss is {loss} in epoch {state.epoch + 1}, step {state.step + 1} of {self.steps}, with these tracks: "
            f"{names}. Try a lower --lr or --set precision=float32{kept}"
        )


def write_log(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write a line of JSON for each epoch. Raises MusictaggerError when it cannot be written."""
    try:
        with replacing(path, alone=True) as temporary:
            temporary.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    except OSError as error:
        raise MusictaggerError(f"{path}: cannot be written: {reason_of(error)}") from error
