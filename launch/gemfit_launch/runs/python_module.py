"""Run a module that needs the ``train`` extra in a subprocess of this interpreter."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec

from gemfit.core.install_hint import install_hint
from gemfit.core.marked_answer import find_answers
from gemfit.core.stop_signals import end_with_parent
from gemfit.errors import ExitCode, UserError


def require_train_extra(verb: str) -> None:
    """``UserError`` if the training libraries are not installed; imports none of them."""
    if find_spec("torch") is None:
        raise UserError(f"`gemfit {verb}` needs libraries that are not installed: {install_hint('train')}")


class ModuleKilled(UserError):
    """A module was killed by a signal, and could not say why."""


def run_module(
    module: str, arguments: Sequence[str], environment: Mapping[str, str] = os.environ
) -> ExitCode:
    """Run ``python -m module``, on this terminal, to its end; it gets SIGTERM if this process dies before.

    Raises ``ModuleKilled`` if a signal other than a request to end has killed it.
    """
    # -P: a file of the working folder called datasets.py would be imported in place of the library.
    argv = [sys.executable, "-P", "-m", module, *arguments]
    environment = {**environment, **_text_streams(environment)}
    process = subprocess.Popen(argv, env=environment, preexec_fn=lambda: end_with_parent(signal.SIGTERM))
    returncode = _wait(process)
    if returncode < 0 and -returncode not in (signal.SIGTERM, signal.SIGINT):
        memory = ", as happens where memory runs out" if returncode == -signal.SIGKILL else ""
        raise ModuleKilled(f"{module} was killed by {signal.Signals(-returncode).name}{memory}")
    known = {code.value for code in ExitCode}
    return ExitCode(returncode) if returncode in known else ExitCode.FAILED


def ask_module(module: str, arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> str:
    """Standard output of ``python -m module``; a failure is a ``UserError`` with its standard error.

    Ctrl-C is ``KeyboardInterrupt`` once the module has cleaned up and ended.
    """
    argv, pipe, is_interrupted = [sys.executable, "-P", "-m", module, *arguments], subprocess.PIPE, False
    process = subprocess.Popen(
        argv,
        env=environment,
        stdout=pipe,
        stderr=pipe,
        encoding="utf-8",
        errors="replace",
        preexec_fn=lambda: end_with_parent(signal.SIGTERM),
    )
    while process.returncode is None:
        try:
            stdout, stderr = process.communicate()
        except KeyboardInterrupt:
            is_interrupted = True
    if is_interrupted:
        raise KeyboardInterrupt
    if process.returncode != 0:
        raise UserError(stderr.strip().removeprefix("error: "))
    return stdout


def ask_answer(module: str, arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> str:
    """As ``ask_module``, of a module that marks its answer: lines of others around it are left out."""
    printed = ask_module(module, arguments, environment)
    answers = find_answers(printed)
    if not answers:
        raise UserError(f"{module}: gave no answer; it printed: {printed.strip()[-200:] or 'nothing'}")
    return answers[-1]


def _text_streams(environment: Mapping[str, str]) -> dict[str, str]:
    """Replies are free text: what the terminal's encoding lacks is written as an escape, not an error."""
    encoding, _, errors = environment.get("PYTHONIOENCODING", "").partition(":")
    return {"PYTHONIOENCODING": f"{encoding}:{errors or 'backslashreplace'}"}


def _wait(process: subprocess.Popen[bytes]) -> int:
    """Wait through Ctrl-C, which reaches the child too, so that it can clean up."""
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue
