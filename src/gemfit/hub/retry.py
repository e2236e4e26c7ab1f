"""Retries of requests to the Hub: which errors are temporary, how long to wait, how often.

huggingface_hub retries each transfer of a large file, but not the requests around it, such as those that
create a repository and its commits. This retries an action as a whole; files that have arrived are not sent
again.
"""

from __future__ import annotations

import json
import logging
import time
import traceback
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TypeVar

import httpx2
from huggingface_hub.errors import HfHubHTTPError
from tenacity import RetryCallState, Retrying, retry_if_exception
from tenacity.wait import wait_exponential_jitter

logger = logging.getLogger(__name__)

T = TypeVar("T")

WRONG_ANSWER = "answers as no Hub does ({}); check HF_ENDPOINT, and what proxy may answer in its place"

ATTEMPTS = 5
LONGEST_WAIT = 600.0
"""Seconds that a server may ask to wait for; after more, the action is for a later call."""
LONGEST_HEADER = 12
"""Digits of a number of seconds."""
TEMPORARY_STATUS = frozenset({408, 409, 412, 423, 425, 429, 500, 502, 503, 504})
"""Timeouts, a concurrent commit, rate limits, server errors."""

# The jitter keeps clients that failed together from coming back together.
_backoff = wait_exponential_jitter(multiplier=2.0, max=60.0, jitter=2.0)


class Unreachable(Exception):
    """A temporary error that outlasted all attempts."""


def retried(action: Callable[[], T], *, attempts: int = ATTEMPTS) -> T:
    """The result of ``action``, retried after temporary errors; ``Unreachable`` after the last attempt.

    ``Retry-After`` is respected; one above ``LONGEST_WAIT`` ends the attempts. Other errors are raised at
    once.
    """
    retrying = Retrying(
        retry=retry_if_exception(is_temporary),
        stop=lambda state: state.attempt_number >= attempts or _is_too_long(state),
        wait=_seconds,
        before_sleep=_log,
        reraise=True,
    )
    try:
        return retrying(action)
    except Exception as error:
        if is_temporary(error):
            raise Unreachable(describe(error)) from error
        raise


def is_temporary(error: BaseException) -> bool:
    """Whether the same request may succeed later."""
    cause = _cause(error)
    if isinstance(cause, HfHubHTTPError):
        return cause.response.status_code in TEMPORARY_STATUS
    # The Rust client of xet storage raises RuntimeError once its own retries are exhausted.
    storage = type(cause) is RuntimeError
    # A proxy or a login page answers in place of the Hub.
    no_json = isinstance(cause, (json.JSONDecodeError, httpx2.DecodingError))
    return storage or no_json or isinstance(cause, (httpx2.TransportError, ConnectionError, TimeoutError))


def describe(error: BaseException) -> str:
    """The error in one line, without URLs, which may be signed."""
    cause = _cause(error)
    if isinstance(cause, HfHubHTTPError):
        response = cause.response
        message = response.headers.get("X-Error-Message") or cause.server_message or response.reason_phrase
        return f"HTTP {response.status_code} {' '.join(message.split())}"
    if isinstance(cause, httpx2.TimeoutException):
        return "no answer in time"
    if isinstance(cause, (json.JSONDecodeError, httpx2.DecodingError)):
        return "an answer that is no JSON"
    return f"{type(cause).__name__}: {str(cause).splitlines()[0] if str(cause) else 'no details'}"


def is_wrong_answer(error: BaseException) -> bool:
    """Whether the server redirects for ever, or answers what huggingface_hub cannot use.

    Not where it may answer later (``Unreachable``), nor for errors of gemfit's own code.
    """
    cause = _cause(error)
    if isinstance(error, Unreachable):
        return False
    if isinstance(cause, (httpx2.HTTPError, httpx2.InvalidURL)):
        return True
    # A cause that the library has made and not raised has no frames of its own.
    frames = [frame for one in _chain(error) for frame in traceback.extract_tb(one.__traceback__)]
    is_of_library = any("huggingface_hub" in Path(frame.filename).parts for frame in frames)
    if isinstance(cause, OSError):  # without a number it is not of the system: headers or sizes are wrong
        return is_of_library and cause.errno is None
    return is_of_library and isinstance(cause, (ValueError, KeyError, TypeError, AttributeError, IndexError))


def http_error(error: BaseException) -> HfHubHTTPError | None:
    """The answer behind an error; ``None`` where there was none."""
    cause = _cause(error)
    return cause if isinstance(cause, HfHubHTTPError) else None


def status_of(error: BaseException) -> int | None:
    """The HTTP status behind an error; ``None`` where there was no response."""
    found = http_error(error)
    return found.response.status_code if found is not None else None


def _seconds(state: RetryCallState) -> float:
    return max(_retry_after(_error(state)), _backoff(state))


def _retry_after(error: BaseException) -> float:
    """Seconds of the ``Retry-After`` header, a number or a date (RFC 9110, 10.2.3); 0 without one."""
    cause = _cause(error)
    header = cause.response.headers.get("Retry-After", "") if isinstance(cause, HfHubHTTPError) else ""
    if header.isdecimal():
        return float(header[:LONGEST_HEADER])
    try:
        return max(parsedate_to_datetime(header).timestamp() - time.time(), 0.0)
    except (ValueError, TypeError, OverflowError):  # none, or not in its form
        return 0.0


def _is_too_long(state: RetryCallState) -> bool:
    """Whether the server asks to wait for longer than anybody does in front of a command."""
    return state.outcome is not None and state.outcome.failed and _retry_after(_error(state)) > LONGEST_WAIT


def _log(state: RetryCallState) -> None:
    assert state.next_action is not None, "tenacity sets it before it sleeps"
    logger.warning("%s; retrying in %.0f s", describe(_error(state)), state.next_action.sleep)


def _error(state: RetryCallState) -> BaseException:
    error = state.outcome.exception() if state.outcome else None
    assert error is not None, "only errors are retried"
    return error


def _cause(error: BaseException) -> BaseException:
    """The error that huggingface_hub has wrapped: failed uploads are a ``RuntimeError`` from it."""
    chain = list(_chain(error))
    known = (HfHubHTTPError, httpx2.TransportError, httpx2.DecodingError)
    return next((one for one in chain if isinstance(one, known)), chain[-1])


def _chain(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__
