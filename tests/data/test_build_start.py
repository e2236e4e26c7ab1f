"""Worker processes allocate from freed memory, since new pages for every block cost a seventh of its time."""

from __future__ import annotations

import resource

import numpy as np

from gemfit.data.build.worker_pool import run_tasks

BYTES = 48 * 2**20
"""More than the C library keeps by itself."""
PAGE = 4096


def page_faults(_: int) -> int:
    """Page faults of memory that is allocated, written and freed four times."""
    start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        memory = np.empty(BYTES, np.uint8)
        memory[::PAGE] = 1
        del memory
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start


def test_a_worker_allocates_from_freed_memory() -> None:
    faults = [found for _, found in run_tasks(range(2), page_faults, num_workers=1, describe=str)]
    # The first task faults in each page once; a process with the library's defaults does so every time.
    assert faults[1] < faults[0] / 10
