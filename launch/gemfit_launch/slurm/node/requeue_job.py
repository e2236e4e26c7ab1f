"""Requeue the job of this process, unless it was cancelled or Slurm has requeued it already.

``python -m gemfit_launch.slurm.node.requeue_job RUN_DIR`` does so for a job that a signal has ended before it
could begin.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gemfit.errors import ExitCode, UserError
from gemfit.rundir import RunDir
from gemfit_launch.slurm.cluster import requeue
from gemfit_launch.slurm.records.job_files import JobFiles


def say(line: str) -> None:
    """Write a line to the job's log; stdout is read by the batch script."""
    sys.stderr.write(f"{time.strftime('%F %T')} gemfit: {line}\n")
    sys.stderr.flush()


def is_cancelled(job: str) -> bool:
    """Whether ``job``, whose tasks have ended, was cancelled."""
    return _decision(job) == "cancelled"


def keeps_nodes(job: str) -> bool:
    """Whether ``job``, whose tasks have ended, can begin another attempt on its nodes."""
    return requeue.keeps_nodes(requeue.show_job(job), restart_count())


@dataclass(frozen=True, kw_only=True, slots=True)
class Exclusion:
    """What a requeue changes of the excluded nodes of its job."""

    at_fault: Sequence[str] = ()
    slow: Sequence[str] = ()
    released: Sequence[str] = ()
    """Nodes that were slow, and may be used again."""


def requeue_job(run: RunDir, job: str, exclusion: Exclusion = Exclusion(), *, smallest: int = 1) -> ExitCode:
    """Requeue ``job``, unless Slurm has, and exclude the nodes at fault, then slow ones.

    Of both, all or none: only if ``smallest`` others are left.
    """
    decision = _decision(job)
    if decision == "requeue":
        decision = requeue.requeue(job, restart_count())
    if decision == "cancelled":
        say("the job was cancelled, so it is not requeued")
        JobFiles(run).record_cancelled(int(job))
        return ExitCode.DONE
    _release(job, exclusion.released)
    failed, slow = (exclusion.at_fault, [node for node in exclusion.slow if node not in exclusion.at_fault])
    left_out = [*failed] if failed and _avoid(job, failed, smallest, "failed") else []
    if slow and _avoid(job, slow, smallest, "was slow"):
        left_out += slow
    else:
        _release(job, slow)
    done = "requeued" if decision == "requeue" else "Slurm has requeued the job itself"
    say(done + (f", without {', '.join(left_out)}" if left_out else ""))
    return ExitCode.DONE


def _decision(job: str) -> requeue.RequeueDecision:
    return requeue.requeue_decision(requeue.show_job(job), restart_count())


def restart_count() -> int:
    """How often Slurm has requeued the job of this process."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def _release(job: str, nodes: Sequence[str]) -> None:
    """Let the job use those of ``nodes`` again that it excludes."""
    if not nodes:
        return
    excluded = requeue.excluded(requeue.show_job(job))
    if not (back := [node for node in excluded if node in nodes]):
        return
    try:
        requeue.set_excluded(job, [node for node in excluded if node not in nodes])
    except UserError as error:
        say(f"{', '.join(back)} was slow some attempts ago and stays excluded: {error}")
        return
    say(f"{', '.join(back)} was slow some attempts ago and may be used again")


def _avoid(job: str, nodes: Sequence[str], smallest: int, fault: str) -> bool:
    """Exclude nodes if ``smallest`` others are left: otherwise the job would wait forever."""
    shown, names = requeue.show_job(job), ", ".join(nodes)
    excluded = requeue.excluded(shown)
    left = requeue.usable_nodes(requeue.field(shown, "Partition")) - {*excluded, *nodes}
    if len(left) < smallest:
        say(f"{names} {fault}, but without it the partition has too few nodes; it is used again")
        return False
    if set(nodes) <= set(excluded):
        return True
    try:
        requeue.set_excluded(job, [*excluded, *nodes])
    except UserError as error:
        say(f"{names} {fault} and is used again: {error}")
        return False
    return True


if __name__ == "__main__":
    sys.exit(requeue_job(RunDir(Path(sys.argv[1])), os.environ["SLURM_JOB_ID"]))
