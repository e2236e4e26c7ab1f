"""Worker processes: forked from a parent that has everything loaded, fed one task after another.

Only small messages go through the pipes. The fork costs some milliseconds, whatever is loaded, since
memory is shared until somebody writes to it. A worker that dies is named; none outlives its parent.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

from gemfit.data.build.malloc import keep_freed_memory
from gemfit.errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")
_FORK = multiprocessing.get_context("fork")
POLL_SECONDS = 0.2


def run_tasks(
    tasks: Iterable[Task],
    work: Callable[[Task], Result],
    *,
    num_workers: int,
    describe: Callable[[Task], str],
    tick: Callable[[], None] = lambda: None,
) -> Iterator[tuple[Task, Result]]:
    """Do ``work`` on every task, in the order given, by the next idle worker; results as they come.

    ``tasks`` is consumed lazily, one ahead per worker. What ``work`` raises is raised here, after
    the tasks before it in order have ended: so the first failure is the same for any number of workers.
    ``tick`` is called between results, some times per second.
    """
    with closing(_Pool(work, num_workers, describe)) as pool:
        yield from pool.run(tasks, tick)


@dataclass(slots=True)
class _Worker(Generic[Task]):
    number: int
    process: Any
    connection: Connection
    order: int = -1
    """Position of its task among all."""
    task: Task | None = None


class _Pool(Generic[Task, Result]):
    def __init__(
        self, work: Callable[[Task], Result], num_workers: int, describe: Callable[[Task], str]
    ) -> None:
        self._describe = describe
        self._workers: list[_Worker[Task]] = []
        # What is still to be written by the parent would be written by each child again.
        sys.stdout.flush()
        sys.stderr.flush()
        for number in range(num_workers):
            here, there = _FORK.Pipe()
            others = [worker.connection for worker in self._workers]
            process = _FORK.Process(target=_serve, args=(work, there, [here, *others]), daemon=True)
            process.start()
            there.close()
            self._workers.append(_Worker(number, process, here))

    def run(self, tasks: Iterable[Task], tick: Callable[[], None]) -> Iterator[tuple[Task, Result]]:
        source = enumerate(tasks)
        failed: tuple[int, BaseException] | None = None
        idle, busy = list(self._workers), dict[Any, _Worker[Task]]()
        done: list[tuple[Task, Result]] = []
        while True:
            while idle and failed is None:
                try:
                    order, task = next(source)
                except StopIteration:
                    break
                except UserError as unreadable:  # what can be read of the input comes first
                    failed = (sys.maxsize, unreadable)
                    break
                worker = idle.pop(0)
                worker.order, worker.task = order, task
                self._send(worker, task)
                busy[worker.connection] = worker
            # The consumer may take a while over the results: all workers are busy again by now.
            yield from done
            done.clear()
            if failed is not None and all(worker.order > failed[0] for worker in busy.values()):
                raise failed[1]
            if not busy:
                return
            for connection in wait(list(busy), POLL_SECONDS):
                worker = busy.pop(connection)
                error, result = self._receive(worker)
                assert worker.task is not None, "it was busy"
                if error is None:
                    done.append((worker.task, result))
                elif failed is None or worker.order < failed[0]:
                    failed = (worker.order, error)
                idle.append(worker)
            tick()

    def close(self) -> None:
        """End every worker, also one in the middle of a task."""
        for worker in self._workers:
            # SIGTERM may come before a new worker has reset its handler, and be lost: it would live on.
            if worker.process.is_alive():
                worker.process.kill()
        for worker in self._workers:
            worker.process.join()
            worker.connection.close()

    def _send(self, worker: _Worker[Task], task: Task) -> None:
        # A worker that is dead is noticed when its answer is waited for.
        with suppress(BrokenPipeError, ConnectionResetError):
            worker.connection.send(task)

    def _receive(self, worker: _Worker[Task]) -> tuple[BaseException | None, Any]:
        try:
            return worker.connection.recv()
        except (EOFError, ConnectionResetError):
            worker.process.join()
            assert worker.task is not None, "an idle worker is not waited for"
            who = f"worker {worker.number + 1} (process {worker.process.pid})"
            raise UserError(
                f"{who} {_ending(worker.process.exitcode)} while it was at {self._describe(worker.task)}"
            ) from None


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with status {code}"
    name = signal.Signals(-code).name
    hint = " (is memory short? Try fewer --workers)" if name == "SIGKILL" else ""
    return f"was killed by {name}{hint}"


def _serve(work: Callable[[Any], Any], connection: Connection, inherited: list[Connection]) -> None:
    """The life of a worker: until the parent closes its end, or dies."""
    # Ctrl-C reaches the whole group; the parent decides, and ends the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for other in inherited:  # else the pipe of a dead parent would stay open in a brother
        other.close()
    keep_freed_memory()
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        try:
            answer: tuple[BaseException | None, Any] = (None, work(task))
        except Exception as error:
            if not isinstance(error, UserError):
                error.add_note(f"in a worker:\n{traceback.format_exc()}")
            answer = (error, None)
        try:
            connection.send(answer)
        except BrokenPipeError:
            return
