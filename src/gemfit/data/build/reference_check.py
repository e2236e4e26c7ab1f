"""Reference process: compares samples of what an engine encodes with the reference, while it works.

It loads the reference while the engine already runs; the build waits for it only at the end. ``offer`` never
blocks: samples are queued until the process asks for more. Memory: the reference, once.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection

from gemfit.data.tokenize.protocol import Encoder
from gemfit.data.tokenize.verification import VerificationSample, compare
from gemfit.errors import UserError

_FORK = multiprocessing.get_context("fork")


class ReferenceChecker:
    """The parent's end of the reference process; ``load`` makes the reference, in that process."""

    def __init__(self, load: Callable[[], Encoder]) -> None:
        self._connection, child_end = _FORK.Pipe()
        self._process = _FORK.Process(target=_serve, args=(load, child_end, self._connection), daemon=True)
        self._process.start()
        child_end.close()
        self._queue: list[VerificationSample] = []
        self._is_asking = False

    def offer(self, sample: VerificationSample) -> None:
        """Queue a sample; raises the ``EngineMismatch`` of an earlier one once it is known."""
        if sample.texts:
            self._queue.append(sample)
        if self._is_asking or self._connection.poll():
            self._send()

    def finish(self) -> None:
        """Wait until all samples were compared."""
        self._send()
        self._await_request()

    def close(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.join()
        self._connection.close()

    def _send(self) -> None:
        self._await_request()
        if self._queue:
            # A dead process is noticed by the next receive.
            with suppress(BrokenPipeError, ConnectionResetError):
                self._connection.send(self._queue)
            self._queue, self._is_asking = [], False

    def _await_request(self) -> None:
        """Wait until the process asks for more."""
        if self._is_asking:
            return
        try:
            error = self._connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            raise UserError(
                f"the process that checks the engine ended with status {self._process.exitcode} "
                "(is memory short?); run again, or use --engine tokenizers"
            ) from None
        if error is not None:
            raise error
        self._is_asking = True


def _serve(load: Callable[[], Encoder], connection: Connection, parent_end: Connection) -> None:
    """Loop of the reference process: ask for samples until the parent closes its end, or dies."""
    # Ctrl-C reaches the whole group; the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent_end.close()
    try:
        reference = load()
        while True:
            connection.send(None)
            for sample in connection.recv():
                compare(sample, reference)
    except Exception as error:
        with suppress(BrokenPipeError):  # the parent is gone, which is an error as well
            connection.send(error)
