"""Prefetch batches in one thread per rank, in order, into pinned memory on GPUs.

The thread holds at most ``depth`` batches that are not taken yet, so the cost is their memory. It draws
no random number and communicates with no other rank. From pinned memory batches are copied while the GPU
computes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from queue import Empty, Full, Queue
from typing import Any, NamedTuple, TypeVar

import torch
from torch.utils.data import DataLoader, IterableDataset

from gemfit.train.data.collate import Tensors
from gemfit.train.thread_device import device_setter

T = TypeVar("T")

POLL_SECONDS = 0.1
"""How often a waiting thread checks whether it has been cancelled."""


class _End(NamedTuple):
    """End of the stream, with the error that ended it, if any."""

    error: BaseException | None


class PrefetchLoader(DataLoader[Tensors]):
    """A ``DataLoader`` of whole batches, prefetched by a thread."""

    def __init__(self, batches: IterableDataset[Tensors], *, depth: int, pin: bool) -> None:
        super().__init__(batches, batch_size=None)
        self._depth, self._prepare = depth, pinned if pin else _unchanged

    def __iter__(self) -> Any:
        # Made here and not in the thread: a loader takes its seed from this thread's generator.
        return prefetch(super().__iter__(), self._depth, self._prepare)


def prefetch(source: Iterable[T], depth: int, prepare: Callable[[T], T]) -> Iterator[T]:
    """Items of ``source``, each through ``prepare``, up to ``depth`` of them ahead of the consumer.

    An error in ``source`` is raised where its item would have been. Closing or dropping the iterator ends
    the thread.
    """
    queue: Queue[T | _End] = Queue(depth)
    cancelled, set_device = threading.Event(), device_setter()

    def make() -> None:
        end = _End(None)
        try:
            set_device()  # pinning memory is a CUDA call
            for item in source:
                if not _put(queue, prepare(item), cancelled):
                    return
        except BaseException as error:
            end = _End(error)
        _put(queue, end, cancelled)

    thread = threading.Thread(target=make, name="batches", daemon=True)
    thread.start()
    return _consume(queue, cancelled, thread)


def pinned(batch: Tensors) -> Tensors:
    """The same batch in pinned (page-locked) host memory."""
    return {k: v.pin_memory() if isinstance(v, torch.Tensor) else v for k, v in batch.items()}


def _consume(queue: Queue[T | _End], cancelled: threading.Event, thread: threading.Thread) -> Iterator[T]:
    try:
        while True:
            item = _get(queue, thread)
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item
    finally:
        cancelled.set()


def _put(queue: Queue[Any], item: Any, cancelled: threading.Event) -> bool:
    """Whether ``item`` was put into the queue before the consumer closed it."""
    while not cancelled.is_set():
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
                raise RuntimeError("the prefetch thread died without raising an error") from None


def _unchanged(batch: Tensors) -> Tensors:
    return batch
