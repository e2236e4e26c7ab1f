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

from gemfit.core.marked_answer import write_answer
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

    @property
    def has_nodes(self) -> bool:
        return bool(self.at_fault or self.slow or self.released)


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
    left_out: list[str] = []
    if exclusion.has_nodes:
        try:
            left_out = _exclude(job, exclusion, smallest)
        except UserError as error:  # the job is in the queue already
            say(f"the excluded nodes of the job stay as they are: {error}")
    done = "requeued" if decision == "requeue" else "Slurm has requeued the job itself"
    say(done + (f", without {', '.join(left_out)}" if left_out else ""))
    return ExitCode.DONE


def _decision(job: str) -> requeue.RequeueDecision:
    return requeue.requeue_decision(requeue.show_job(job), restart_count())


def restart_count() -> int:
    """How often Slurm has requeued the job of this process."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0)


def _exclude(job: str, exclusion: Exclusion, smallest: int) -> list[str]:
    """Change the excluded nodes of ``job``; returns those of ``exclusion`` that it leaves out.

    At least ``smallest`` nodes stay usable: otherwise the job would wait forever. Slow nodes are excluded
    last, and one that was excluded before makes room for a node at fault.
    """
    shown = requeue.show_job(job)
    before = requeue.excluded(shown)
    usable = requeue.usable_nodes(requeue.field(shown, "Partition"))
    excluded = [node for node in before if node not in (*exclusion.slow, *exclusion.released)]
    left_out: list[str] = []
    for nodes, fault in ((exclusion.at_fault, "failed"), (exclusion.slow, "was slow")):
        if len(usable - {*excluded, *nodes}) >= smallest:
            excluded, left_out = [*excluded, *nodes], [*left_out, *nodes]
        elif nodes:
            names = ", ".join(nodes)
            say(f"{names} {fault}, but without it the partition has too few nodes; it is used again")
    back = [node for node in before if node not in excluded]
    if set(excluded) != set(before):
        requeue.set_excluded(job, excluded)
    if back:
        say(f"{', '.join(back)} was slow some attempts ago and may be used again")
    return left_out


if __name__ == "__main__":
    requeue_job(RunDir(Path(sys.argv[1])), os.environ["SLURM_JOB_ID"])
    write_answer("requeued")  # or cancelled, or by Slurm: nothing is left to do
