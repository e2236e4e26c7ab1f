"""Errors that users can fix, and the exit codes of every command."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from enum import IntEnum

from gemfit.control_characters import escape_control_characters


class ExitCode(IntEnum):
    """Exit status of every gemfit process."""

    DONE = 0
    FAILED = 1
    USER_ERROR = 2
    STOPPED = 75  # EX_TEMPFAIL of sysexits.h: try again, nothing is lost


class UserError(Exception):
    """A mistake in the input: the message names the place, the value and the fix.

    Commands print it without a traceback and exit with ``ExitCode.USER_ERROR``. Values come from files, so
    its text has control characters by code point.
    """

    def __str__(self) -> str:
        return escape_control_characters(super().__str__())


class Stopped(Exception):
    """The run was asked to stop, saved a checkpoint and can be resumed."""


def did_you_mean(word: str, valid: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` when something valid is close to ``word``, else an empty string."""
    close = difflib.get_close_matches(word, list(valid), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""
