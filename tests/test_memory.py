"""Freed memory stays with the process where the C library allows it."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource
import torch
from musictagger.training.memory import keep_freed_memory

def page_faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(25_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

usual = page_faults()
assert keep_freed_memory()
print(usual, min(page_faults() for _ in range(6)))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the setting")
def test_freed_blocks_are_used_again() -> None:
    """Freed blocks come from the process's own heap, without a page fault for each page.

    The heap may still grow during a round or two, depending on where threads put small blocks; so the round with the
    fewest page faults counts. Without the setting every round has as many as the first.
    """
    # In a process of its own, because the setting would stay for the other tests.
    printed = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True).stdout
    usual, kept = map(int, printed.split())
    assert kept < usual / 10
