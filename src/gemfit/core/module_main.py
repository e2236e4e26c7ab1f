"""Main program of a module that a verb runs: errors in a line each, cleaning up at requests to end."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

from gemfit.core.os_errors import explain_os_error
from gemfit.core.stop_signals import insistent_interrupts
from gemfit.errors import ExitCode, UserError

INTERRUPTED = 128 + signal.SIGINT
"""As shells have it."""


def run_main(action: Callable[[], int]) -> int:
    """Exit status of ``action``; errors that users can fix are printed, without a traceback.

    Ctrl-C and SIGTERM are ``KeyboardInterrupt`` in it, so that temporary files are removed.
    """
    try:
        with insistent_interrupts():
            status = action()
            sys.stdout.flush()
            return status
    except UserError as error:
        text = str(error)
    except OSError as error:
        explained = explain_os_error(error)
        if explained is None:
            raise
        if error.filename is None:  # it may have been stdout, which Python flushes once more
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        text = str(UserError(explained))  # without control characters
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return INTERRUPTED
    sys.stderr.write("".join(f"error: {line}\n" for line in text.splitlines()))
    return ExitCode.USER_ERROR
