"""One training run from labels to a measured model: dataset, caches, training, model, judgement, report."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
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
from musictagger.datasets.base import Dataset, Split
from musictagger.errors import BadRequestError, ModelError, MusictaggerError, printable
from musictagger.evaluation.bootstrap import Resampling
from musictagger.evaluation.evaluate import evaluate_scores, save_metrics
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
from musictagger.progress import Progress, Silent
from musictagger.training import checkpoint
from musictagger.training.board import require_tensorboard, tensorboard_log
from musictagger.training.build import Origin, build_backbone, origin_of
from musictagger.training.distributed import Processes, joined
from musictagger.training.export import export_model
from musictagger.training.heads.fit import embed_tracks, fit_head, groups_of, pack
from musictagger.training.melcache.cache import MelCache
from musictagger.training.memory import keep_freed_memory
from musictagger.training.optimise import freeze_parts
from musictagger.training.options import TrainOptions
from musictagger.training.prepare import Prepared, check_dataset, prepare, without
from musictagger.training.trainer import BEST, Record, Trainer, TrainResult
from musictagger.training.windows import steps_per_epoch

HEAD_FRAMES = 8
"""Frames of a track that a head is fitted on at most: more of the same track say little that is new."""

Stop = Callable[[], bool]


@dataclass(frozen=True)
class RunRequest:
    """What to train, from what, and where everything goes."""

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
    """What came of it. `weights` is None where nothing was trained to an end."""

    weights: Path | None
    card: Card | None
    epochs: int
    best_epoch: int | None
    interrupted: bool
    report: Path | None
    lines: tuple[str, ...] = ()
    """What a dry run found."""


def run_training(request: RunRequest, progress: Progress) -> Outcome:
    """Train a model. Under torchrun every process calls this with its own `progress`, silent in all but the first.

    Raises BadRequestError for unsuitable options or data, and MusictaggerError for failures during the run, of which
    every finished epoch is in the checkpoint.
    """
    keep_freed_memory()
    if request.threads:
        torch.set_num_threads(request.threads)
    with joined(pick_device(request.settings.device)) as device:
        processes = Processes(device)
        return _run(request, device, processes, progress, lambda: progress.stopping)


def _run(request: RunRequest, device: torch.device, processes: Processes, progress: Progress, stop: Stop) -> Outcome:
    options, settings = request.options, request.settings
    dataset = read_dataset(options.dataset, request.data, settings.genres_file, **options.dataset_options)
    check_dataset(dataset, options, progress)
    origin = origin_of(options, settings, progress)
    # Before an hour of decoding: a configuration or a part to freeze that the backbone does not have.
    backbone = build_backbone(origin, dataset.tags or ("-", "--"), options.seed, settings)
    freeze_parts(backbone, options.freeze)
    _require_learnt(options, origin, backbone)
    if request.tensorboard:
        require_tensorboard()
    if request.dry_run:
        return _nothing(tuple(_plan_lines(request, dataset, origin, backbone)))
    _require_free(request)
    with checkpoint.locked(request.out) if processes.first else nullcontext():
        return _trained(request, dataset, origin, device, processes, progress, stop)


def _trained(
    request: RunRequest,
    dataset: Dataset,
    origin: Origin,
    device: torch.device,
    processes: Processes,
    progress: Progress,
    stop: Stop,
) -> Outcome:
    options, settings = request.options, request.settings
    # The first process fills the caches; the others wait for it, find them full, and stop when all do.
    ready = processes.first and prepare(dataset, origin.front_end, options, settings, request.cache_folder, progress)
    failures = processes.shared(ready.failures if ready else None)
    if failures is None:
        return _nothing((), interrupted=True)
    rest = without(dataset, failures, Silent())
    prepared = ready or prepare(rest, origin.front_end, options, settings, request.cache_folder, Silent())
    assert prepared
    if options.head != "dense":
        if not processes.first:
            return _nothing(())
        made = _with_head(request, prepared, origin, device, progress, stop)
        if made is None:
            return _nothing((), interrupted=True)
        model = made
        fitted = TrainResult()
    else:
        fitted = _fitted(request, origin, prepared, device, progress)
        if fitted.interrupted or not processes.first:
            return Outcome(None, None, fitted.epochs, fitted.best_epoch, fitted.interrupted, None)
        model = _exported(request, prepared, origin, fitted)
    return _measured(request, model, prepared.dataset, fitted, progress)


def _nothing(lines: tuple[str, ...], *, interrupted: bool = False) -> Outcome:
    return Outcome(None, None, 0, None, interrupted, None, lines)


def _require_learnt(options: TrainOptions, origin: Origin, backbone: Backbone) -> None:
    """A classifier on what fresh weights make of a sound looks like a model, and is none."""
    if options.head == "dense" or origin.model is not None:
        return
    if any(not name.startswith("dense") for name, _ in backbone.named_parameters()):
        raise BadRequestError(
            f"head {options.head} is fitted on what a model has learnt, and backbone {origin.backbone} has learnt "
            "nothing yet; name a model with --init, or take --backbone mfcc"
        )


def _require_free(request: RunRequest) -> None:
    """A folder with a checkpoint is a run that somebody may want to go on with, and a model one to keep."""
    if (request.out / checkpoint.NAME).exists():
        if request.options.head != "dense":
            raise BadRequestError(f"{printable(request.out)}: holds a run of another kind; give another --out")
        if not request.resume:
            raise BadRequestError(
                f"{printable(request.out)}: holds a run already; go on with it by --resume, or give another --out"
            )
    elif (request.out / f"{request.name}.safetensors").exists() and not (request.resume and _is_the_same(request)):
        raise BadRequestError(
            f"{printable(request.out)}: holds a model {request.name!r} already; give another --name or --out, "
            "or remove it"
        )
    try:
        request.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadRequestError(f"{printable(request.out)}: cannot be made: {error.strerror}") from error


def _is_the_same(request: RunRequest) -> bool:
    """Whether the model that is there was made with these options: then a run that was cut short may make it again."""
    try:
        training = Card.load(request.out / f"{request.name}.json").training
    except ModelError:
        return False
    return bool(training.get("options") == request.options.to_json())


def _plan_lines(request: RunRequest, dataset: Dataset, origin: Origin, backbone: Backbone) -> list[str]:
    """What a run would take: room, weights, steps."""
    options = request.options
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
        *(_plan_teacher(name, request.settings) for name in options.teachers),
        str(cache.estimate(paths, durations)),
        f"{origin.backbone}: {weights:,} weights",
        training,
        f"a window has {origin.front_end.frame_s:.2f} s: {origin.front_end.n_mels} x {origin.front_end.columns} values",
    ]


def _plan_teacher(name: str, settings: Settings) -> str:
    """Raises BadRequestError for a model nobody knows."""
    weights = find_model(name, settings.model_folders)
    return f"teacher {name}: {printable(weights) if weights else 'not here; the training fetches it first'}"


def _fitted(
    request: RunRequest, origin: Origin, prepared: Prepared, device: torch.device, progress: Progress
) -> TrainResult:
    outputs = prepared.material.outputs
    backbone = build_backbone(origin, outputs, request.options.seed, request.settings)
    with tensorboard_log(request.out / "tensorboard" if request.tensorboard else None) as on_record:
        trainer = Trainer(
            backbone,
            prepared.material,
            request.options,
            request.out,
            device,
            progress,
            fresh_dense=not origin.keeps_dense(outputs),
        )
        if request.resume and not (request.out / checkpoint.NAME).exists():
            progress.say(f"{printable(request.out)}: holds no checkpoint, so training begins at its start")
        elif request.resume:
            trainer.resume()
            progress.say(f"going on after {trainer.state.epoch} epochs and {trainer.state.step} steps")
        return trainer.fit(on_record)


def _exported(request: RunRequest, prepared: Prepared, origin: Origin, fitted: TrainResult) -> Path:
    best = request.out / BEST
    try:
        tensors = load_file(best)
    except (OSError, SafetensorError) as error:
        raise MusictaggerError(
            f"{printable(best)}: the best epoch's weights are gone or damaged ({error}); train again in another --out"
        ) from error
    return _export(request, prepared, origin, tensors, {"epochs": fitted.epochs, "best_epoch": fitted.best_epoch})


def _with_head(
    request: RunRequest, prepared: Prepared, origin: Origin, device: torch.device, progress: Progress, stop: Stop
) -> Path | None:
    """Fit a scikit-learn classifier on the frozen embedding (Roy et al. 2020; Wang et al. 2019, V.G).

    None when stopped before all tracks have one.
    """
    material, options = prepared.material, request.options
    backbone = build_backbone(origin, material.outputs, options.seed, request.settings).eval()
    tracks = material.train
    progress.start("embedding", len(tracks), "tracks")
    embedded = embed_tracks(
        backbone,
        material.front_end,
        material.read_mel,
        tracks,
        device=device,
        most=HEAD_FRAMES,
        advance=progress.advance,
        stop=stop,
    )
    if stop():
        return None
    targets = np.stack([material.target(track, 0.0, math.inf) for track in tracks]) > 0.5
    by_path = {example.path: example for example in prepared.dataset.examples}
    groups = np.asarray(groups_of([by_path[track.path] for track in tracks]))
    assert options.head != "dense"
    head = fit_head(
        options.head,
        embedded.embeddings,
        targets[embedded.tracks],
        groups[embedded.tracks],
        task=material.task,
        names=material.outputs,
        seed=options.seed,
        class_weights=options.class_weights,
        say=progress.say,
    )
    tensors, description = pack(backbone, len(material.outputs), head)
    return _export(request, prepared, origin, tensors, {"head": list(head.notes)}, description)


def _export(
    request: RunRequest,
    prepared: Prepared,
    origin: Origin,
    tensors: Mapping[str, Tensor],
    told: Mapping[str, Any],
    head: Mapping[str, Any] | None = None,
) -> Path:
    dataset, options = prepared.dataset, request.options
    weights = request.out / f"{request.name}.safetensors"
    kind = "genres" if dataset.task == "genre" else "tags"
    with_head = f" with {options.head}" if head else ""
    counts = {split: len(dataset.split(split)) for split in ("train", "valid", "test")}
    export_model(
        weights,
        tensors,
        backbone=origin.backbone,
        config=origin.config,
        front_end=origin.front_end,
        outputs=prepared.material.outputs,
        categories=prepared.categories,
        task=prepared.material.task,
        training={
            "command": request.command,
            "options": options.to_json(),
            "dataset": {"name": dataset.name, "tracks": counts, "notes": list(dataset.notes)},
            "heard": digest_prefixes(
                (track.digest for track in prepared.material.train), origin.model.card if origin.model else None
            ),
            **told,
        },
        description=f"{origin.backbone}{with_head} trained on {counts['train']:,} tracks of {dataset.name}: "
        f"{len(prepared.material.outputs)} {kind}",
        head=head,
        thresholds=prepared.thresholds,
    )
    return weights


def _measured(request: RunRequest, weights: Path, dataset: Dataset, fitted: TrainResult, progress: Progress) -> Outcome:
    """Thresholds from the validation split; figures and report from the test split, or validation where it is empty."""
    settings, options = request.settings, request.options
    predictor = Predictor(load_model(weights, settings.plugin_folders), settings.device, settings.batch_size)
    track_scores = _heard(predictor, dataset, "valid", settings, progress)
    if track_scores.interrupted:
        # Thresholds of the tracks heard so far would look like those of all.
        return Outcome(weights, predictor.card, fitted.epochs, fitted.best_epoch, True, None)
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
        track_scores = _heard(predictor, dataset, "test", settings, progress)
    if track_scores.interrupted:
        return Outcome(weights, card, fitted.epochs, fitted.best_epoch, True, None)
    try:
        evaluation = evaluate_scores(
            card,
            track_scores,
            dataset,
            split,
            aggregator=settings.aggregate,
            resampling=Resampling(seed=options.seed),
        )
    except BadRequestError as error:
        # Too few tracks to measure on is no reason to lose a trained model.
        progress.say(f"not measured: {error}")
        return Outcome(weights, card, fitted.epochs, fitted.best_epoch, False, None)
    progress.say(save_metrics(weights, evaluation))
    card = Card.load(weights.with_suffix(".json"))
    report = None
    if request.report:
        content = Report(
            card=card,
            evaluation=evaluation,
            dataset=dataset,
            records=fitted.records,
            options=options.to_json(),
            command=request.command,
            mels=example_mels(card, evaluation.labelled),
            facts=_facts(fitted.records),
            weights=weights,
        )
        report = write_report(request.out / "report.html", content)
    return Outcome(weights, card, fitted.epochs, fitted.best_epoch, False, report)


def _heard(predictor: Predictor, dataset: Dataset, split: Split, settings: Settings, progress: Progress) -> TrackScores:
    paths = [example.path for example in dataset.split(split)]
    progress.start(f"{split} split", len(paths), "tracks")
    track_scores = score_tracks(predictor, paths, settings, progress)
    if track_scores.failures:
        path, reason = next(iter(track_scores.failures.items()))
        first = f"the first is {printable(path)}: {printable(reason)}"
        progress.say(f"{len(track_scores.failures):,} tracks of the {split} split cannot be judged; {first}")
    return track_scores


def _facts(records: Sequence[Record]) -> dict[str, str]:
    """How fast the training went, where there was any."""
    if not records:
        return {}
    speed = np.mean([record["windows_per_s"] for record in records])
    share = np.mean([record["loader_share"] for record in records])
    return {"Training": f"{speed:.1f} windows a second, {share:.1%} of the time waiting for data"}
