"""Returning freed heap memory to the system (``malloc_trim``)."""

from __future__ import annotations

import ctypes


def trim_heap() -> None:
    """Return freed memory to the system (GNU libc; elsewhere nothing), before forks and large stages.

    Without it the peak of a build of 60 MB with a vocabulary of 262,144 entries is 11 % higher (803 instead
    of 722 MiB, proportional set size of all processes), at the same processor time.
    """
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
