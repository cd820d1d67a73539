"""Metrics of the epochs for TensorBoard, an optional dependency."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from musictagger.errors import BadRequestError
from musictagger.training.trainer import Record


def require_tensorboard() -> Any:
    """TensorBoard's SummaryWriter. Raises BadRequestError where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise BadRequestError("--tensorboard needs TensorBoard: pip install 'musictagger[tensorboard]'") from error
    return SummaryWriter


@contextmanager
def tensorboard_log(folder: Path | None) -> Iterator[Callable[[Record], None]]:
    """A function that writes an epoch's metrics into `folder`; without a folder, it does nothing."""
    if folder is None:
        yield lambda record: None
        return
    with require_tensorboard()(str(folder)) as writer:

        def write(record: Record) -> None:
            for name, value in record.items():
                if isinstance(value, float):
                    writer.add_scalar(name, value, record["epoch"])
            writer.flush()

        yield write
