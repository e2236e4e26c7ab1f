"""What a build does not spend its time on: foreign packages, and fresh pages for every block."""

from __future__ import annotations

import multiprocessing
import resource
import subprocess
import sys
from multiprocessing.connection import Connection

import numpy as np
import pytest

from gemfit.data.build.malloc import keep_freed

BYTES = 48 * 2**20
"""More than the library keeps by itself."""


def test_the_first_compiled_function_imports_no_package_that_extends_numba() -> None:
    pytest.importorskip("awkward", reason="no package that extends numba is installed")
    code = """
import sys
import numpy as np
from gemfit.data.build.setup import pass_over_extensions
from gemfit.data.tokenize.sampling import pick_texts
if sys.argv[1] == "pass":
    pass_over_extensions()
pick_texts(b"text", np.array([4]), 1)
print("awkward" in sys.modules)
"""
    for how, imported in (("as it is", "True\n"), ("pass", "False\n")):
        argv = [sys.executable, "-c", code, how]
        done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
        assert done.stdout == imported


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
    keep_freed()
    count()
    connection.send((before, count()))
