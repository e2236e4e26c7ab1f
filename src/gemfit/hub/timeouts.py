"""HTTP session of huggingface_hub with timeouts; it sets none itself."""

from __future__ import annotations

import httpx2
from huggingface_hub import set_client_factory

CONNECT_SECONDS = 10.0
READ_SECONDS = 60.0
"""Read and write timeout of a request."""


def set_timeouts() -> None:
    """Make all later requests of huggingface_hub end after ``CONNECT_SECONDS`` or ``READ_SECONDS``."""
    set_client_factory(_client)


def _client() -> httpx2.Client:
    timeout = httpx2.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)
    return httpx2.Client(follow_redirects=True, timeout=timeout)
