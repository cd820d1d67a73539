"""What an evaluation says, as plain values for a model's card and for reports: figures with their intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from musictagger.evaluation.bootstrap import Counts, Intervals, Statistic, bootstrap, mean_defined, mean_of_rows
from musictagger.evaluation.checks import (
    DoubleArray,
    Indices,
    count_rows,
    validate_genres,
    validate_indices,
    validate_tags,
    validate_thresholds,
)
from musictagger.evaluation.metrics import (
    accuracy,
    class_scores,
    confusion_matrix,
    confusion_statistic,
    jaccard_per_track,
    ndcg_per_track,
    one_hot,
    predict_genres,
    ranking_statistic,
    recall_per_track,
    songs_from_frames,
    tag_confusion,
)
from musictagger.records import Aggregator

RECALL_AT = (1, 3, 5, 10)
NDCG_AT = (50,)
"""Both as in table I of Wang et al. 2019."""

Json = dict[str, Any]


def tag_figures(
    truth: npt.ArrayLike,
    scores: npt.ArrayLike,
    names: Sequence[str],
    thresholds: npt.ArrayLike,
    *,
    ndcg_at: Sequence[int] = NDCG_AT,
    resamples: int = 1000,
    seed: int = 0,
) -> Json:
    """All metrics of a tagging model as JSON values, from `truth` and `scores` [tracks, tags].

    `thresholds` is one score for each tag, or one for all. Each figure is {"value", "low", "high"}: the 95 % bootstrap
    interval over tracks; what is not defined is null. Raises BadRequestError as `validate_tags` and `bootstrap` do.
    """
    flags, checked = validate_tags(truth, scores, names)
    said = checked >= validate_thresholds(thresholds, len(names))
    rows = {f"recall@{k}": recall_per_track(flags, checked, k) for k in RECALL_AT}
    rows |= {f"ndcg@{k}": ndcg_per_track(flags, checked, k) for k in ndcg_at}
    rows["jaccard"] = jaccard_per_track(flags, said)
    ranking = bootstrap(_with_macro(ranking_statistic(flags, checked)), len(flags), resamples=resamples, seed=seed)
    means = bootstrap(_row_means(list(rows.values())), len(flags), resamples=resamples, seed=seed)
    return {
        "tracks": len(flags),
        "tracks_without_tags": int((~flags.any(axis=1)).sum()),
        "resamples": resamples,
        "seed": seed,
        "auc": _macro_and_each(ranking, 0, names),
        "average_precision": _macro_and_each(ranking, 1, names),
        **{name: _figure(means, index) for index, name in enumerate(rows)},
        "left_out": [name for name, value in zip(names, ranking.value[0, 1:], strict=True) if math.isnan(value)],
        "confusion": dict(zip(names, tag_confusion(flags, said).tolist(), strict=True)),
    }


def genre_figures(
    truth: npt.ArrayLike,
    frame_scores: npt.ArrayLike,
    track_of_frame: npt.ArrayLike,
    names: Sequence[str],
    *,
    how: Aggregator = "mean",
    resamples: int = 1000,
    seed: int = 0,
) -> Json:
    """All metrics of a genre model as JSON values, at frame level and at song level (Roy et al. 2020, III).

    `truth` [tracks] indexes `names`, `frame_scores` are [frames, genres] and `track_of_frame` [frames] indexes tracks.
    Both levels resample whole tracks: frames of one track are no independent witnesses. Figures as in `tag_figures`.
    """
    tracks = count_rows(truth, "truth")
    songs = songs_from_frames(frame_scores, track_of_frame, tracks, how)
    genre, _ = validate_genres(truth, songs, names)
    track = validate_indices(track_of_frame, len(np.asarray(frame_scores)), tracks, "track_of_frame")
    frames = np.asarray(frame_scores, np.float64)
    return {
        "tracks": tracks,
        "frames": len(frames),
        "resamples": resamples,
        "seed": seed,
        "genres": list(names),
        "frame": _genre_level(genre[track], frames, track, tracks, names, resamples, seed),
        "song": _genre_level(genre, songs, np.arange(tracks), tracks, names, resamples, seed),
    }


def _genre_level(
    truth: Indices, scores: DoubleArray, track: Indices, tracks: int, names: Sequence[str], resamples: int, seed: int
) -> Json:
    said = predict_genres(scores, names)
    matrices = confusion_statistic(truth, said, len(names))
    ranking = _with_macro(ranking_statistic(one_hot(truth, len(names)), scores))

    def figures(counts: Counts) -> DoubleArray:
        """[resamples, 5, 1 + genres]: accuracy, recall, precision, F1, AUC; first over all, then of each genre."""
        rows = counts[:, track]
        matrix = matrices(rows)
        each = np.stack(class_scores(matrix), axis=1)
        overall = np.concatenate([accuracy(matrix)[:, None], np.full((len(counts), len(names)), np.nan)], axis=1)
        return np.concatenate([overall[:, None], _macro_first(each), ranking(rows)[:, :1]], axis=1)

    found = bootstrap(figures, tracks, resamples=resamples, seed=seed)
    return {
        "accuracy": _figure(found, (0, 0)),
        **{metric: _macro_and_each(found, 1 + index, names) for index, metric in enumerate(_GENRE_METRICS)},
        "left_out": [name for name, value in zip(names, found.value[1, 1:], strict=True) if math.isnan(value)],
        "confusion": confusion_matrix(truth, said, len(names)).tolist(),
    }


_GENRE_METRICS = ("recall", "precision", "f1", "auc")


def _macro_first(each: DoubleArray) -> DoubleArray:
    """[..., tags] -> [..., 1 + tags], their mean in front."""
    return np.concatenate([mean_defined(each)[..., None], each], axis=-1)


def _with_macro(statistic: Statistic) -> Statistic:
    return lambda counts: _macro_first(statistic(counts))


def _row_means(columns: Sequence[DoubleArray]) -> Statistic:
    return lambda counts: np.stack([mean_of_rows(values, counts) for values in columns], axis=1)


def _figure(found: Intervals, where: int | tuple[int, ...]) -> Mapping[str, float | None]:
    return {name: _plain(float(part[where])) for name, part in found._asdict().items()}


def _plain(value: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(value) else value


def _macro_and_each(found: Intervals, row: int, names: Sequence[str]) -> Json:
    each = {name: _figure(found, (row, column)) for column, name in enumerate(names, start=1)}
    return {"macro": _figure(found, (row, 0)), "per_tag": each}
