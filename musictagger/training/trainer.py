"""The training loop: windows in, the best epoch's weights out.

Source of the procedures: Wang et al. 2019 (V.C), Panwar et al. 2017 (IV), Roy et al. 2020 (III). The loop is plain
torch and knows no file but those of its own folder: the checkpoint, the best weights and log.jsonl.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from musictagger.audio.logmel import LogMel
from musictagger.errors import BadRequestError, MusictaggerError, printable
from musictagger.models.backbone import Backbone
from musictagger.models.weights import save_weights
from musictagger.paths import replacing
from musictagger.progress import Progress
from musictagger.training import augment, checkpoint
from musictagger.training.distributed import Processes
from musictagger.training.material import Material
from musictagger.training.optimise import (
    LogitScale,
    average,
    average_decay,
    begin_usual,
    class_weights,
    computes_in_bfloat16,
    follow_fast,
    freeze_parts,
    l2_penalty,
    logit_scale,
    lr_at,
    make_optimiser,
    window_losses,
)
from musictagger.training.options import TrainOptions
from musictagger.training.validation import quality, validate
from musictagger.training.windows import Batch, WindowLoader, plan_epoch, steps_per_epoch

BEST = "best.safetensors"
LOG = "log.jsonl"

Record = dict[str, Any]


@dataclass
class State:
    """Where a run stands. `step` counts within the epoch; the loss and the times are those of the epoch so far."""

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0
    waited_s: float = 0.0
    best: float | None = None
    best_epoch: int | None = None
    records: list[Record] = field(default_factory=list)


@dataclass(frozen=True)
class Fitted:
    """How a run ended."""

    epochs: int
    best_epoch: int | None
    interrupted: bool
    records: Sequence[Record]


class Trainer:
    """One run of one backbone. `fit` trains it; `resume` first goes back to the folder's checkpoint.

    With torch.distributed set up, each process makes one with the same arguments, and only the first writes and tells.
    """

    def __init__(
        self,
        backbone: Backbone,
        material: Material,
        options: TrainOptions,
        folder: Path,
        device: torch.device,
        progress: Progress,
        on_record: Callable[[Record], None] = lambda record: None,
        *,
        fresh_dense: bool = True,
    ) -> None:
        """`fresh_dense`: whether the dense layer has learnt nothing yet."""
        self._material, self._options, self._folder = material, options, folder
        self._device, self._progress, self._on_record = device, progress, on_record
        self._processes = Processes(device)
        self._backbone: Backbone = backbone.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._frozen = freeze_parts(self._backbone, options.freeze)
        # Before the weights are copied: to the other processes, and as the average's first.
        self._scale = self._scale_of_targets(fresh_dense=fresh_dense) if options.balanced else None
        self._network = self._processes.wrap(self._backbone)
        self._trained = [weight for weight in self._backbone.parameters() if weight.requires_grad]
        self._optimiser = make_optimiser(self._trained, options)
        self._averaged = copy.deepcopy(self._backbone).requires_grad_(False) if options.ema else None
        self._log_mel = LogMel(material.front_end).to(device)
        self._bfloat16 = computes_in_bfloat16(device, options.precision)
        self._weights = class_weights(self._targets(), material.task).to(device) if options.class_weights else None
        rank, world = self._processes.rank, self._processes.world
        self._reader = WindowLoader(material.train, material.read_mel, material.front_end, material.target, rank, world)
        self._windows = options.windows(len(material.train))
        self.steps = steps_per_epoch(self._windows, options.batch_size)
        if self._windows // self.steps < world:
            raise BadRequestError(
                f"{world} processes cannot share steps of {self._windows // self.steps} windows; "
                "start fewer, or raise --batch-size"
            )
        self.state = State()

    def fit(self, stop: Callable[[], bool] = lambda: False) -> Fitted:
        """Train until the last epoch, until nothing gets better, or until `stop`; then the checkpoint is there.

        Raises MusictaggerError where the loss is no number, or where a checkpoint cannot be written.
        """
        state = self.state
        while not self._over():
            if not self._train_epoch(stop):
                self._save()
                return Fitted(state.epoch, state.best_epoch, True, state.records)
            self._judge_epoch()
            self._save()
        return Fitted(state.epoch, state.best_epoch, False, state.records)

    def resume(self) -> None:
        """Go on where the checkpoint in the folder was made. Raises as load_checkpoint does."""
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

    def _train_epoch(self, stop: Callable[[], bool]) -> bool:
        """Train the rest of an epoch; False when stopped before its end."""
        state, options = self.state, self._options
        material = self._material
        plan = plan_epoch(len(material.train), self._windows, options.batch_size, options.seed, state.epoch)
        self._progress.start(f"epoch {state.epoch + 1} of {options.epochs}", len(plan.track), "windows")
        self._set_mode()
        asked_s = time.perf_counter()
        for batch in self._reader.epoch(plan, state.step):
            got_s = time.perf_counter()
            total_steps = state.epoch * plan.steps + state.step
            if not options.init:
                follow_fast(self._backbone, total_steps)
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
            if self._processes.any(stop()) and state.step < plan.steps:
                return False
        return True

    def _step(self, batch: Batch, lr: float) -> float:
        """One step of the optimiser; the loss over all processes."""
        options, state = self._options, self.state
        # Dropout draws from torch's own generator; everything else from one of this step's.
        torch.manual_seed(_dropout_seed(options.seed, state.epoch, state.step, self._processes.rank))
        mel, target = self._augmented(batch)
        with self._autocast():
            logits = self._network(mel).logits
        losses = window_losses(logits, target, self._material.task, self._weights, options.label_smoothing, self._scale)
        # Processes average their gradients: a share of the sum over the whole step, times their number, gives its mean.
        loss = losses.sum() / batch.windows * self._processes.world
        total = self._processes.sum(losses.detach().sum()) / batch.windows
        if not math.isfinite(total):
            raise self._not_a_number(batch, total)
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
            average(self._averaged, self._backbone, average_decay(step, self._options.ema))

    def _augmented(self, batch: Batch) -> tuple[Tensor, Tensor]:
        options = self._options
        random = augment.step_generator(options.seed, self.state.epoch, self.state.step)
        mel, target = batch.mel.to(self._device), batch.target.to(self._device)
        front_end, place = self._material.front_end, (random, batch.first, batch.windows)
        for change in (augment.bend, augment.change_level, augment.add_noise):
            mel = change(mel, front_end, options, *place)
        mel, target = augment.mix(self._log_mel.frame(mel), target, options, *place)
        return augment.mask(mel, options, *place), target

    def _judge_epoch(self) -> None:
        """Validate, tell, log, and keep the weights if they are the best so far."""
        state, options = self.state, self._options
        record: Record = {"epoch": state.epoch + 1}
        if self._processes.first:
            loader_share = state.waited_s / max(state.seconds, 1e-9)
            record |= {
                "lr": lr_at((state.epoch + 1) * self.steps - 1, self.steps, options),
                "train_loss": state.loss_sum / self.steps,
                **self._validate(),
                "seconds": round(state.seconds, 3),
                "windows_per_s": round(self._windows / max(state.seconds, 1e-9), 2),
                "loader_share": round(loader_share, 4),
            }
        record = self._processes.shared(record)
        figure = quality(record, options.metric, self._material.task)
        if state.best is None or figure > state.best:
            state.best, state.best_epoch = figure, state.epoch + 1
            if self._processes.first:
                with checkpoint.kept(self._folder / checkpoint.NAME):
                    save_weights(self._judged.state_dict(), self._folder / BEST)
        record["best"] = state.best_epoch == state.epoch + 1
        state.records.append(record)
        state.epoch, state.step = state.epoch + 1, 0
        state.loss_sum = state.seconds = state.waited_s = 0.0
        self._progress.epoch(record)
        if self._processes.first:
            self._on_record(record)

    def _validate(self) -> Record:
        return validate(
            self._judged,
            self._material,
            self._log_mel,
            self._device,
            self._autocast(),
            self._progress,
            self._scale,
        )

    @property
    def _judged(self) -> nn.Module:
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
        with checkpoint.kept(path):
            checkpoint.save_checkpoint(path, state)
            write_log(self._folder / LOG, self.state.records)

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a checkpoint to be gone on from.

        More patience is allowed, more epochs where the schedule does not depend on their number, and whatever counts
        only when training is over.
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

    def _set_mode(self) -> None:
        self._network.train()
        for part in self._frozen:
            part.eval()

    def _targets(self) -> Tensor:
        """Those of the training tracks as wholes, float32 [tracks, outputs]."""
        material = self._material
        return torch.from_numpy(np.stack([material.target(track, 0.0, math.inf) for track in material.train]))

    def _scale_of_targets(self, *, fresh_dense: bool) -> LogitScale:
        scale = logit_scale(self._targets())
        if fresh_dense and not begin_usual(self._backbone, scale):
            self._progress.say(
                f"note: backbone {self._backbone.name} has no dense layer that could begin at usual scores"
            )
        return scale.to(self._device)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._bfloat16)

    def _not_a_number(self, batch: Batch, loss: float) -> MusictaggerError:
        state = self.state
        names = ", ".join(printable(track.path) for track in batch.tracks[:8])
        more = f" and {len(batch.tracks) - 8} more" if len(batch.tracks) > 8 else ""
        kept = "; the last finished epoch is in the checkpoint" if state.epoch else ""
        return MusictaggerError(
            f"the loss is {loss} in epoch {state.epoch + 1}, step {state.step + 1} of {self.steps}, with these tracks: "
            f"{names}{more}. Try a lower --lr or --set precision=float32{kept}"
        )


def write_log(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """One JSON object a line, one an epoch. Raises MusictaggerError when it cannot be written."""
    try:
        with replacing(path, alone=True) as temporary:
            temporary.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    except OSError as error:
        raise MusictaggerError(f"{path}: cannot be written: {error.strerror}") from error


def read_log(path: Path) -> Iterator[Record]:
    """The epochs that `write_log` wrote."""
    yield from (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())


def _dropout_seed(seed: int, epoch: int, step: int, rank: int) -> int:
    return augment.step_generator(seed + 7919 * rank + 1, epoch, step).initial_seed()
