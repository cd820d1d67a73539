"""The report of a training run or an evaluation: one HTML file that needs nothing else, no network and no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from musictagger.models.card import Card
from musictagger.training.datasets.base import Dataset
from musictagger.training.judge import Evaluation

Mel = npt.NDArray[np.float32]


def write_report(
    path: Path,
    *,
    card: Card,
    evaluation: Evaluation,
    dataset: Dataset | None = None,
    records: Sequence[Mapping[str, Any]] = (),
    options: Mapping[str, Any] | None = None,
    command: str = "",
    mels: Sequence[tuple[str, Mel]] = (),
    facts: Mapping[str, str] | None = None,
) -> Path:
    """Write the report as one HTML file, all or nothing, and give its path.

    `records` are the lines of log.jsonl, `options` those of the run (`TrainOptions.to_json`), `command` what was typed,
    `mels` titles with log-mel spectrograms [n_mels, columns] (see `example_mels`), `facts` further lines of the table
    at the top ("Speed": "1,200 x real time", "Size": "3.1 MB"). Whatever is not given is left out of the report.
    Raises BadRequestError when the file cannot be written.
    """
    raise NotImplementedError


def example_mels(card: Card, evaluation: Evaluation, most: int = 6) -> list[tuple[str, Mel]]:
    """Log-mel spectrograms of the first frame of one track for each of the first `most` tags, decoded here."""
    raise NotImplementedError
