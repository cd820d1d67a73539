"""The processes of one run: alone, or several that `torchrun` started. Alone, everything here costs nothing."""

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
    """What the processes of a run agree on. `rank` 0 is the one that writes files and talks to people."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and tells."""
        return self.rank == 0

    def wrap(self, backbone: Backbone) -> nn.Module:
        """The backbone so that its gradients are the mean over all processes; itself where there is one."""
        trains = any(weight.requires_grad for weight in backbone.parameters())
        if self.world == 1 or not trains:
            return backbone
        network: nn.Module = backbone
        if self._device.type == "cuda":
            # Statistics over the whole step, as one process has them. torch has no such layer for the CPU.
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return DistributedDataParallel(network)

    def sum(self, value: Tensor) -> float:
        """The sum of a number over all processes."""
        if self.world > 1:
            dist.all_reduce(value)
        return float(value.item())

    def any(self, flag: bool) -> bool:
        """Whether any process says yes: all must stop at the same step."""
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
    """Join the other processes if torchrun started this one; the device that this process is to use.

    Raises MusictaggerError where another process has gone.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield device
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    mine = torch.device("cuda", local % torch.cuda.device_count()) if device.type == "cuda" else device
    # The others wait while the first one decodes; torch gives up after half an hour. One that dies is noticed at once.
    dist.init_process_group("nccl" if mine.type == "cuda" else "gloo", timeout=timedelta(days=7))
    try:
        yield mine
    except RuntimeError as error:
        if "gloo" in str(error) or isinstance(error, dist.DistBackendError):
            raise MusictaggerError("another process of this run has ended; what it said is why") from error
        raise
    finally:
        dist.destroy_process_group()
