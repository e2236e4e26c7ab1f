"""Nodes that a requeued job leaves out: those that have failed in it and, where the site says so, slow ones.

A node that failed stays excluded for the life of the job. A slow one comes back after ``SLOW_ATTEMPTS``
attempts without it: what made it slow may be over, and a job on a range of nodes would only shrink.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from gemfit.errors import ExitCode
from gemfit.rundir import RunDir
from gemfit.schemas.metrics import SlowRankRecord
from gemfit_launch.planning.node_range import NodeRange
from gemfit_launch.runs.metrics_tail import recent_records
from gemfit_launch.slurm.node.allocation import Allocation
from gemfit_launch.slurm.node.requeue_job import Exclusion, requeue_job
from gemfit_launch.slurm.records.job_attempts import JobAttempt, newest_start, read_attempts
from gemfit_launch.slurm.sites.planned_site import site_of

SLOW_ATTEMPTS = 3
"""Attempts of a job from which a slow node is left out."""


def requeue_run(run: RunDir, job: str) -> ExitCode:
    """Requeue ``job`` without the nodes at fault and those that were slow in one of its last attempts."""
    attempts = read_attempts(run)
    at_fault = Allocation.of_this_job(attempts).at_fault
    recent, earlier = slow_of_job(attempts, job)
    # A node that failed in an earlier allocation is excluded already; being slow as well must not free it.
    failed = failed_in_job(attempts, job)
    slow = [node for node in dict.fromkeys([*recent, *slow_nodes(run)]) if node not in failed]
    released = [node for node in earlier if node not in (*slow, *failed)]
    exclusion = Exclusion(at_fault=at_fault, slow=slow, released=released)
    return requeue_job(run, job, exclusion, smallest=NodeRange.of(run.plan()).smallest)


def slow_nodes(run: RunDir) -> tuple[str, ...]:
    """Nodes of the last attempt that its records name as slow; none unless ``site.avoid_slow_nodes``."""
    start = newest_start(run)
    if start is None or not site_of(run.plan()).avoid_slow_nodes:
        return ()
    hosts = {
        record.host
        for record in recent_records(run.metrics_file)
        if isinstance(record, SlowRankRecord) and record.attempt == start.attempt
    }
    return tuple(node for node in start.nodes if node in hosts)


def failed_in_job(attempts: Sequence[JobAttempt], job: str) -> tuple[str, ...]:
    """Nodes at fault in any attempt of ``job``."""
    ends = [attempt.end for attempt in attempts if attempt.start.job == job and attempt.end is not None]
    return tuple(end.node for end in ends if end.at_fault and end.node is not None)


def slow_of_job(attempts: Sequence[JobAttempt], job: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Slow nodes of the last ``SLOW_ATTEMPTS`` attempts of ``job``, and those of its earlier ones."""
    own = [attempt.end.slow if attempt.end else () for attempt in attempts if attempt.start.job == job]
    recent, earlier = own[-SLOW_ATTEMPTS:], own[:-SLOW_ATTEMPTS]
    return tuple(dict.fromkeys(chain(*recent))), tuple(dict.fromkeys(chain(*earlier)))
