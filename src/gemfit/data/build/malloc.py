"""Freed heap memory: returned to the system (``malloc_trim``), or kept for the next allocation (``mallopt``).

Both are functions of GNU libc; elsewhere nothing happens, and a build takes some memory or time more.
"""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Parameters of ``mallopt``, from ``malloc.h``."""
KEPT_BYTES = 2**28


def trim_heap() -> None:
    """Return freed memory to the system, before forks and large stages.

    Without it the peak of a build of 60 MB with a vocabulary of 262,144 entries is 11 % higher (803 instead
    of 722 MiB, proportional set size of all processes), at the same processor time.
    """
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def keep_freed_memory() -> None:
    """Allocate from freed memory in this process, instead of returning it and faulting in new pages.

    Every block needs arrays of the same sizes, and the largest are above the 32 MiB up to which the library
    keeps memory by itself. Zeroed pages for them are a seventh of the processor time of a block.
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(_M_MMAP_THRESHOLD, KEPT_BYTES)
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
