"""A process that holds the reference, and checks samples of what an engine encodes while it works.

It loads the reference while the engine is at work already; nobody waits for it before the end. The parent
never blocks on it either: what is offered waits until the process asks for more. Memory: the reference, once.
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
    """Compares what is offered with the reference that ``load`` gives."""

    def __init__(self, load: Callable[[], Encoder]) -> None:
        self._connection, there = _FORK.Pipe()
        self._process = _FORK.Process(target=_serve, args=(load, there, self._connection), daemon=True)
        self._process.start()
        there.close()
        self._offered: list[VerificationSample] = []
        self._asks = False

    def offer(self, picked: VerificationSample) -> None:
        """Have a sample compared; raises the ``EngineMismatch`` of an earlier one once it is known."""
        if picked.texts:
            self._offered.append(picked)
        if self._asks or self._connection.poll():
            self._send()

    def finish(self) -> None:
        """Wait until everything was compared."""
        self._send()
        self._listen()

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.join()
        self._connection.close()

    def _send(self) -> None:
        self._listen()
        if self._offered:
            # A process that is dead is noticed when it is listened to.
            with suppress(BrokenPipeError, ConnectionResetError):
                self._connection.send(self._offered)
            self._offered, self._asks = [], False

    def _listen(self) -> None:
        """Wait until the process asks for more."""
        if self._asks:
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
        self._asks = True


def _serve(load: Callable[[], Encoder], connection: Connection, parents: Connection) -> None:
    """Ask for samples until the parent closes its end, or dies."""
    # Ctrl-C reaches the whole group; the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parents.close()
    try:
        reference = load()
        while True:
            connection.send(None)
            for picked in connection.recv():
                compare(picked, reference)
    except Exception as error:
        with suppress(BrokenPipeError):  # the parent is gone, which is an error as well
            connection.send(error)
