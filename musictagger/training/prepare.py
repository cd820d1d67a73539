"""From a dataset to the input of the trainer: fills caches, finds leaks and unusable tracks, prepares targets."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from musictagger.audio.frontend import FrontEnd
from musictagger.config import Settings
from musictagger.datasets.base import (
    SPLITS,
    Dataset,
    Example,
    Split,
    check_leaks,
    describe,
    require_usable,
    split_lines,
)
from musictagger.errors import BadRequestError, printable
from musictagger.models.vocabulary import tags_for
from musictagger.pipeline.pool import Decoding
from musictagger.progress import Progress
from musictagger.training.distillation.targets import CachedTeachers, StudentTargets
from musictagger.training.distillation.teacher_scores import cache_teacher_scores, load_teachers
from musictagger.training.melcache.cache import Cached, MelCache
from musictagger.training.options import TrainOptions
from musictagger.training.windows import Material, Track

_SHOWN = 5
"""Unusable files that are named; the rest are counted."""

TRAINING_SPLITS: tuple[Split, ...] = ("train", "valid")


@dataclass(frozen=True)
class Prepared:
    """The data of a training, and the dataset without its unusable tracks."""

    dataset: Dataset
    """With teachers, its tags are the student's outputs; validation tracks have those that reach the teachers'
    thresholds, test tracks those whose scores are in the tag's highest tenth."""
    material: Material
    failures: Mapping[Path, str]
    thresholds: Mapping[str, float] = field(default_factory=dict)
    """The teachers' thresholds by tag, for tags of the student whose thresholds cannot be fitted."""


def check_dataset(dataset: Dataset, options: TrainOptions, progress: Progress) -> None:
    """Report the dataset; raise BadRequestError where it is unsuitable for training, or an artist is in two splits."""
    if options.metric == "accuracy" and (options.teachers or dataset.task == "tags"):
        raise BadRequestError(
            "metric accuracy needs tracks with one genre each; these have tags, so choose auc or loss"
        )
    if options.calibration == "lift" and dataset.task == "genre" and not options.teachers:
        raise BadRequestError("calibration lift is for tags; for genres that exclude each other choose platt")
    for line in describe(dataset):
        progress.say(line)
    require_usable(dataset, TRAINING_SPLITS, with_teachers=bool(options.teachers))
    if not options.teachers:
        _report_merged(dataset, progress)
    _check_leaks(dataset, {}, options, progress)


def _report_merged(dataset: Dataset, progress: Progress) -> None:
    """Report tags that are trained separately and shown as one. Raises BadRequestError where all mean the same."""
    tags = tags_for(dataset.tags, 0.5)
    for tag in tags:
        if len(tag.outputs) > 1:
            progress.say(f"note: taken to mean the same: {', '.join(tag.outputs)} as {tag.name}")
    if len(tags) < 2:
        raise BadRequestError(f"dataset {dataset.name}: all its tags mean {tags[0].name!r}; at least two are needed")


def prepare(
    dataset: Dataset,
    front_end: FrontEnd,
    options: TrainOptions,
    settings: Settings,
    cache_folder: Path,
    progress: Progress,
) -> Prepared | None:
    """Fill the caches for the tracks that the training needs; None when stopped before they are full.

    Raises BadRequestError where the usable tracks are unsuitable for training or the same audio is in two splits, and
    ModelError for a teacher that cannot be loaded.
    """
    # Before decoding, which may take an hour: a teacher may fail to load.
    teachers = load_teachers(options.teachers, settings, progress)
    cache = MelCache(cache_folder, front_end)
    # With teachers, the student is measured by their scores on the test split.
    splits = SPLITS if teachers else TRAINING_SPLITS
    examples = [example for example in dataset.examples if example.split in splits]
    decoding = Decoding.of(settings, cpu_inference=False)
    lengths = {example.path: example.duration_s for example in examples if example.duration_s is not None}
    filled = cache.fill([example.path for example in examples], decoding=decoding, progress=progress, durations=lengths)
    if filled.interrupted:
        return None
    digests = {path: entry.digest for path, entry in filled.entries.items()}
    passes = cache_teacher_scores(
        teachers, digests, cache_folder, decoding=decoding, progress=progress, device=settings.device
    )
    if passes.interrupted:
        return None
    failures = {**filled.failures, **passes.failures}
    usable = _with_lengths(without(dataset, failures, progress), filled.entries)
    if len(lengths) < len(examples):
        for line in split_lines(usable):
            progress.say(line)
    require_usable(usable, TRAINING_SPLITS, with_teachers=bool(teachers))
    # Before training, because the test split is decoded only after it, and a leak would make the training useless.
    digests = cache.digests([example.path for example in dataset.examples], decoding=decoding, progress=progress)
    if progress.stopping:
        return None
    _check_leaks(usable, digests, options, progress)
    tracks = {split: _tracks(usable.split(split), filled.entries) for split in splits}
    train, valid = tracks["train"], tracks["valid"]
    if not teachers:
        labels = functools.lru_cache(1 << 16)(lambda tags: np.array([tag in tags for tag in usable.tags], np.float32))
        truth = np.stack([labels(track.tags) for track in valid]) > 0
        # Labels apply to any excerpt of a track.
        material = Material(
            usable.task, usable.tags, front_end, train, valid, cache.mel, lambda track, *_: labels(track.tags), truth
        )
        return Prepared(usable, material, failures)
    targets = StudentTargets(
        CachedTeachers(teachers, cache_folder), usable.tags, usable.categories, options.hard_weight
    )
    truth = targets.truth(valid)
    material = Material("tags", targets.outputs, front_end, train, valid, cache.mel, targets.target, truth)
    return Prepared(_student_dataset(usable, tracks, targets), material, failures, targets.thresholds)


def without(dataset: Dataset, failures: Mapping[Path, str], progress: Progress) -> Dataset:
    """The dataset without its unusable tracks, which are reported."""
    if not failures:
        return dataset
    progress.say(f"{len(failures):,} tracks cannot be used and are left out:")
    for path, reason in list(failures.items())[:_SHOWN]:
        progress.say(f"  {printable(path)}: {printable(reason)}")
    if len(failures) > _SHOWN:
        progress.say(f"  and {len(failures) - _SHOWN:,} more")
    note = f"{len(failures):,} tracks could not be decoded and were left out"
    examples = tuple(example for example in dataset.examples if example.path not in failures)
    return dataclasses.replace(dataset, examples=examples, notes=(*dataset.notes, note))


def _with_lengths(dataset: Dataset, entries: Mapping[Path, Cached]) -> Dataset:
    """The dataset with measured lengths where its labels give none."""
    examples = tuple(
        example
        if example.duration_s is not None or example.path not in entries
        else dataclasses.replace(example, duration_s=entries[example.path].duration_s)
        for example in dataset.examples
    )
    return dataclasses.replace(dataset, examples=examples)


def _tracks(examples: Sequence[Example], entries: Mapping[Path, Cached]) -> list[Track]:
    return [
        Track(example.path, entries[example.path].digest, entries[example.path].columns, example.tags)
        for example in examples
    ]


def _student_dataset(dataset: Dataset, tracks: Mapping[Split, Sequence[Track]], targets: StudentTargets) -> Dataset:
    """The dataset with the teachers' decisions as tags (see `Prepared.dataset`)."""
    tags = {track.path: targets.tags_above_threshold(track) for track in tracks["valid"]}
    for track, row in zip(tracks["test"], targets.truth(tracks["test"]), strict=True):
        tags[track.path] = targets.names(row)
    note = (
        "metrics are measured against the teachers' decisions: scores in the highest tenth of the tag in the split. "
        "Thresholds that are fitted to labels are fitted to the teachers' own thresholds"
    )
    return dataclasses.replace(
        dataset,
        task="tags",
        tags=targets.outputs,
        categories=targets.categories,
        examples=tuple(dataclasses.replace(each, tags=tags.get(each.path, ())) for each in dataset.examples),
        notes=(*dataset.notes, note),
        # A track without any tag of the teachers is labelled as having none.
        partial=False,
    )


def _check_leaks(dataset: Dataset, digests: Mapping[Path, str], options: TrainOptions, progress: Progress) -> None:
    for line in check_leaks(dataset, digests, allow=options.allow_leak):
        progress.say(f"leak, allowed: {line}")
