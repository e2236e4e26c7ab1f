"""The CUDA device of threads: each starts at GPU 0, whichever one its rank trains on."""

from __future__ import annotations

from collections.abc import Callable

import torch


def device_setter() -> Callable[[], None]:
    """A function for a new thread to call first: it selects the GPU of the thread that asks for it here.

    Otherwise a CUDA call of the new thread creates a context on GPU 0, some 0.5 GB for each rank of the node.
    """
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return _nothing
    device = torch.cuda.current_device()
    return lambda: torch.cuda.set_device(device)


def _nothing() -> None:
    """Without CUDA there is no device to select."""
