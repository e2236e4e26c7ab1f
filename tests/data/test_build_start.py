"""Workers of a build keep freed memory, since fresh pages for every block would cost a tenth of the time."""

from __future__ import annotations

import multiprocessing
import resource
from multiprocessing.connection import Connection

import numpy as np

from gemfit.data.build.malloc import keep_freed_memory

BYTES = 48 * 2**20
"""More than the library keeps by itself."""


def test_a_worker_uses_freed_memory_again() -> None:
    fork = multiprocessing.get_context("fork")
    here, there = fork.Pipe()
    process = fork.Process(target=_faults, args=(there,))
    process.start()
    before, after = here.recv()
    process.join()
    assert after < before / 10


def _faults(connection: Connection) -> None:
    def count() -> int:
        start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(4):
            memory = np.empty(BYTES, np.uint8)
            memory[::4096] = 1
            del memory
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start

    before = count()
    keep_freed_memory()
    count()
    connection.send((before, count()))
