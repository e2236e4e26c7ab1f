"""Interrupts that a callback from C swallows, and the clean-up after an interrupt."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time

import pytest

from gemfit.core import stop_signals
from gemfit.core.stop_signals import insistent_interrupts

CALLBACK = ctypes.CFUNCTYPE(None)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stop_signals, "REPEAT_SECONDS", 0.1)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_in_a_callback_is_repeated(number: int) -> None:
    def interrupted() -> None:
        os.kill(os.getpid(), number)
        time.sleep(0.01)

    went_on = []

    def compile_and_work() -> None:
        CALLBACK(interrupted)()
        went_on.append("the callback has swallowed the first one")
        time.sleep(10)

    with pytest.raises(KeyboardInterrupt), insistent_interrupts():
        compile_and_work()
    assert went_on


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_clean_up_is_not_interrupted(number: int) -> None:
    cleaned = []

    def work() -> None:
        try:
            os.kill(os.getpid(), number)
            time.sleep(10)
        finally:
            try:
                raise FileNotFoundError
            except FileNotFoundError:
                time.sleep(0.3)
            os.kill(os.getpid(), number)
            cleaned.append(True)

    with pytest.raises(KeyboardInterrupt), insistent_interrupts():
        work()
    assert cleaned
    time.sleep(0.2)  # no alarm is left


def test_handlers_are_restored() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)]
    with insistent_interrupts():
        pass
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)] == before


def test_a_child_ends_with_a_parent_that_is_killed() -> None:
    program = """
import os, signal, time
from gemfit.core.stop_signals import end_with_parent
if os.fork() == 0:
    end_with_parent(signal.SIGKILL)
    print("ready", flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        parent.kill()
        assert parent.stdout.read() == "", "the pipe closes when both have ended"
