"""Rendezvous of the nodes before the ranks start: names the node that is faulty or unreachable.

One TCP connection per node, on the port that the ranks use afterwards.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import closing, suppress

RENDEZVOUS_SECONDS = 180
POLL_SECONDS = 0.5
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
    deadline = time.monotonic() + patience_seconds
    if nodes == 1:
        return None
    if rank == 0:
        return _receive(nodes, port, token, failed, deadline)
    return _join(rank, host, port, token, failed, deadline)


def _receive(nodes: int, port: int, token: str, failed: Callable[[], bool], deadline: float) -> str:
    """Wait for every other machine, then release all of them at once."""
    waiting: dict[int, socket.socket] = {}
    with socket.create_server(("", port), backlog=nodes) as server:
        server.settimeout(POLL_SECONDS)
        while len(waiting) < nodes - 1:
            missing = sorted(set(range(1, nodes)) - set(waiting))
            _check_wait(f"machine {', '.join(map(str, missing))} did not join", failed, deadline)
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


def _join(rank: int, host: str, port: int, token: str, failed: Callable[[], bool], deadline: float) -> str:
    """Connect to machine 0 and wait for its release; reconnects until the deadline."""
    while True:
        _check_wait(f"{host} does not answer on port {port}", failed, deadline)
        with (
            suppress(ConnectionError, TimeoutError),
            socket.create_connection((host, port), timeout=ANSWER_SECONDS) as server,
        ):
            server.sendall(f"{token} {rank}\n".encode())
            server.settimeout(max(1.0, deadline - time.monotonic()))
            if server.recv(len(RELEASE)) == RELEASE:
                return _own_address(server)
        time.sleep(POLL_SECONDS)


def _own_address(connection: socket.socket) -> str:
    address: str = connection.getsockname()[0]
    return address


def _greeting(client: socket.socket, token: str) -> int | None:
    try:
        received, _, rank = client.recv(MAX_GREETING_BYTES).decode("utf-8", "replace").strip().rpartition(" ")
    except OSError:
        return None
    return int(rank) if received == token and rank.isdigit() else None


def _check_wait(what: str, failed: Callable[[], bool], deadline: float) -> None:
    if failed():
        raise PeerError("another node has failed")
    if time.monotonic() > deadline:
        raise PeerError(what)
