"""The processes of one training: one, or several that `torchrun` started. With one, nothing is communicated."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from musictagger.errors import MusictaggerError
from musictagger.models.backbone import Backbone


class Processes:
    """Communication between the processes of a run. The one of `rank` 0 writes files and reports progress."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and reports progress."""
        return self.rank == 0

    def wrap(self, backbone: Backbone) -> nn.Module:
        """The backbone with gradients averaged over all processes; unchanged where there is one."""
        trains = any(weight.requires_grad for weight in backbone.parameters())
        if self.world == 1 or not trains:
            return backbone
        network: nn.Module = backbone
        if self._device.type == "cuda":
            # Statistics over the whole step, as with one process. torch has no such layer for the CPU.
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return DistributedDataParallel(network)

    def sum(self, value: Tensor) -> float:
        """The sum of a number over all processes."""
        if self.world > 1:
            dist.all_reduce(value)
        return float(value.item())

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in any process: all must stop at the same step."""
        return self.sum(torch.tensor(float(flag), device=self._device)) > 0 if self.world > 1 else flag

    def shared(self, value: Any) -> Any:
        """The first process's value, in every process."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=self._device)
        return box[0]


@contextmanager
def joined(device: torch.device) -> Iterator[torch.device]:
    """Join the other processes if torchrun started this one, and yield the device that this process uses.

    Raises MusictaggerError where another process has ended.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield device
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    own = torch.device("cuda", local % torch.cuda.device_count()) if device.type == "cuda" else device
    # The others wait while the first one decodes, longer than torch's half an hour. One that dies is noticed at once.
    dist.init_process_group("nccl" if own.type == "cuda" else "gloo", timeout=timedelta(days=7))
    try:
        yield own
    except RuntimeError as error:
        if "gloo" in str(error) or isinstance(error, dist.DistBackendError):
            raise MusictaggerError("another process of this run has ended; its own message gives the reason") from error
        raise
    finally:
        dist.destroy_process_group()
