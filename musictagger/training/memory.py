"""The allocator's handling of freed memory, which makes up a third of the training time on a CPU."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""The numbers of glibc's malloc.h."""


def keep_freed_memory() -> bool:
    """Make glibc keep large freed blocks instead of returning them to the system; False where that is not possible.

    A step allocates and frees gigabytes, and every page that is requested anew must be mapped and cleared. Without
    that, a step of 16 windows takes 1.4 s of processor time instead of 2.2 s (CRNN-TF) and 1.0 s instead of 1.4 s
    (FCN). The memory of the process never shrinks. Not possible with other C libraries: macOS, Windows, musl.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))
