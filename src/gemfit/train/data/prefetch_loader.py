"""Micro-batches made ahead of the model, by one thread a rank, in the order in which they are asked for.

The thread makes at most ``depth`` batches that nobody has taken yet, so what it costs is their memory. It
draws no random number and asks no other rank. On GPUs it puts tensors into pinned memory, from which they
are copied while the GPU computes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from queue import Empty, Full, Queue
from typing import Any, NamedTuple, TypeVar

import torch
from torch.utils.data import DataLoader, IterableDataset

from gemfit.train.data.collate import Tensors

T = TypeVar("T")

POLL_SECONDS = 0.1
"""How often a thread that waits looks whether it is still wanted."""


class _End(NamedTuple):
    """Nothing follows; with the error that it ended by, if any."""

    error: BaseException | None


class BatchesAhead(DataLoader[Tensors]):
    """A loader of ready-made batches that are waiting when they are asked for."""

    def __init__(self, batches: IterableDataset[Tensors], *, depth: int, pin: bool) -> None:
        super().__init__(batches, batch_size=None)
        self._depth, self._prepare = depth, pinned if pin else _as_it_is

    def __iter__(self) -> Any:
        # Made here and not in the thread: a loader takes its seed from this thread's generator.
        return ahead(super().__iter__(), self._depth, self._prepare)


def ahead(source: Iterable[T], depth: int, prepare: Callable[[T], T]) -> Iterator[T]:
    """The items of ``source``, each through ``prepare``, up to ``depth`` of them ahead of the caller.

    An error in ``source`` is raised where its item would have been. Closing the iterator, or letting go of
    it, ends the thread.
    """
    queue: Queue[T | _End] = Queue(depth)
    unwanted = threading.Event()

    def make() -> None:
        end = _End(None)
        try:
            for item in source:
                if not _put(queue, prepare(item), unwanted):
                    return
        except BaseException as error:
            end = _End(error)
        _put(queue, end, unwanted)

    thread = threading.Thread(target=make, name="batches", daemon=True)
    thread.start()
    return _taken(queue, unwanted, thread)


def pinned(batch: Tensors) -> Tensors:
    """The same batch in memory from which a GPU can copy by itself."""
    return {k: v.pin_memory() if isinstance(v, torch.Tensor) else v for k, v in batch.items()}


def _taken(queue: Queue[T | _End], unwanted: threading.Event, thread: threading.Thread) -> Iterator[T]:
    try:
        while True:
            item = _get(queue, thread)
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item
    finally:
        unwanted.set()


def _put(queue: Queue[Any], item: Any, unwanted: threading.Event) -> bool:
    """Whether ``item`` found room before nobody wanted any more."""
    while not unwanted.is_set():
        try:
            queue.put(item, timeout=POLL_SECONDS)
        except Full:
            continue
        return True
    return False


def _get(queue: Queue[Any], thread: threading.Thread) -> Any:
    while True:
        try:
            return queue.get(timeout=POLL_SECONDS)
        except Empty:
            if not thread.is_alive() and queue.empty():
                raise RuntimeError("the thread that makes batches has died without a word") from None


def _as_it_is(batch: Tensors) -> Tensors:
    return batch
