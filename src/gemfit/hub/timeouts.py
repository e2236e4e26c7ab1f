"""HTTP session of huggingface_hub with timeouts; it sets none itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import httpx2
from huggingface_hub import get_session, set_client_factory

CONNECT_SECONDS = 10.0
READ_SECONDS = 60.0
"""Read and write timeout of a request."""


def set_timeouts() -> None:
    """Make all later requests of huggingface_hub end after ``CONNECT_SECONDS`` or ``READ_SECONDS``."""
    own = get_session().event_hooks["request"]  # refuse requests in offline mode
    set_client_factory(partial(_client, [hook for hook in own if hook is not _limit]))


def _client(hooks: list[Callable[[httpx2.Request], object]]) -> httpx2.Client:
    return httpx2.Client(event_hooks={"request": [*hooks, _limit]}, follow_redirects=True, timeout=None)


def _limit(request: httpx2.Request) -> None:
    """Set the timeouts that a request lacks: most calls of huggingface_hub ask for none explicitly."""
    limits = httpx2.Timeout(READ_SECONDS, connect=CONNECT_SECONDS).as_dict()
    given = request.extensions.get("timeout", {})
    request.extensions["timeout"] = limits | {name: value for name, value in given.items() if value}
