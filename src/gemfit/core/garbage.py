"""Garbage collection, paused where everything that is made stays."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_collection() -> Iterator[None]:
    """Pause garbage collection: a collection inside would visit all that was made so far and free nothing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def importing() -> Iterator[None]:
    """For many imports: no collection inside, and none after it visits what was imported.

    Collections are a fifth of the CPU time in which the training imports torch and transformers.
    """
    with no_collection():
        yield
        gc.freeze()
