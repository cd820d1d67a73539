"""The Python API: load a model once, tag many files. No database, no worker processes, no writing."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from musictagger.audio.frames import Status
from musictagger.audio.walk import FoundFile, stat_file
from musictagger.config import frame_rule, load_settings
from musictagger.errors import AudioError
from musictagger.library.view import view_of
from musictagger.models.calibration import calibrated
from musictagger.models.card import Card
from musictagger.models.inference import load_predictor
from musictagger.pipeline.analyse import NOT_FINITE, analyse
from musictagger.pipeline.worker import Decode, decode
from musictagger.records import Analysed
from musictagger.scores.aggregate import aggregate, merge_outputs
from musictagger.scores.genres import ranked


@dataclass(frozen=True)
class TagScore:
    """One tag of a track: display name, category and score 0..1."""

    name: str
    category: str
    score: float


@dataclass(frozen=True)
class TrackTags:
    """The tags that a model predicts for one file."""

    path: Path
    status: Status
    """ok, too short or silent; only ok has tags."""
    duration_s: float
    padded: bool
    """Whether the track was shorter than a frame and repeated to fill one."""
    tags: tuple[TagScore, ...]
    """All tags, highest score first."""
    genres: tuple[str, ...]
    """The genres that reach their thresholds, best first, as `scan` would write them."""
    tag_names: tuple[str, ...]
    """Names of the columns of `frame_scores`."""
    frame_scores: npt.NDArray[np.float32]
    """float32 [frames, tags], not calibrated: only the scores of whole tracks are."""
    embedding: npt.NDArray[np.float32]
    """float32 [dim], the mean over frames; empty without frames."""


class Tagger:
    """A model on a device, ready to tag files.

    `model` is a name (`musictagger models` lists them; a published model is fetched when it is missing) or the path of
    a .safetensors file; without it, the default model is used. Keyword arguments are those of
    `musictagger.config.Settings`, for example `device="cpu"`, `trim_edges=0.0`, `aggregate="median"`.

    Raises BadRequestError for an unknown model or setting, ModelError when the model cannot be fetched or loaded.
    """

    def __init__(self, model: str | os.PathLike[str] | None = None, **settings: object) -> None:
        loaded = load_settings({"model": os.fspath(model) if model else None, **settings})
        self._predictor = load_predictor(loaded)
        self._view = view_of(self.card, loaded)
        self._rule = frame_rule(self.card.front_end, loaded)

    @property
    def card(self) -> Card:
        """The model's card: vocabulary, front end, licence."""
        return self._predictor.card

    def tag(self, path: str | os.PathLike[str]) -> TrackTags:
        """Tag one file. Raises AudioError, with path and reason, when it cannot be decoded."""
        track = self._analysed(Path(path))
        frame_scores = merge_outputs(track.scores, self.card)
        tag_names = tuple(tag.name for tag in self.card.tags)
        tags: tuple[TagScore, ...] = ()
        genres: tuple[str, ...] = ()
        if track.status == "ok":
            aggregated = aggregate(frame_scores, self._view.aggregator)
            (scores,) = calibrated(aggregated[None], self.card.curves, tag_names)
            tags = tuple(TagScore(tag.name, tag.category, score) for tag, score in ranked(scores, self.card.tags))
            genres = self._view.chooser(scores)
        return TrackTags(
            path=track.file.path,
            status=track.status,
            duration_s=track.duration_s,
            padded=track.padded,
            tags=tags,
            genres=genres,
            tag_names=tag_names,
            frame_scores=frame_scores,
            embedding=track.embedding,
        )

    def _analysed(self, path: Path) -> Analysed:
        file = stat_file(path)
        if not isinstance(file, FoundFile):
            raise AudioError(path, file.reason)
        # Without a library, the digest is not used.
        job = Decode(file, "", self.card.front_end.sample_rate_hz, self._rule)
        (outcome,) = analyse(decode(job), self._predictor)
        if isinstance(outcome, Analysed):
            return outcome
        raise AudioError(path, NOT_FINITE)
