"""Time of this rank in its decoder layers: what it computes itself, without waiting for another rank.

``forward`` itself is timed, inside the hooks with which engines gather parameters, so no collective is in the
time. On a GPU events are recorded, and read after the step's loss, which has waited for them: nothing is
synchronised. Costs two readings of a clock per layer and pass, of some microseconds each.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch


class LayerTimer:
    """Sums the time of forward passes of decoder layers, also of those that the backward pass repeats."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._seconds = 0.0
        self._pairs: list[tuple[Any, Any]] = []
        self._free: list[Any] = []

    def watch(self, model: torch.nn.Module, layers: list[str], *, leaves: bool) -> None:
        """Time the modules of these class names; call it after compilation, before an engine wraps ``model``.

        ``leaves``: time the linear modules in them one by one, where collectives happen inside a layer.
        """
        for layer in [module for module in model.modules() if type(module).__name__ in layers]:
            for module in _linear_modules(layer) if leaves else [layer]:
                module.forward = self._timed(module.forward)

    def take(self) -> float:
        """Seconds since the last call; on a GPU, all that was launched before must have ended."""
        for began, ended in self._pairs:
            self._seconds += began.elapsed_time(ended) / 1000
            self._free += [began, ended]
        self._pairs.clear()
        taken, self._seconds = self._seconds, 0.0
        return taken

    def _timed(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(forward)
        def timed(*arguments: Any, **options: Any) -> Any:
            if not torch.is_grad_enabled():  # evaluations are no part of a step
                return forward(*arguments, **options)
            began = self._mark()
            try:
                return forward(*arguments, **options)
            finally:  # recomputation raises when it has all that it needs
                self._add(began, self._mark())

        return timed

    def _add(self, began: Any, ended: Any) -> None:
        if self._on_gpu:
            self._pairs.append((began, ended))
        else:
            self._seconds += ended - began

    def _mark(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event = self._free.pop() if self._free else torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event


def _linear_modules(layer: torch.nn.Module) -> list[torch.nn.Module]:
    return [
        module
        for module in layer.modules()
        if isinstance(module, torch.nn.Linear) and not any(True for _ in module.children())
    ]
