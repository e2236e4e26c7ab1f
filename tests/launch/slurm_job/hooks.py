"""Hooks of a job, called as `train.sbatch` does, and the records of its nodes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gemfit.core.marked_answer import find_answers
from gemfit.errors import ExitCode
from gemfit.rundir import RunDir
from gemfit.schemas.attempt_record import Verdict
from gemfit_launch.slurm.node import job
from gemfit_launch.slurm.records.job_attempts import AttemptFiles, NodeEnd, Stage, read_attempts

Calls = Callable[[], list[str]]
"""What Slurm was asked to change."""

SHOWN = """\
JobId=7 JobName=JobState=CANCELLED Restarts=9
   JobState={state} Reason=None Dependency=(null)
   Requeue=1 Restarts={restarts} BatchFlag=1
   RunTime=00:10:00 TimeLimit=01:00:00 TimeMin=N/A
   Partition=low AllocNode:Sid=login:1
   ReqNodeList=(null) ExcNodeList=(null)
"""
SCONTROL = """\
#!/bin/sh
echo "$@" >>{folder}/calls
case "$1 $2" in
  "show hostnames") echo "$3" | tr , '\\n' ;;
  "show node") echo "NodeName=$3 NodeAddr=127.0.0.1 State=IDLE" ;;
  "show nodes") for n in n1 n2 n3; do echo "NodeName=$n State=IDLE Partitions=low,all"; done ;;
  "show job") cat {folder}/job ;;
esac
"""


def show(folder: Path, state: str, restarts: int = 0) -> None:
    """What Slurm says of the job from now on."""
    (folder / "job").write_text(SHOWN.format(state=state, restarts=restarts))


def answered(capfd: pytest.CaptureFixture[str]) -> list[str]:
    """First words of what the hooks have answered since the last call."""
    return [answer.split()[0] for answer in find_answers(capfd.readouterr().out)]


def begin(run: RunDir) -> ExitCode:
    return job.begin(run, max_restarts=1)


def end(run: RunDir, outcome: str | None = None, *, step: int = 0) -> ExitCode:
    if outcome is not None:
        verdict = {"outcome": outcome, "attempt": run.attempt, "step": step, "reason": "because"}
        run.write_verdict(Verdict.model_validate(verdict))
    return job.end(run, run.attempt, max_restarts=1)


def fail(run: RunDir, node: str, rank: int, *, at_fault: bool, killed: bool = False) -> None:
    """Let each node leave its exit record, and this one fail first: in its check, or in training."""
    stage: Stage = "health" if at_fault and not killed else "training"
    files = AttemptFiles(run, run.attempt)
    for other in range(len(read_attempts(run)[-1].start.nodes)):
        word = NodeEnd(
            node=node if other == rank else "other",
            rank=other,
            stage=stage,
            status=1,
            reason="a broken part",
            at_fault=at_fault and other == rank,
            time=time.time() + (other != rank),
        )
        files.write(files.node(other), word)


def crash(run: RunDir, *, at_fault: bool = False, max_restarts: int = 2) -> ExitCode:
    """An attempt that crashes on n2."""
    assert job.begin(run, max_restarts=max_restarts) == ExitCode.DONE
    run.log(run.attempt).write_text("the last words\n")
    fail(run, "n2", 1, at_fault=at_fault)
    return job.end(run, run.attempt, max_restarts=max_restarts)
