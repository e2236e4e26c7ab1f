"""Copies of a rank's share of a checkpoint into host memory, while the GPU computes.

Pinned memory is what a GPU copies into at the full rate of its bus, without the host. The copies are made on
a CUDA stream of their own: it waits for the work that was given to the GPU before, and the next optimizer
step waits for it, since no other kernel changes parameters or moments. Without a GPU the same buffer is
filled at once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import TypeAlias

import torch
from torch.cuda._pin_memory_utils import pin_memory, unpin_memory
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from gemfit.train.checkpoint.dcp_planner import FlatShard
from gemfit.train.checkpoint.engine_state import State

logger = logging.getLogger(__name__)

Pairs: TypeAlias = list[tuple[torch.Tensor, torch.Tensor]]
"""Targets and sources."""
ALIGNMENT = 64
"""Bytes; of each tensor in the buffer, as torch aligns its own."""


class HostCopy:
    """A state in host memory, complete after ``wait``."""

    def __init__(self, state: State, size: int, finish: Callable[[], float]) -> None:
        self.state = state
        self.bytes = size
        """Bytes that were copied; those of views are not."""
        self._finish = finish

    def wait(self) -> float:
        """Return when all is copied, from any thread; the seconds that copying took."""
        return self._finish()


class HostMemory:
    """One buffer for the copies of all checkpoints of an attempt, pinned where a GPU copies into it.

    Every page is touched when it is made, so it is kept until ``release``. A copy overwrites the one before.
    """

    def __init__(self) -> None:
        self._buffer = torch.empty(0, dtype=torch.uint8)
        self._pinned = False
        self._hook: RemovableHandle | None = None

    def copy(self, state: State, *, everything: bool) -> HostCopy:
        """Begin to copy ``state``; with ``everything`` also what is in host memory already, else as views.

        The next step of any torch optimizer waits for the copy, on the GPU.
        """
        sources = {name: _tensor(value) for name, value in state.items()}
        copied = {name: t for name, t in sources.items() if everything or is_on_gpu(t)}
        uses_gpu = any(map(is_on_gpu, copied.values()))
        places, size = _lay_out(copied)
        self._reserve(size, pinned=uses_gpu)
        targets = {name: self._part(places[name], tensor) for name, tensor in copied.items()}
        pairs = [(targets[name], copied[name]) for name in copied]
        finish = self._copy_on_stream(pairs) if uses_gpu else _copy_now(pairs)
        shares = {
            name: _with_tensor(value, targets.get(name, sources[name])) for name, value in state.items()
        }
        return HostCopy(shares, sum(tensor.nbytes for tensor in copied.values()), finish)

    def release(self) -> None:
        """Free the buffer. No copy may be under way or in use."""
        self._wait_before_steps(None)
        if self._pinned:
            unpin_memory(self._buffer.data_ptr())
        self._buffer, self._pinned = torch.empty(0, dtype=torch.uint8), False

    def _reserve(self, size: int, *, pinned: bool) -> None:
        if size <= self._buffer.nbytes:
            return
        self.release()
        self._buffer = torch.empty(size, dtype=torch.uint8)
        if pinned:
            try:
                pin_memory(self._buffer.data_ptr(), size)
                self._pinned = True
            except RuntimeError as error:
                with suppress(RuntimeError):
                    launch_kernel()
                logger.warning(
                    "%d bytes of host memory cannot be pinned, so copies of checkpoints are slower: %s",
                    *(size, error),
                )

    def _copy_on_stream(self, pairs: Pairs) -> Callable[[], float]:
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        began, ended = (_timed_event() for _ in range(2))
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            began.record()
            for target, source in pairs:
                target.copy_(source, non_blocking=True)
            ended.record()
        self._wait_before_steps(ended)

        def finish() -> float:
            ended.synchronize()
            pairs.clear()  # only now may memory of a source be used for something else
            return float(began.elapsed_time(ended)) / 1000

        return finish

    def _wait_before_steps(self, ended: torch.cuda.Event | None) -> None:
        """Let the GPU wait for ``ended`` before each step of an optimizer, in place of an earlier event.

        A hook cannot remove itself, and waiting for an event of the past costs nothing.
        """
        if self._hook is not None:
            self._hook.remove()
        self._hook = None
        if ended is not None:
            self._hook = register_optimizer_step_pre_hook(
                lambda *_: torch.cuda.current_stream().wait_event(ended)
            )

    def _part(self, start: int, like: torch.Tensor) -> torch.Tensor:
        return self._buffer[start : start + like.nbytes].view(like.dtype).view(like.shape)


def is_on_gpu(tensor: torch.Tensor) -> bool:
    """Whether ``tensor`` has to be copied to be in host memory."""
    return tensor.device.type != "cpu"


def _tensor(value: torch.Tensor | FlatShard) -> torch.Tensor:
    return (value.flat if isinstance(value, FlatShard) else value).detach()


def _with_tensor(value: torch.Tensor | FlatShard, tensor: torch.Tensor) -> torch.Tensor | FlatShard:
    return replace(value, flat=tensor) if isinstance(value, FlatShard) else tensor


def _lay_out(tensors: dict[str, torch.Tensor]) -> tuple[dict[str, int], int]:
    """Where each tensor begins in the buffer, and the bytes of all."""
    places, end = dict[str, int](), 0
    for name, tensor in tensors.items():
        places[name] = end
        end += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
    return places, end


def _copy_now(pairs: Pairs) -> Callable[[], float]:
    began = time.perf_counter()
    for target, source in pairs:
        target.copy_(source)
    seconds = time.perf_counter() - began
    return lambda: seconds


def launch_kernel() -> None:
    """Launch any kernel; it raises the last error of a CUDA call that nobody has taken, whose ever it was."""
    torch.ones((), device="cuda")


def _timed_event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
