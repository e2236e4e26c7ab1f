"""Nodes meet before the ranks start: all are healthy and reach machine 0, or the one that is not is named.

One TCP connection for each node, on the port that the ranks use afterwards.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import closing

MEETING_SECONDS = 180
POLL_SECONDS = 0.5
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
            _refuse_to_wait(f"machine {', '.join(map(str, missing))} did not come", failed, deadline)
            try:
                guest, _ = server.accept()
            except TimeoutError:
                continue
            guest.settimeout(POLL_SECONDS)
            if (rank := _greeting(guest, token)) is None:
                guest.close()
            else:
                waiting[rank] = guest
    for guest in waiting.values():
        with closing(guest):
            guest.sendall(b"go\n")
            # The guest closes first: the side that does keeps the port busy for a minute.
            guest.settimeout(POLL_SECONDS * 4)
            _read(guest)


def _visit(rank: int, host: str, port: int, token: str, failed: Callable[[], bool], deadline: float) -> None:
    while True:
        _refuse_to_wait(f"{host} does not answer on port {port}", failed, deadline)
        try:
            with socket.create_connection((host, port), timeout=POLL_SECONDS * 4) as server:
                server.sendall(f"{token} {rank}\n".encode())
                while True:
                    _refuse_to_wait(f"{host} waits for another machine", failed, deadline)
                    try:
                        if _read(server) == "go":
                            return
                        break  # closed: it has given up, or it is not the one
                    except TimeoutError:
                        continue
        except OSError:
            time.sleep(POLL_SECONDS)


def _greeting(guest: socket.socket, token: str) -> int | None:
    try:
        said, _, rank = _read(guest).rpartition(" ")
    except OSError:
        return None
    return int(rank) if said == token and rank.isdigit() else None


def _read(stream: socket.socket) -> str:
    return stream.recv(MAX_GREETING_BYTES).decode("utf-8", "replace").strip()


def _refuse_to_wait(what: str, failed: Callable[[], bool], deadline: float) -> None:
    if failed():
        raise PeerError("another node has failed")
    if time.monotonic() > deadline:
        raise PeerError(what)
