"""From labels and files to what the trainer takes: caches filled, leaks and broken tracks found, targets ready."""

from __future__ import annotations

import dataclasses
import functools
import os
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
from musictagger.models.card import Category
from musictagger.models.vocabulary import tags_for
from musictagger.pipeline.pool import Decoding
from musictagger.progress import Progress
from musictagger.records import FloatArray
from musictagger.training.distillation.targets import DistilledTargets, Teachers
from musictagger.training.distillation.teacher_scores import cache_teacher_scores, load_teachers
from musictagger.training.material import Material
from musictagger.training.melcache.cache import Cached, MelCache
from musictagger.training.options import TrainOptions
from musictagger.training.windows import Target, Track

_SHOWN = 5
"""Broken files that are named; the rest are counted."""

LEARNT_FROM: tuple[Split, ...] = ("train", "valid")


@dataclass(frozen=True)
class Prepared:
    """What the trainer takes, and the dataset as it is after the broken tracks have gone."""

    dataset: Dataset
    """With teachers, its tags are what the student is to say; validation tracks have those that the teachers give them
    by their own thresholds, test tracks those by which they are in the tag's highest tenth."""
    material: Material
    categories: Mapping[str, Category]
    failures: Mapping[Path, str]
    thresholds: Mapping[str, float] = field(default_factory=dict)
    """The teachers', by tag: what a student's tag has that cannot be fitted."""


def decoders(settings: Settings) -> int:
    """Processes that decode: as set, else all cores but the one that makes mels of what they decode."""
    return settings.workers or max(1, (os.cpu_count() or 2) - 1)


def check_dataset(dataset: Dataset, options: TrainOptions, progress: Progress) -> None:
    """Tell what was found; raise BadRequestError where nothing can be learnt from it, or an artist leaks."""
    if options.metric == "accuracy" and (options.teachers or dataset.task == "tags"):
        raise BadRequestError("metric accuracy is of tracks with one genre each; here they have tags: auc or loss")
    if options.calibration == "lift" and dataset.task == "genre" and not options.teachers:
        raise BadRequestError("calibration lift is for tags; genres that exclude each other compare already: platt")
    for line in describe(dataset):
        progress.say(line)
    require_usable(dataset, LEARNT_FROM, taught=bool(options.teachers))
    if not options.teachers:
        _tell_merged(dataset, progress)
    _tell_leaks(check_leaks(dataset, allow=options.allow_leak), progress)


def _tell_merged(dataset: Dataset, progress: Progress) -> None:
    """Words that mean the same are learnt apart and shown as one tag. Raises BadRequestError where all do."""
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
    """Fill the caches for the training and validation tracks; None when stopped before they are full.

    Raises BadRequestError where what is left when the broken tracks have gone cannot be learnt from, or where a sound
    stands in two splits; ModelError for a teacher that cannot be loaded.
    """
    # Before an hour of decoding: a teacher that cannot be loaded.
    teachers = load_teachers(options.teachers, settings, progress)
    cache = MelCache(cache_folder, front_end)
    # What teachers say of the test split is what the student is measured by.
    splits = SPLITS if teachers else LEARNT_FROM
    wanted = [example for example in dataset.examples if example.split in splits]
    decoding = Decoding(decoders(settings), settings.decode_timeout)
    lengths = {example.path: example.duration_s for example in wanted if example.duration_s is not None}
    filled = cache.fill([example.path for example in wanted], decoding=decoding, progress=progress, durations=lengths)
    if filled.interrupted:
        return None
    digests = {path: entry.digest for path, entry in filled.entries.items()}
    passes = cache_teacher_scores(
        teachers, digests, cache_folder, decoding=decoding, progress=progress, device=settings.device
    )
    if passes.interrupted:
        return None
    failures = {**filled.failures, **passes.failures}
    whole = with_lengths(without(dataset, failures, progress), filled.entries)
    if len(lengths) < len(wanted):
        for line in split_lines(whole):
            progress.say(line)
    require_usable(whole, LEARNT_FROM, taught=bool(teachers))
    # The test split is heard only when all is over; a sound that it shares should not cost a whole training.
    digests = cache.digests([example.path for example in dataset.examples], decoding=decoding, progress=progress)
    if progress.stopping:
        return None
    _tell_leaks(check_leaks(whole, digests, allow=options.allow_leak), progress)
    if teachers:
        return _distilled(whole, filled.entries, cache, Teachers(teachers, cache_folder), options, failures)
    return _labelled(whole, filled.entries, cache, failures)


def without(dataset: Dataset, failures: Mapping[Path, str], progress: Progress) -> Dataset:
    """The dataset without the tracks that cannot be used, which are told."""
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


def with_lengths(dataset: Dataset, entries: Mapping[Path, Cached]) -> Dataset:
    """The dataset with the lengths that were found where its labels do not say any."""
    examples = tuple(
        example
        if example.duration_s is not None or example.path not in entries
        else dataclasses.replace(example, duration_s=entries[example.path].duration_s)
        for example in dataset.examples
    )
    return dataclasses.replace(dataset, examples=examples)


def _labelled(
    dataset: Dataset, entries: Mapping[Path, Cached], cache: MelCache, failures: Mapping[Path, str]
) -> Prepared:
    place = {tag: index for index, tag in enumerate(dataset.tags)}

    @functools.lru_cache(1 << 16)
    def flags(tags: tuple[str, ...]) -> FloatArray:
        row = np.zeros(len(place), np.float32)
        row[[place[tag] for tag in tags]] = 1.0
        return row

    def target(track: Track, start_s: float, length_s: float) -> FloatArray:
        return flags(track.tags)

    valid = _tracks(dataset.split("valid"), entries)
    truth = np.stack([flags(track.tags) for track in valid]) > 0
    material = _material(dataset, cache, entries, dataset.tags, target, truth)
    return Prepared(dataset, material, dataset.categories, failures)


def _distilled(
    dataset: Dataset,
    entries: Mapping[Path, Cached],
    cache: MelCache,
    teachers: Teachers,
    options: TrainOptions,
    failures: Mapping[Path, str],
) -> Prepared:
    targets = DistilledTargets(teachers, dataset.tags, dataset.categories, options.hard_weight)

    def target(track: Track, start_s: float, length_s: float) -> FloatArray:
        return targets.target(track.digest, track.tags, start_s, length_s)

    valid, test = (_tracks(dataset.split(split), entries) for split in ("valid", "test"))
    truth_of_valid, truth_of_test = (
        targets.truth([(track.digest, track.tags) for track in tracks]) for tracks in (valid, test)
    )
    decided = {track.path: targets.said(track.digest, track.tags) for track in valid}
    for track, row in zip(test, truth_of_test, strict=True):
        decided[track.path] = tuple(tag for tag, is_one in zip(targets.outputs, row, strict=True) if is_one)
    examples = tuple(dataclasses.replace(e, tags=decided.get(e.path, ())) for e in dataset.examples)
    note = (
        "measured (epochs' AUC, test figures) by the teachers' decisions: scores in the tag's highest tenth of the "
        "split; thresholds, where they are fitted to labels, by where the teachers reach their own"
    )
    student = dataclasses.replace(
        dataset,
        task="tags",
        tags=targets.outputs,
        categories=targets.categories,
        examples=examples,
        notes=(*dataset.notes, note),
        # What no teacher gives a tag is decided too: it has none.
        partial=False,
    )
    material = _material(dataset, cache, entries, targets.outputs, target, truth_of_valid)
    material = dataclasses.replace(material, task="tags")
    return Prepared(student, material, targets.categories, failures, targets.thresholds)


def _material(
    dataset: Dataset,
    cache: MelCache,
    entries: Mapping[Path, Cached],
    outputs: tuple[str, ...],
    target: Target,
    truth: np.ndarray[tuple[int, ...], np.dtype[np.bool_]],
) -> Material:
    train, valid = (_tracks(dataset.split(split), entries) for split in LEARNT_FROM)
    return Material(dataset.task, outputs, cache.front_end, train, valid, cache.mel, target, truth)


def _tracks(examples: Sequence[Example], entries: Mapping[Path, Cached]) -> list[Track]:
    return [
        Track(example.path, entries[example.path].digest, entries[example.path].columns, example.tags)
        for example in examples
    ]


def _tell_leaks(leaks: Sequence[str], progress: Progress) -> None:
    for line in leaks:
        progress.say(f"leak, allowed: {line}")
