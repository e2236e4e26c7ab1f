"""Running modules of the train extra in a subprocess."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gemfit.errors import ExitCode
from gemfit_launch.runs.python_module import run_module

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
