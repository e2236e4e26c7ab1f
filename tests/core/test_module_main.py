"""Main programs of modules: what they print, how they end, and that they clean up."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable

import pytest

from gemfit.core.module_main import INTERRUPTED, run_main
from gemfit.errors import ExitCode, UserError


def raising(error: BaseException) -> Callable[[], int]:
    def action() -> int:
        raise error

    return action


def failed(number: int, *name: str) -> OSError:
    return OSError(number, os.strerror(number), *name)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UserError("a: is not b\nc: neither"), "error: a: is not b\nerror: c: neither\n"),
        (failed(errno.ENOSPC, "/out"), "error: /out: no space left on device; free some space\n"),
        (failed(errno.EDQUOT, "/out"), "error: /out: disk quota exceeded; free some of your quota\n"),
        (failed(errno.EIO, "/o\x1bt"), "error: /o⟨U+001B⟩t: input/output error; the disk or the way to it"),
        (failed(errno.EROFS, "/out"), "error: /out: read-only file system; it can only be read"),
    ],
)
def test_an_error_that_is_no_bug_is_a_line(
    error: Exception, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(raising(error)) == ExitCode.USER_ERROR
    assert capsys.readouterr().err.startswith(said)


@pytest.mark.parametrize("error", [ValueError("a bug"), failed(errno.EACCES), failed(errno.ENOENT, "/out")])
def test_a_bug_keeps_its_traceback(error: Exception) -> None:
    with pytest.raises(type(error)):
        run_main(raising(error))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_request_to_end_lets_the_action_clean_up(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    cleaned: list[bool] = []

    def action() -> int:
        try:
            os.kill(os.getpid(), number)
            time.sleep(60)
        finally:
            cleaned.append(True)
        return 0

    before = signal.getsignal(number)
    assert run_main(action) == INTERRUPTED
    assert (cleaned, capsys.readouterr().err) == ([True], "interrupted\n")
    assert signal.getsignal(number) is before
