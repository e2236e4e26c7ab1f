"""Requests to stop, and the agreement on them, in one process."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from gemfit.core.stop_signals import PREEMPTION_SIGNALS
from gemfit.rundir import RunDir
from gemfit.train.distributed.stop import Stop


@pytest.fixture
def restored_signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in PREEMPTION_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def make_stop(folder: Path, stop_at: int | None = None) -> Stop:
    return Stop(RunDir(folder), stop_at, torch.device("cpu"))


def test_nothing_asked_means_no_stop_and_values_come_back(tmp_path: Path) -> None:
    stop = make_stop(tmp_path)
    assert stop.agree(1, 2.5, 3.0) == [2.5, 3.0]
    assert not stop.agreed


def test_a_step_is_named_in_advance(tmp_path: Path) -> None:
    stop = make_stop(tmp_path, stop_at=7)
    stop.agree(6)
    assert not stop.agreed
    stop.agree(7)
    assert stop.agreed


def test_the_stop_file_asks(tmp_path: Path) -> None:
    stop = make_stop(tmp_path)
    RunDir(tmp_path).request_stop()
    stop.agree(3)
    assert stop.agreed


@pytest.mark.parametrize("number", PREEMPTION_SIGNALS)
def test_a_signal_asks_and_does_not_kill(number: int, tmp_path: Path, restored_signals: None) -> None:
    stop = make_stop(tmp_path)
    stop.listen()
    os.kill(os.getpid(), number)
    assert not stop.agreed, "a flag is not yet an agreement"
    stop.agree(1)
    assert stop.agreed


def test_an_agreement_is_not_taken_back(tmp_path: Path) -> None:
    stop = make_stop(tmp_path)
    RunDir(tmp_path).request_stop()
    stop.agree(1)
    RunDir(tmp_path).stop_file.unlink()
    stop.agree(2)
    assert stop.agreed
