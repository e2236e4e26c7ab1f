"""Exit code and closing message of an attempt."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemfit.errors import ExitCode
from gemfit.rundir import RunDir
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.attempt_record import Verdict
from gemfit.schemas.plan import Plan
from gemfit_launch.runs.exit_report import conclude, tail_of_log
from gemfit_launch.runs.local import AttemptResult

CRASH = """loading
Traceback (most recent call last):
ValueError: the mistake
"""
REPORT = """E1124 06:33:12.925 12237 torch/distributed/elastic/multiprocessing/api.py:1002] failed (exit 1)
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
"""


@pytest.fixture
def run(tmp_path: Path, plan: Plan) -> RunDir:
    made = RunDir.create(tmp_path / "a run", plan)
    made.log(1).write_text(CRASH + REPORT)
    return made


def outcome(verdict: Verdict | None = None) -> AttemptResult:
    return AttemptResult(attempt=1, returncode=1, verdict=verdict)


@pytest.mark.parametrize(
    ("verdict", "code"),
    [
        (Verdict(outcome=AttemptOutcome.COMPLETED, attempt=1, step=10), ExitCode.DONE),
        (Verdict(outcome=AttemptOutcome.STOPPED, attempt=1, step=3), ExitCode.STOPPED),
        (Verdict(outcome=AttemptOutcome.FAILED, attempt=1, step=3, reason="x"), ExitCode.FAILED),
        (Verdict(outcome=AttemptOutcome.FATAL, attempt=1, step=0, reason="x"), ExitCode.USER_ERROR),
        (None, ExitCode.FAILED),
    ],
)
def test_the_verdict_decides_not_the_status_of_torchrun(
    verdict: Verdict | None, code: ExitCode, run: RunDir
) -> None:
    assert conclude(run, outcome(verdict)).code is code


def test_a_crash_ends_with_the_output_of_the_rank_not_with_the_report_of_torchrun(run: RunDir) -> None:
    text = conclude(run, outcome()).text
    assert "  | ValueError: the mistake\nerror: the training processes ended with status 1" in text
    assert "ChildFailedError" not in text
    assert str(run.log(1)) in text


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (-9, "rank 1 was killed first, as happens where memory runs out"),
        (3, "rank 1 ended first, with status 3"),
    ],
)
def test_the_rank_that_failed_first_is_named(status: int, words: str, run: RunDir) -> None:
    cause = f"Root Cause:\n  rank      : 1 (local_rank: 1)\n  exitcode  : {status} (pid: 7)\n"
    other = "  rank      : 0 (local_rank: 0)\n  exitcode  : 1 (pid: 6)\n"
    run.log(1).write_text(CRASH + REPORT + other + cause)
    assert f"left no verdict; {words}\n" in conclude(run, outcome()).text


def test_the_traceback_of_accelerate_about_a_single_process_is_left_out(run: RunDir) -> None:
    launcher = '  File "/lib/accelerate/commands/launch.py", line 1423, in <module>\nCalledProcessError\n'
    run.log(1).write_text(CRASH + launcher)
    assert tail_of_log(run.log(1), 1) == ["ValueError: the mistake"]


def test_a_log_with_nothing_but_a_report_is_shown(run: RunDir) -> None:
    run.log(1).write_text(REPORT)
    assert "ChildFailedError" in conclude(run, outcome()).text


def test_commands_to_copy_quote_the_folder(run: RunDir) -> None:
    stopped = Verdict(outcome=AttemptOutcome.STOPPED, attempt=1, step=3)
    assert f"gemfit resume '{run.root}'" in conclude(run, outcome(stopped)).text


def test_every_line_of_a_mistake_is_marked(run: RunDir) -> None:
    fatal = Verdict(outcome=AttemptOutcome.FATAL, attempt=1, step=0, reason="one\ntwo")
    assert conclude(run, outcome(fatal)).text.startswith("error: one\nerror: two\n")


def test_only_the_end_of_a_log_is_shown_whatever_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"".join(b"line %d \xff\n" % number for number in range(100)))
    assert tail_of_log(path, 2) == ["line 98 \ufffd", "line 99 \ufffd"]
