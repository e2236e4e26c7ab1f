"""Running modules of the train extra in a subprocess."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gemfit.errors import ExitCode
from gemfit_launch.runs.python_module import ModuleKilled, run_module

CLEANER = """
import sys, time
try:
    print("ready", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(1)
    print("cleaned up", flush=True)
    sys.exit(2)
"""


@pytest.mark.parametrize(
    ("status", "code"), [(0, ExitCode.DONE), (2, ExitCode.USER_ERROR), (9, ExitCode.FAILED)]
)
def test_known_exit_codes_pass_and_others_are_failures(
    status: int, code: ExitCode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "leaves.py").write_text(f"import sys; sys.exit({status})")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert run_module("leaves", []) is code


def test_a_module_in_the_working_folder_is_not_taken_for_a_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "leaves.py").write_text("")
    monkeypatch.chdir(tmp_path)
    assert run_module("leaves", []) is ExitCode.FAILED


def test_a_reply_that_the_terminal_cannot_encode_is_shown_with_escapes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "replies.py").write_text(r"print('\u4f60 caf\xe9')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    assert run_module("replies", []) is ExitCode.DONE
    assert capfd.readouterr().out == r"\u4f60 caf\xe9" + "\n"


def test_after_an_interrupt_the_child_may_clean_up(tmp_path: Path) -> None:
    (tmp_path / "cleaner.py").write_text(CLEANER)
    program = (
        "import sys; from gemfit_launch.runs.python_module import run_module; "
        "sys.exit(run_module('cleaner', []))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        start_new_session=True,
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        os.killpg(parent.pid, signal.SIGINT)
        assert parent.stdout.read() == "cleaned up\n"
        assert parent.wait() == ExitCode.USER_ERROR


@pytest.mark.parametrize(
    ("number", "words"),
    [(signal.SIGKILL, "SIGKILL, as happens where memory runs out"), (signal.SIGSEGV, "SIGSEGV$")],
)
def test_a_module_that_was_killed_is_reported(
    number: signal.Signals, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "leaves.py").write_text(f"import os; os.kill(os.getpid(), {int(number)})")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(ModuleKilled, match=f"leaves was killed by {words}"):
        run_module("leaves", [])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_module_does_not_outlive_its_launcher(number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "sleeper.py").write_text("import os, time; print(os.getpid(), flush=True); time.sleep(60)")
    program = "from gemfit_launch.runs.python_module import run_module; run_module('sleeper', [])"
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    ) as parent:
        assert parent.stdout is not None
        assert int(parent.stdout.readline())
        parent.send_signal(number)
        assert parent.stdout.read() == "", "the pipe closes when both have ended"
