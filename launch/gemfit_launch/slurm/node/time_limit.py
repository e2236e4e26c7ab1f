"""The time limit of the job: requeue before it where no save is done, and warn of one that is too short."""

from __future__ import annotations

import os
import time

from gemfit.core.atomic_file import write_atomic
from gemfit.errors import ExitCode, UserError
from gemfit.rundir import RunDir
from gemfit_launch.slurm.cluster import requeue
from gemfit_launch.slurm.durations import seconds
from gemfit_launch.slurm.node.excluded_nodes import requeue_run
from gemfit_launch.slurm.node.requeue_job import say
from gemfit_launch.slurm.records import job_attempts
from gemfit_launch.slurm.records.job_attempts import AttemptFiles
from gemfit_launch.slurm.sites.planned_site import site_of

MARGIN_SECONDS = 20.0
"""From the requeue to the time limit; Slurm kills the processes KillWait seconds after the requeue."""
LONGEST_SLEEP_SECONDS = 30.0
"""A suspended job gets its time back, and an administrator may change the limit."""


def requeue_before_limit(run: RunDir, attempt: int) -> ExitCode:
    """Wait until the job is about to reach its limit, then requeue it; the batch script ends this process.

    The step that was asked for a save may take longer than the lead of the signal. At the limit Slurm would
    end the job for good.
    """
    job = os.environ["SLURM_JOB_ID"]
    try:
        margin = min(MARGIN_SECONDS, site_of(run.plan()).signal_lead_seconds / 3)
        while (left := seconds_left(requeue.show_job(job))) is not None and left > margin:
            time.sleep(min(left - margin, LONGEST_SLEEP_SECONDS))
        if left is None or run.stop_requested_by() == job_attempts.STOP_BY_COMMAND:
            return ExitCode.DONE
        say("the time limit is reached before a save; the job continues from the last checkpoint")
        write_atomic(AttemptFiles(run, attempt).limit, "")
        return requeue_run(run, job)
    except UserError as error:
        say(f"the job could not be requeued before its time limit: {error}")
        return ExitCode.FAILED


def seconds_left(shown: str) -> float | None:
    """Seconds to the time limit, from `scontrol show job`.

    ``None`` without a limit, of a job that is ending, and of one that is preempted: its end comes earlier,
    and Slurm requeues it. Pure.
    """
    if requeue.is_preempted(shown) or requeue.field(shown, "JobState") not in ("RUNNING", "SUSPENDED"):
        return None
    limit, ran = seconds(requeue.field(shown, "TimeLimit")), seconds(requeue.field(shown, "RunTime"))
    return None if limit is None or ran is None else max(0.0, limit - ran)


def warn_of_short_limit(job: str, lead_seconds: int) -> None:
    """Say so if the signal to save comes right at the start of the job."""
    limit = seconds(requeue.field(requeue.show_job(job), "TimeLimit"))
    if limit is not None and limit <= lead_seconds:
        say(
            f"warning: the job has {limit:.0f} seconds, and its signal to save comes {lead_seconds} seconds "
            "before the end: it will stop after a step; set `time`, or lower `signal_lead_seconds`"
        )
