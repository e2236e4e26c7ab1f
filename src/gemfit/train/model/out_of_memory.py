"""Errors that say that memory ran out."""

from __future__ import annotations

import torch


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, of a GPU or of the host; the kernel's own killer leaves no error."""
    kinds = (torch.OutOfMemoryError, MemoryError)
    # The second is what torch's allocator for CPUs says, in a plain RuntimeError.
    words = ("out of memory", "can't allocate memory")
    return isinstance(error, kinds) or any(word in str(error).lower() for word in words)
