"""One training run from labels to a measured model: dataset, caches, training or head, model, metrics and report."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from musictagger.config import Settings
from musictagger.datasets import read_dataset
from musictagger.datasets.base import SPLITS, Dataset, Split
from musictagger.errors import BadRequestError, ModelError, MusictaggerError, printable
from musictagger.evaluation.bootstrap import Resampling
from musictagger.evaluation.evaluate import Evaluation, evaluate_scores, save_metrics
from musictagger.evaluation.fit_card import fit_card
from musictagger.evaluation.overlap import digest_prefixes
from musictagger.evaluation.report import Report, example_mels, write_report
from musictagger.evaluation.scoring import TrackScores, score_tracks
from musictagger.evaluation.speed import card_speed, measure_speed
from musictagger.models.backbone import Backbone
from musictagger.models.card import Card
from musictagger.models.find import find_model
from musictagger.models.inference import Predictor, pick_device
from musictagger.models.weights import load_model
from musictagger.progress import SILENT, Progress
from musictagger.training import checkpoint
from musictagger.training.build import Origin, build_backbone, origin_of
from musictagger.training.distributed import Processes, joined
from musictagger.training.export import export_model, tags_of_outputs
from musictagger.training.heads.fit import HEAD_FRAMES, train_head
from musictagger.training.melcache.cache import MelCache
from musictagger.training.memory import keep_freed_memory
from musictagger.training.optimise import freeze_layers
from musictagger.training.options import TrainOptions
from musictagger.training.prepare import Prepared, check_dataset, prepare, without
from musictagger.training.trainer import BEST, Record, Trainer, TrainResult
from musictagger.training.windows import steps_per_epoch


@dataclass(frozen=True)
class RunRequest:
    """A run: its options, data, name and folders."""

    options: TrainOptions
    data: Path | str
    out: Path
    """The folder of the run: checkpoint, log.jsonl, report.html, and the model NAME.safetensors with NAME.json."""
    name: str
    settings: Settings
    cache_folder: Path
    resume: bool = False
    dry_run: bool = False
    tensorboard: bool = False
    report: bool = True
    command: str = ""
    threads: int | None = None


@dataclass(frozen=True)
class Outcome:
    """The result of a run. `weights` is None unless a training was finished."""

    weights: Path | None = None
    card: Card | None = None
    epochs: int = 0
    best_epoch: int | None = None
    interrupted: bool = False
    report: Path | None = None
    lines: tuple[str, ...] = ()
    """The findings of a dry run."""


@dataclass(frozen=True)
class _Trained:
    """A trained model before it is written: its tensors, its head, and the card's record of the training."""

    tensors: Mapping[str, Tensor]
    record: Mapping[str, Any]
    head: Mapping[str, Any] | None = None


def run_training(request: RunRequest, progress: Progress) -> Outcome:
    """Train a model. Under torchrun every process calls this with its own `progress`, silent in all but the first.

    Raises BadRequestError for unsuitable options or data, and MusictaggerError for failures during the run, after which
    every finished epoch is in the checkpoint.
    """
    keep_freed_memory()
    if request.threads:
        torch.set_num_threads(request.threads)
    with joined(pick_device(request.settings.device)) as device:
        return Run(request, device, progress).run()


class Run:
    """One training run, in one of its processes."""

    def __init__(self, request: RunRequest, device: torch.device, progress: Progress) -> None:
        self._request, self._options, self._settings = request, request.options, request.settings
        self._device, self._progress = device, progress
        self._processes = Processes(device)
        self._result = TrainResult()

    def run(self) -> Outcome:
        """Run all steps. Raises as `run_training` does."""
        dataset = self._read_dataset()
        self._origin = origin_of(self._options, self._settings, self._progress)
        backbone = self._check_backbone(dataset)
        if self._request.dry_run:
            return Outcome(lines=tuple(_plan_lines(self._request, dataset, self._origin, backbone)))
        _require_free(self._request)
        with checkpoint.locked(self._request.out) if self._processes.first else nullcontext():
            prepared = self._fill_caches(dataset)
            if prepared is None:
                return self._outcome(interrupted=True)
            trained = self._train(prepared) if self._options.head == "dense" else self._fit_head(prepared)
            if trained is None:
                return self._outcome(interrupted=self._result.interrupted)
            return self._measure(self._export(prepared, trained), prepared.dataset)

    def _outcome(self, **found: Any) -> Outcome:
        return Outcome(epochs=self._result.epochs, best_epoch=self._result.best_epoch, **found)

    def _read_dataset(self) -> Dataset:
        options = self._options
        dataset = read_dataset(
            options.dataset, self._request.data, self._settings.genres_file, **options.dataset_options
        )
        check_dataset(dataset, options, self._progress)
        return dataset

    def _check_backbone(self, dataset: Dataset) -> Backbone:
        """Build the backbone once before decoding, which may take an hour, to find wrong options early."""
        options, origin = self._options, self._origin
        backbone = build_backbone(origin, dataset.tags or ("-", "--"), options.seed, self._settings)
        freeze_layers(backbone, options.freeze)
        untrained = any(not name.startswith("dense") for name, _ in backbone.named_parameters())
        if options.head != "dense" and origin.model is None and untrained:
            raise BadRequestError(
                f"head {options.head} is fitted on a trained backbone, and backbone {origin.backbone} is untrained; "
                "name a model with --init, or take --backbone mfcc"
            )
        if self._request.tensorboard:
            _require_tensorboard()
        return backbone

    def _fill_caches(self, dataset: Dataset) -> Prepared | None:
        """The data of the training; None when stopped.

        The first process fills the caches; the others wait for it, and then find them full.
        """
        front_end, options, settings = self._origin.front_end, self._options, self._settings
        folder = self._request.cache_folder
        first = self._processes.first and prepare(dataset, front_end, options, settings, folder, self._progress)
        failures = self._processes.shared(first.failures if first else None)
        if first or failures is None:
            return first or None
        return prepare(without(dataset, failures, SILENT), front_end, options, settings, folder, SILENT)

    def _train(self, prepared: Prepared) -> _Trained | None:
        """Train by gradient; None when stopped, and in all processes but the first."""
        request, outputs = self._request, prepared.material.outputs
        backbone = build_backbone(self._origin, outputs, self._options.seed, self._settings)
        trainer = Trainer(
            backbone,
            prepared.material,
            self._options,
            request.out,
            self._device,
            self._progress,
            fresh_dense=not self._origin.keeps_dense(outputs),
        )
        if request.resume and not (request.out / checkpoint.NAME).exists():
            self._progress.say(f"{printable(request.out)}: holds no checkpoint, so a new training starts")
        elif request.resume:
            trainer.resume()
            self._progress.say(f"resuming after {trainer.state.epoch} epochs and {trainer.state.step} steps")
        with _tensorboard_log(request.out / "tensorboard" if request.tensorboard else None) as on_record:
            self._result = trainer.fit(on_record)
        if self._result.interrupted or not self._processes.first:
            return None
        record = {"epochs": self._result.epochs, "best_epoch": self._result.best_epoch}
        return _Trained(_load_best(request.out / BEST), record)

    def _fit_head(self, prepared: Prepared) -> _Trained | None:
        """Fit a scikit-learn classifier on the frozen embedding (Roy et al. 2020; Wang et al. 2019, V.G).

        None when stopped, and in all processes but the first.
        """
        if not self._processes.first:
            return None
        material, options = prepared.material, self._options
        backbone = build_backbone(self._origin, material.outputs, options.seed, self._settings).eval()
        examples = prepared.dataset.split("train")
        head = train_head(backbone, material, examples, options, self._device, self._progress)
        if head is None:
            self._result = TrainResult(interrupted=True)
            return None
        tensors, description = head
        return _Trained(tensors, {"head": description["fitted"]["notes"]}, description)

    def _export(self, prepared: Prepared, trained: _Trained) -> Path:
        """Write the model, and return the path of its weights."""
        dataset, material, origin, options = prepared.dataset, prepared.material, self._origin, self._options
        weights = self._request.out / f"{self._request.name}.safetensors"
        with_head = f" with {options.head}" if trained.head else ""
        counts = {split: len(dataset.split(split)) for split in SPLITS}
        kind = "genres" if dataset.task == "genre" else "tags"
        initial = origin.model.card if origin.model else None
        card = Card(
            name=weights.stem,
            backbone=origin.backbone,
            config=origin.config,
            front_end=origin.front_end,
            outputs=material.outputs,
            tags=tags_of_outputs(material.outputs, material.task, dataset.categories, prepared.thresholds),
            task=material.task,
            weights_sha256="",
            description=f"{origin.backbone}{with_head} trained on {counts['train']:,} tracks of {dataset.name}: "
            f"{len(material.outputs)} {kind}",
            licence="as the music and labels it was trained on allow",
            training={
                "command": self._request.command,
                "options": options.to_json(),
                "dataset": {"name": dataset.name, "tracks": counts, "notes": list(dataset.notes)},
                "heard": digest_prefixes((track.digest for track in material.train), initial),
                **trained.record,
            },
            head=trained.head,
        )
        export_model(weights, trained.tensors, card)
        return weights

    def _measure(self, weights: Path, dataset: Dataset) -> Outcome:
        """Fit thresholds on the validation split, measure on the test split or, if that is empty, on validation."""
        settings, options = self._settings, self._options
        predictor = Predictor(load_model(weights, settings.plugin_folders), settings.device, settings.batch_size)
        track_scores = self._score(predictor, dataset, "valid")
        if track_scores.interrupted:
            # Thresholds fitted on some of the tracks would look like those of all tracks.
            return self._outcome(weights=weights, card=predictor.card, interrupted=True)
        card = fit_card(
            predictor.card,
            track_scores,
            dataset,
            calibration=options.calibration,
            min_precision=options.min_precision,
            aggregator=settings.aggregate,
        )
        (speed,) = measure_speed([predictor])
        card = dataclasses.replace(card, training={**card.training, "speed": card_speed(predictor, speed)})
        card.save(weights.with_suffix(".json"))
        split: Split = "test" if dataset.split("test") else "valid"
        if split == "test":
            track_scores = self._score(predictor, dataset, "test")
        if track_scores.interrupted:
            return self._outcome(weights=weights, card=card, interrupted=True)
        resampling = Resampling(seed=options.seed)
        try:
            evaluation = evaluate_scores(
                card, track_scores, dataset, split, aggregator=settings.aggregate, resampling=resampling
            )
        except BadRequestError as error:
            # Keep the trained model even if there are too few tracks to measure it.
            self._progress.say(f"not measured: {error}")
            return self._outcome(weights=weights, card=card)
        self._progress.say(save_metrics(weights, evaluation))
        card = Card.load(weights.with_suffix(".json"))
        report = self._write_report(weights, card, evaluation, dataset) if self._request.report else None
        return self._outcome(weights=weights, card=card, report=report)

    def _score(self, predictor: Predictor, dataset: Dataset, split: Split) -> TrackScores:
        paths = [example.path for example in dataset.split(split)]
        self._progress.start(f"{split} split", len(paths), "tracks")
        track_scores = score_tracks(predictor, paths, self._settings, self._progress)
        if track_scores.failures:
            path, reason = next(iter(track_scores.failures.items()))
            first = f"the first is {printable(path)}: {printable(reason)}"
            self._progress.say(f"{len(track_scores.failures):,} tracks of the {split} split cannot be scored; {first}")
        return track_scores

    def _write_report(self, weights: Path, card: Card, evaluation: Evaluation, dataset: Dataset) -> Path:
        records = self._result.records
        report = Report(
            card=card,
            evaluation=evaluation,
            dataset=dataset,
            records=records,
            options=self._options.to_json(),
            command=self._request.command,
            mels=example_mels(card, evaluation.labelled),
            facts=_speed_facts(records),
            weights=weights,
        )
        return write_report(self._request.out / "report.html", report)


def _load_best(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise MusictaggerError(
            f"{printable(path)}: the best epoch's weights are missing or damaged ({error}); train in another --out"
        ) from error


def _require_free(request: RunRequest) -> None:
    """Raise BadRequestError for a folder with a run that could be resumed, or a model of this name."""
    if (request.out / checkpoint.NAME).exists():
        if request.options.head != "dense":
            raise BadRequestError(f"{printable(request.out)}: holds a run of another kind; give another --out")
        if not request.resume:
            raise BadRequestError(
                f"{printable(request.out)}: holds a run already; continue it with --resume, or give another --out"
            )
    elif (request.out / f"{request.name}.safetensors").exists() and not (request.resume and _has_same_options(request)):
        raise BadRequestError(
            f"{printable(request.out)}: holds a model {request.name!r} already; give another --name or --out, "
            "or remove it"
        )
    try:
        request.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadRequestError(f"{printable(request.out)}: cannot be created: {error.strerror}") from error


def _has_same_options(request: RunRequest) -> bool:
    """Return whether the existing model was trained with these options, so that an interrupted run may replace it."""
    try:
        training = Card.load(request.out / f"{request.name}.json").training
    except ModelError:
        return False
    return bool(training.get("options") == request.options.to_json())


def _plan_lines(request: RunRequest, dataset: Dataset, origin: Origin, backbone: Backbone) -> list[str]:
    """The size of a run: disk space, weights, steps. Raises BadRequestError for an unknown teacher."""
    options = request.options
    teachers = {name: find_model(name, request.settings.model_folders) for name in options.teachers}
    missing = "missing; the training fetches it first"
    train = dataset.split("train")
    durations = {e.path: e.duration_s for e in dataset.examples if e.duration_s is not None}
    cache = MelCache(request.cache_folder, origin.front_end)
    paths = [example.path for example in dataset.examples if example.split != "test"]
    weights = sum(weight.numel() for weight in backbone.parameters())
    steps = steps_per_epoch(options.windows(len(train)), options.batch_size)
    training = f"{options.epochs} epochs, {steps:,} steps each, {options.batch_size} windows a step"
    if options.head != "dense":
        training = f"head {options.head} on at most {HEAD_FRAMES} frames of each of {len(train):,} tracks"
    return [
        *(f"teacher {name}: {printable(path) if path else missing}" for name, path in teachers.items()),
        str(cache.estimate(paths, durations)),
        f"{origin.backbone}: {weights:,} weights",
        training,
        f"a window has {origin.front_end.frame_s:.2f} s: {origin.front_end.n_mels} x {origin.front_end.columns} values",
    ]


def _speed_facts(records: Sequence[Record]) -> dict[str, str]:
    """The speed of the training, unless a head was fitted."""
    if not records:
        return {}
    speed = np.mean([record["windows_per_s"] for record in records])
    share = np.mean([record["loader_share"] for record in records])
    return {"Training": f"{speed:.1f} windows a second, {share:.1%} of the time waiting for data"}


def _require_tensorboard() -> Any:
    """TensorBoard's SummaryWriter. Raises BadRequestError where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise BadRequestError("--tensorboard needs TensorBoard: pip install 'musictagger[tensorboard]'") from error
    return SummaryWriter


@contextmanager
def _tensorboard_log(folder: Path | None) -> Iterator[Callable[[Record], None]]:
    """A function that writes an epoch's metrics into `folder`; without a folder, it does nothing."""
    if folder is None:
        yield lambda record: None
        return
    with _require_tensorboard()(str(folder)) as writer:

        def write(record: Record) -> None:
            for name, value in record.items():
                if isinstance(value, float):
                    writer.add_scalar(name, value, record["epoch"])
            writer.flush()

        yield write
