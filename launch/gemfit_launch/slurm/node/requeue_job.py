"""Requeue the job of this process, unless it was cancelled or Slurm has requeued it already."""

from __future__ import annotations

import os
import sys
import time

from gemfit.errors import ExitCode, UserError
from gemfit_launch.slurm.cluster import requeue


def say(line: str) -> None:
    """Write a line to the job's log; stdout is read by the batch script."""
    sys.stderr.write(f"{time.strftime('%F %T')} gemfit: {line}\n")
    sys.stderr.flush()


def requeue_job(job: str, *, avoid: str | None = None) -> ExitCode:
    """Requeue ``job`` and exclude the node ``avoid``, if enough others are left."""
    restarts = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    decision = requeue.requeue_decision(requeue.show_job(job), restarts)
    if decision == "requeue":
        decision = requeue.requeue(job, restarts)
    if decision == "cancelled":
        say("the job was cancelled, so it is not requeued")
    elif decision == "queued":
        say("Slurm has requeued the job itself")
    else:
        say("requeued" + (f", without {avoid}" if avoid and _avoid(job, avoid) else ""))
    return ExitCode.DONE


def _avoid(job: str, node: str) -> bool:
    """Exclude a failed node if enough are left: otherwise the job would wait forever."""
    shown = requeue.show_job(job)
    left = requeue.usable_nodes(requeue.field(shown, "Partition")) - {*requeue.excluded(shown), node}
    if len(left) < int(os.environ["SLURM_JOB_NUM_NODES"]):
        say(f"{node} failed, but without it the partition has too few nodes; it is used again")
        return False
    try:
        requeue.exclude(job, node)
    except UserError as error:
        say(f"{node} failed and is used again: {error}")
        return False
    return True
