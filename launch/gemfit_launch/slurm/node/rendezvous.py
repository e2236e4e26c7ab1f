"""Nodes meet before the ranks start: all are healthy and reach machine 0, or the one that is not is named.

One TCP connection for each node, on the port that the ranks use afterwards.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import closing, suppress

MEETING_SECONDS = 180
POLL_SECONDS = 0.5
ANSWER_SECONDS = 2.0
GO = b"go\n"
MAX_GREETING_BYTES = 4096


class PeerError(Exception):
    """A node that did not come, or could not be reached."""


def meet(
    *,
    rank: int,
    nodes: int,
    host: str,
    port: int,
    token: str,
    failed: Callable[[], bool],
    patience_seconds: float = MEETING_SECONDS,
) -> None:
    """Return once all ``nodes`` machines have met at machine 0.

    ``token`` is the attempt's own: what arrives with another one belongs to somebody else. ``failed``
    tells that some node has already given up. Raises ``PeerError``.
    """
    deadline = time.monotonic() + patience_seconds
    if nodes == 1:
        return
    if rank == 0:
        _receive(nodes, port, token, failed, deadline)
    else:
        _visit(rank, host, port, token, failed, deadline)


def _receive(nodes: int, port: int, token: str, failed: Callable[[], bool], deadline: float) -> None:
    """Wait for every other machine, then let all of them go at once."""
    waiting: dict[int, socket.socket] = {}
    with socket.create_server(("", port), backlog=nodes) as server:
        server.settimeout(POLL_SECONDS)
        while len(waiting) < nodes - 1:
            missing = sorted(set(range(1, nodes)) - set(waiting))
            _check_wait(f"machine {', '.join(map(str, missing))} did not come", failed, deadline)
            if (arrived := _accept(server, token)) is not None:
                rank, guest = arrived
                waiting[rank] = guest
    for guest in waiting.values():
        with closing(guest), suppress(OSError):
            guest.sendall(GO)
            # The guest closes first: the side that does keeps the port busy for a minute.
            guest.recv(1)


def _accept(server: socket.socket, token: str) -> tuple[int, socket.socket] | None:
    """The next machine that arrives, and its rank; ``None`` for nobody, and for a stranger."""
    try:
        guest, _ = server.accept()
    except TimeoutError:
        return None
    guest.settimeout(ANSWER_SECONDS)
    if (rank := _greeting(guest, token)) is not None:
        return rank, guest
    guest.close()
    return None


def _visit(rank: int, host: str, port: int, token: str, failed: Callable[[], bool], deadline: float) -> None:
    """Call machine 0 until it is there, and wait for its word; a call that ends without it is made anew."""
    while True:
        _check_wait(f"{host} does not answer on port {port}", failed, deadline)
        with (
            suppress(ConnectionError, TimeoutError),
            socket.create_connection((host, port), timeout=ANSWER_SECONDS) as server,
        ):
            server.sendall(f"{token} {rank}\n".encode())
            server.settimeout(max(1.0, deadline - time.monotonic()))
            if server.recv(len(GO)) == GO:
                return
        time.sleep(POLL_SECONDS)


def _greeting(guest: socket.socket, token: str) -> int | None:
    try:
        said, _, rank = guest.recv(MAX_GREETING_BYTES).decode("utf-8", "replace").strip().rpartition(" ")
    except OSError:
        return None
    return int(rank) if said == token and rank.isdigit() else None


def _check_wait(what: str, failed: Callable[[], bool], deadline: float) -> None:
    if failed():
        raise PeerError("another node has failed")
    if time.monotonic() > deadline:
        raise PeerError(what)
