"""Exit code and closing message of an attempt, from its verdict and log."""

from __future__ import annotations

import io
import os
import re
import shlex
import signal
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TextIO

from gemfit.core.regular_file import open_regular
from gemfit.errors import ExitCode
from gemfit.rundir import RunDir
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.attempt_record import Verdict
from gemfit_launch.runs.local import AttemptResult

TAIL_LINES = 20
"""Lines of a log that are shown after a failure."""
LAUNCHER_REPORT = re.compile(
    r"[EW]\d{4} .*torch/distributed/elastic/|.*accelerate(?:/commands/|_)launch\.py\", line "
)
"""Where torchrun or accelerate begins its report on a failed rank, which buries the rank's traceback."""
REPORT_BYTES = 1 << 16
"""Of the end of a log, where torchrun names the first failure."""
LONGEST_LINE = 1 << 16
FAILED_RANK = re.compile(r"rank +: (?P<rank>\d+) .*?exitcode +: (?P<status>-?\d+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class FailedRank:
    """The rank that ended first, and its exit status; negative for a signal."""

    rank: int
    status: int

    def __str__(self) -> str:
        if self.status == -signal.SIGKILL:
            return f"rank {self.rank} was killed first, as happens where memory runs out"
        return f"rank {self.rank} ended first, with status {self.status}"


@dataclass(frozen=True, slots=True)
class ExitReport:
    """Exit code and closing message of ``gemfit run``."""

    code: ExitCode
    text: str


def conclude(run: RunDir, result: AttemptResult) -> ExitReport:
    """Report by the verdict, not by the exit status: torchrun turns every status into 1."""
    root, verdict = shlex.quote(str(run.root)), result.verdict
    resume = f"gemfit resume {root}"
    if verdict is None:
        how = f"the training processes ended with status {result.returncode} and left no verdict"
        return ExitReport(ExitCode.FAILED, _failure(run, result, how, f"resume with: {resume}"))
    if verdict.outcome is AttemptOutcome.COMPLETED and verdict.early_stop is not None:
        return ExitReport(ExitCode.DONE, _early(run, verdict, root))
    if verdict.outcome is AttemptOutcome.COMPLETED:
        text = f"completed {verdict.step} steps{_not_pushed(run)}\nexport with: gemfit export {root}"
        return ExitReport(ExitCode.DONE, text)
    if verdict.outcome is AttemptOutcome.STOPPED:
        text = f"stopped and saved at step {verdict.step}{_not_pushed(run)}\nresume with: {resume}"
        return ExitReport(ExitCode.STOPPED, text)
    if verdict.outcome is AttemptOutcome.FATAL:
        lines = [f"error: {line}" for line in verdict.reason.splitlines()]
        return ExitReport(
            ExitCode.USER_ERROR, "\n".join([*lines, f"the whole log: {run.log(result.attempt)}"])
        )
    return ExitReport(ExitCode.FAILED, _failure(run, result, verdict.reason, f"resume with: {resume}"))


def _early(run: RunDir, verdict: Verdict, root: str) -> str:
    return (
        f"completed at step {verdict.step}: {verdict.reason}{_not_pushed(run)}\n"
        f"export the best with: gemfit export {root} --checkpoint best"
    )


def _not_pushed(run: RunDir) -> str:
    """A line about queued uploads, if there are any."""
    if not run.spooled_steps:
        return ""
    steps = ", ".join(map(str, run.spooled_steps))
    return f"\nnot pushed: step {steps}; send with: gemfit push --spooled {shlex.quote(str(run.root))}"


def _failure(run: RunDir, result: AttemptResult, why: str, next_step: str) -> str:
    log = run.log(result.attempt)
    tail = [f"  | {line}" for line in tail_of_log(log, TAIL_LINES)]
    failed = first_failed_rank(log)
    reason = f"{why}; {failed}" if failed else why
    return "\n".join([*tail, f"error: {reason}", f"the whole log: {log}", next_step])


def tail_of_log(path: Path, count: int) -> list[str]:
    """The last lines of the ranks, before torchrun's report on them if there is one."""
    with _open_text(path) as stream:
        own = deque(takewhile(lambda line: not LAUNCHER_REPORT.match(line), _lines(stream)), maxlen=count)
        stream.seek(0)
        return [line.rstrip("\n") for line in own or deque(_lines(stream), maxlen=count)]


def first_failed_rank(log: Path) -> FailedRank | None:
    """The rank that torchrun names as root cause at the end of ``log``; ``None`` if it names none."""
    with open_regular(log) as stream:
        stream.seek(max(0, stream.seek(0, os.SEEK_END) - REPORT_BYTES))
        report = stream.read().decode(errors="replace")
    found = FAILED_RANK.search(report.rpartition("Root Cause")[2])
    return FailedRank(int(found["rank"]), int(found["status"])) if found else None


def _open_text(path: Path) -> TextIO:
    return io.TextIOWrapper(open_regular(path), encoding="utf-8", errors="replace")


def _lines(stream: TextIO) -> Iterator[str]:
    """Its lines; one of more than `LONGEST_LINE` characters in parts."""
    return iter(lambda: stream.readline(LONGEST_LINE), "")
