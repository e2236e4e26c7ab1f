"""Which failures of the Hub pass by themselves, and how long to wait for that.

A request that huggingface_hub makes is tried several times inside it; this is the loop around it, over
everything that makes up a push. Nothing that has arrived is sent again.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import httpx2
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

T = TypeVar("T")

TEMPORARY_STATUS = frozenset({408, 409, 412, 423, 425, 429, 500, 502, 503, 504})
"""Timeouts, somebody else's commit a moment earlier, rate limits, and servers in trouble."""


class Unreachable(Exception):
    """The Hub did not take it now; later it may."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """How often, and at which distance, something is tried."""

    attempts: int = 5
    first_seconds: float = 2.0

    def pause(self, failures: int, share: float) -> float:
        """Seconds before the next try: doubled with each of ``failures``, and cut by ``share`` of a half.

        Clients that failed together would otherwise come back together.
        """
        return self.first_seconds * 2.0 ** (failures - 1) * (1 - share / 2)


def retried(
    action: Callable[[], T],
    patience: Patience,
    *,
    say: Callable[[str], None],
    share: Callable[[], float] = random.random,
) -> T:
    """What ``action`` returns, tried again after failures that may pass; ``Unreachable`` after the last.

    A server that says how long to wait is obeyed. Everything else is raised as it is.
    """
    for failures in range(1, patience.attempts + 1):
        try:
            return action()
        except Exception as error:
            if not is_temporary(error):
                raise
            if failures == patience.attempts or isinstance(_cause(error), OfflineModeIsEnabled):
                raise Unreachable(describe(error)) from error
            seconds = max(asked_seconds(error), patience.pause(failures, share()))
            say(f"{describe(error)}; again in {seconds:.0f} s")
            time.sleep(seconds)
    raise AssertionError("the last attempt returns or raises")


def is_temporary(error: BaseException) -> bool:
    """Whether the same request may succeed later."""
    cause = _cause(error)
    if isinstance(cause, HfHubHTTPError):
        return cause.response.status_code in TEMPORARY_STATUS
    # The Rust client of xet storage raises RuntimeError for whatever its own retries did not mend.
    storage = type(cause) is RuntimeError
    return storage or isinstance(cause, (httpx2.TransportError, ConnectionError, TimeoutError))


def describe(error: BaseException) -> str:
    """What went wrong, in one line, without addresses that carry signatures."""
    cause = _cause(error)
    if isinstance(cause, HfHubHTTPError):
        response = cause.response
        said = response.headers.get("X-Error-Message") or cause.server_message or response.reason_phrase
        return f"HTTP {response.status_code} {' '.join(said.split())}"
    if isinstance(cause, httpx2.TimeoutException):
        return "no answer in time"
    return f"{type(cause).__name__}: {str(cause).splitlines()[0] if str(cause) else 'no details'}"


def asked_seconds(error: BaseException) -> float:
    """How long the server asked to be left alone; 0 where it did not."""
    cause = _cause(error)
    said = cause.response.headers.get("Retry-After", "") if isinstance(cause, HfHubHTTPError) else ""
    return float(said) if said.isdigit() else 0.0


def status_of(error: BaseException) -> int | None:
    """The HTTP status that a failure comes from, if from any."""
    cause = _cause(error)
    return cause.response.status_code if isinstance(cause, HfHubHTTPError) else None


def _cause(error: BaseException) -> BaseException:
    """What huggingface_hub wrapped: uploads fail as ``RuntimeError`` from the error itself."""
    known, chain = (HfHubHTTPError, httpx2.TransportError, OfflineModeIsEnabled), list(_chain(error))
    return next((one for one in chain if isinstance(one, known)), chain[-1])


def _chain(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__
