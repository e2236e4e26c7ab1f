"""A program in a process group of its own: whatever it has started ends with it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress

from gemfit.core.stop_signals import end_with_parent

MODEL_READER_SECONDS = 1800.0
"""Default time limit of a program that reads an exported model: its imports, and the model on a CPU."""


def run_with_children(
    command: Sequence[str],
    *,
    text: str = "",
    seconds: float | None = None,
    environment: Mapping[str, str] = os.environ,
) -> subprocess.CompletedProcess[str]:
    """Run ``command`` with ``text`` as standard input, and return what it has printed, as UTF-8.

    It gets SIGTERM when this process dies, and SIGKILL with its process group when it has ended, after
    ``seconds`` (``subprocess.TimeoutExpired``) and after another exception such as ``KeyboardInterrupt``.
    """
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command,
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        encoding="utf-8",
        errors="replace",
        env=environment,
        process_group=0,
        preexec_fn=lambda: end_with_parent(signal.SIGTERM),
    ) as process:
        try:
            stdout, stderr = process.communicate(text, seconds)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()  # which ``with`` leaves out after a ``KeyboardInterrupt``
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)
