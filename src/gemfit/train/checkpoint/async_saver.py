"""Asynchronous checkpoint saves: a step waits for a copy to host memory, and a thread writes the copy.

It costs host memory for this rank's share of parameters and moments (12 bytes per trained parameter, over
the ranks) from the first save on. The threads of all ranks communicate over a gloo group of their own,
so their messages cannot mix with those of the training. One save is under way at a time. All that the thread
asks of CUDA is whether the copy is complete. Synchronous saves use the group of the training.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import torch.distributed as dist

from gemfit.rundir import RunDir
from gemfit.schemas.metrics import SaveRecord
from gemfit.train.checkpoint.host_copy import HostMemory
from gemfit.train.checkpoint.save_load import SaveContext, Snapshot, TrainingState, take_snapshot, write
from gemfit.train.collective import COLLECTIVE_TIMEOUT, rank
from gemfit.train.thread_device import device_setter

logger = logging.getLogger(__name__)


class Saver:
    """Saves the checkpoints of one attempt. Leaving ``with`` waits for the last commit."""

    def __init__(
        self,
        run: RunDir,
        context: SaveContext,
        *,
        asynchronous: bool,
        max_lost_steps: int | None = None,
        on_commit: Callable[[SaveRecord], None] = lambda record: None,
        make_heartbeat: Callable[[], Callable[[], None]] = lambda: lambda: None,
    ) -> None:
        """Collective. ``on_commit`` is called on rank 0, from the thread that has written.

        ``make_heartbeat`` makes the heartbeat of one save; it is called while the training waits for it.

        ``max_lost_steps`` is the bound of ``bound_lost_steps``; `None`: none but that of one save at a time.
        """
        self._run, self._context, self._asynchronous = run, context, asynchronous
        self._max_lost_steps = max_lost_steps
        self.safe_step = 0
        """The newest step that a crash cannot lose; a resume sets it."""
        self._on_commit, self._make_heartbeat = on_commit, make_heartbeat
        # In order of creation on every rank, and never one that the training uses.
        self._group = _thread_group() if asynchronous and dist.is_initialized() else None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint", initializer=device_setter())
        self._memory = HostMemory()
        self._bounding_since: float | None = None
        """When the training began to wait for the newest save in ``bound_lost_steps``."""
        self._underway: Future[None] | None = None
        """The save of the thread, as long as the training does not wait for it."""

    def save(self, training: TrainingState, *, step: int, cursor_row: int, eval_loss: float | None) -> None:
        """Snapshot ``training`` after ``step`` and write it; waits for an earlier save first.

        ``cursor_row`` is the next row of the data, ``eval_loss`` the validation loss at ``step`` if there is
        one. Collective. An error of the earlier save is raised, on every rank.
        """
        began = time.perf_counter()
        self.wait()
        self._bounding_since = None
        snapshot = take_snapshot(
            training,
            self._memory,
            step=step,
            cursor_row=cursor_row,
            eval_loss=eval_loss,
            copied=self._asynchronous,
        )
        if self._asynchronous:
            stall = time.perf_counter() - began
            self._underway = self._thread.submit(self._write, snapshot, began, stall)
        else:
            self._write(snapshot, began, None)

    def bound_lost_steps(self, step: int) -> None:
        """Wait for the save under way if a crash at ``step`` would lose more than ``max_lost_steps``.

        Every rank calls it at the same step; an error of the save is raised on each. The record of the save
        counts this wait as a stall.
        """
        if self._max_lost_steps is not None and step - self.safe_step > self._max_lost_steps:
            self._bounding_since = time.perf_counter()
            self.wait()

    @property
    def failed(self) -> bool:
        """Whether the save under way has failed on this rank; it then fails on the others too."""
        underway = self._underway
        return underway is not None and underway.done() and underway.exception() is not None

    def wait(self) -> None:
        """Return when the save under way is committed, or raise its error, on every rank."""
        underway, self._underway = self._underway, None
        if underway is not None:
            underway.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.wait()
        except Exception as lost:
            if error is None:
                raise
            # The training has failed: its error is the one to raise, but the snapshot is still saved.
            logger.error("the checkpoint under way was not saved: %s", lost)
        finally:
            self._memory.release()

    def _write(self, snapshot: Snapshot, began: float, stall_seconds: float | None) -> None:
        began_writing = time.perf_counter()
        heartbeat = self._make_heartbeat()

        def beat() -> None:
            if self._underway is None:  # else steps show that the attempt is alive
                heartbeat()

        copy_seconds = snapshot.copy.wait()
        size = write(self._run, self._context, snapshot, self._group, heartbeat=beat)
        # Read before the end is measured, so that the wait is not negative where it begins in between.
        bounding_since, ended = self._bounding_since, time.perf_counter()
        bounding_seconds = 0.0 if bounding_since is None else ended - bounding_since
        self.safe_step = snapshot.step
        record = SaveRecord(
            attempt=self._context.attempt,
            step=snapshot.step,
            stall_seconds=ended - began if stall_seconds is None else stall_seconds + bounding_seconds,
            write_seconds=ended - began_writing,
            bytes=size,
            copied_bytes=snapshot.copy.bytes,
            copy_seconds=copy_seconds,
            time=time.time(),
        )
        if rank() == 0:
            self._on_commit(record)
            logger.info(
                "step %d: checkpoint of %d bytes; training waited %.3f s, writing took %.3f s%s",
                *(record.step, size, record.stall_seconds, record.write_seconds, _copy_rate(record)),
            )


def _copy_rate(record: SaveRecord) -> str:
    if not record.copied_bytes or not record.copy_seconds:
        return ""
    rate = record.copied_bytes / record.copy_seconds / 1e9
    return f", copying {record.copied_bytes} bytes of this rank to host memory {rate:.1f} GB/s"


def _thread_group() -> Any:
    """A group of all ranks for their checkpoint threads; over sockets, since NCCL would use the GPU."""
    return dist.new_group(backend="gloo", timeout=COLLECTIVE_TIMEOUT)
