"""Collective calls that propagate errors: a function runs on one rank or all; all go on, or all raise.

A rank that raises alone leaves the others waiting in the next collective until a timeout. Here the
outcome travels to every rank first: one small object per call. Without a process group it is a call.
A background thread passes a ``group`` of its own, which holds all ranks.
"""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, TypeVar

import torch.distributed as dist

from gemfit.core.launcher_environment import WATCHED_VARIABLE

T = TypeVar("T")

ROUND_SECONDS = 60.0
"""How often the ranks meet during work of unknown length; see ``in_rounds``."""

COLLECTIVE_TIMEOUT = timedelta(days=30) if WATCHED_VARIABLE in os.environ else timedelta(minutes=30)
"""How long a rank waits for the others in a collective: what one of them does meanwhile must take less.

A job that Slurm has suspended for longer would crash when it continues. Where a supervisor ends an attempt
that hangs, the ranks leave it to that.
"""


@dataclass(frozen=True, slots=True)
class _Outcome(Generic[T]):
    value: T | None = None
    error: Exception | None = None


def rank() -> int:
    """Number of this rank; 0 without a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of ranks; 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def on_first_rank(action: Callable[[], T], group: Any = None) -> T:
    """Run ``action`` on rank 0; every rank returns its value, or raises its exception."""
    outcome = _attempt(action) if rank() == 0 else _Outcome()
    if dist.is_initialized():
        box: list[Any] = [_sendable(outcome)]
        dist.broadcast_object_list(box, src=0, group=group)
        outcome = outcome if rank() == 0 else box[0]
    return _unwrap(outcome)


def on_every_rank(action: Callable[[], T], group: Any = None) -> list[T]:
    """Run ``action`` everywhere; every rank returns all values in order, or raises the first failure."""
    outcome = _attempt(action)
    if not dist.is_initialized():
        return [_unwrap(outcome)]
    outcomes: list[Any] = [None] * world_size()
    dist.all_gather_object(outcomes, _sendable(outcome), group=group)
    _unwrap(outcome)  # a rank that failed itself raises its own error, with its traceback
    return [_unwrap(other) for other in outcomes]


def in_rounds(
    work: Generator[object, None, T], after_round: Callable[[], None] = lambda: None, group: Any = None
) -> list[T]:
    """Run ``work`` to its end on every rank; every rank returns all values, or raises the first failure.

    For work of any size, which takes longer on one rank than on another: the ranks meet every
    ``ROUND_SECONDS`` and call ``after_round``, so none waits for much longer than one item of ``work`` takes.
    """
    ended: _Outcome[T] | None = None

    def advance() -> _Outcome[T] | None:
        nonlocal ended
        deadline = time.monotonic() + ROUND_SECONDS
        while ended is None:
            try:
                next(work)
            except StopIteration as end:
                ended = _Outcome(value=end.value)
            if time.monotonic() >= deadline:
                break
        return ended

    while True:
        rounds = on_every_rank(advance, group)
        after_round()
        if all(outcome is not None for outcome in rounds):
            return [_unwrap(outcome) for outcome in rounds if outcome is not None]


def _attempt(action: Callable[[], T]) -> _Outcome[T]:
    try:
        return _Outcome(value=action())
    except Exception as error:
        return _Outcome(error=error)


def _unwrap(outcome: _Outcome[T]) -> T:
    if outcome.error is not None:
        raise outcome.error
    return outcome.value  # type: ignore[return-value]  # None only where T allows it


def _sendable(outcome: _Outcome[T]) -> _Outcome[T]:
    try:
        pickle.loads(pickle.dumps(outcome))  # some exceptions pickle, and fail when they are read
    except Exception:
        return _Outcome(error=RuntimeError(f"rank {rank()}: {outcome.error!r}"))
    return outcome
