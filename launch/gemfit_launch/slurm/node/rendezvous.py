"""Rendezvous of the nodes before the ranks start: names the node that is faulty or unreachable.

One TCP connection per node, on the port that the ranks use afterwards.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from itertools import chain, repeat

from gemfit_launch.slurm.node.running_clock import RunningClock

RENDEZVOUS_SECONDS = 180
POLL_SECONDS = 0.5
RETRY_SECONDS = (0.05, 0.1, 0.2)
"""Pauses after the first attempts: all machines begin at about the same time."""
ANSWER_SECONDS = 2.0
RELEASE = b"go\n"
MAX_GREETING_BYTES = 4096


class PeerError(Exception):
    """A node did not join, or could not be reached."""


def rendezvous(
    *,
    rank: int,
    nodes: int,
    host: str,
    port: int,
    token: str,
    failed: Callable[[], bool],
    patience_seconds: float = RENDEZVOUS_SECONDS,
) -> str | None:
    """Return once all ``nodes`` machines have connected to machine 0.

    Returns the address of this machine that the others reach, or from which it reached machine 0; ``None``
    for a single machine. ``token`` is unique to the attempt: connections with another one are closed.
    ``failed`` returns whether some node has already failed. Raises ``PeerError``.
    """
    if nodes == 1:
        return None
    patience = _Patience(patience_seconds, failed)
    if rank == 0:
        return _receive(nodes, port, token, patience)
    return _join(rank, host, port, token, patience)


@dataclass(frozen=True, slots=True)
class _Patience:
    """How long to wait for the other machines; a suspension of the job does not count."""

    seconds: float
    failed: Callable[[], bool]
    running: RunningClock = field(default_factory=RunningClock)

    def check(self, what: str) -> None:
        """``PeerError`` once another node has failed, or the time is over."""
        if self.failed():
            raise PeerError("another node has failed")
        if self.running.read() > self.seconds:
            raise PeerError(what)


def _receive(nodes: int, port: int, token: str, patience: _Patience) -> str:
    """Wait for every other machine, then release all of them at once."""
    waiting: dict[int, socket.socket] = {}
    with socket.create_server(("", port), backlog=nodes) as server:
        server.settimeout(POLL_SECONDS)
        while len(waiting) < nodes - 1:
            missing = sorted(set(range(1, nodes)) - set(waiting))
            patience.check(f"machine {', '.join(map(str, missing))} did not join")
            if (arrived := _accept(server, token)) is not None:
                rank, client = arrived
                waiting[rank] = client
    address = _own_address(next(iter(waiting.values())))
    for client in waiting.values():
        with closing(client), suppress(OSError):
            client.sendall(RELEASE)
            # The client closes first: the side that does keeps the port in TIME_WAIT for a minute.
            client.recv(1)
    return address


def _accept(server: socket.socket, token: str) -> tuple[int, socket.socket] | None:
    """Rank and socket of the next machine; ``None`` on timeout or for another token."""
    try:
        client, _ = server.accept()
    except TimeoutError:
        return None
    client.settimeout(ANSWER_SECONDS)
    if (rank := _greeting(client, token)) is not None:
        return rank, client
    client.close()
    return None


def _join(rank: int, host: str, port: int, token: str, patience: _Patience) -> str:
    """Connect to machine 0 and wait for its release; reconnects until the time is over."""
    what = f"{host} does not answer on port {port}"
    pauses = chain(RETRY_SECONDS, repeat(POLL_SECONDS))
    while True:
        patience.check(what)
        with (
            suppress(ConnectionError, TimeoutError),
            socket.create_connection((host, port), timeout=ANSWER_SECONDS) as server,
        ):
            server.sendall(f"{token} {rank}\n".encode())
            if _is_released(server, what, patience):
                return _own_address(server)
        time.sleep(next(pauses))


def _is_released(server: socket.socket, what: str, patience: _Patience) -> bool:
    """Wait for the word of machine 0; ``False`` if it has closed the connection."""
    server.settimeout(ANSWER_SECONDS)
    while True:
        try:
            return server.recv(len(RELEASE)) == RELEASE
        except TimeoutError:
            patience.check(what)


def _own_address(connection: socket.socket) -> str:
    address: str = connection.getsockname()[0]
    return address


def _greeting(client: socket.socket, token: str) -> int | None:
    try:
        received, _, rank = client.recv(MAX_GREETING_BYTES).decode("utf-8", "replace").strip().rpartition(" ")
    except OSError:
        return None
    return int(rank) if received == token and rank.isdigit() else None
