"""``python -m gemfit_launch.slurm.node.job begin|limit|end RUN_DIR``: attempt hooks of `train.sbatch`.

``begin`` answers ``attempt`` with its number, host, port, number and names of the nodes for the tasks.
``end`` acts on the verdict, and answers ``again`` where the next attempt is to begin in the same job. Both
answer ``leave`` with the exit status of the job where it is to end; whatever failed is in the verdict by
then. ``limit`` requeues a job that has not saved just before its time limit.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from pathlib import Path

from gemfit.core.marked_answer import write_answer
from gemfit.core.os_errors import explaining_os_errors
from gemfit.errors import ExitCode, UserError
from gemfit.rundir import RunDir
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.attempt_record import Verdict
from gemfit.schemas.plan import Plan
from gemfit_launch.planning.replan import on_nodes
from gemfit_launch.planning.row_count import finished_pack
from gemfit_launch.planning.this_machine import check_bfloat16_here
from gemfit_launch.planning.write_configs import write_configs
from gemfit_launch.runs.exit_report import TAIL_LINES, tail_of_log
from gemfit_launch.runs.local import free_port
from gemfit_launch.slurm.cluster import requeue
from gemfit_launch.slurm.node import time_limit
from gemfit_launch.slurm.node.allocation import Allocation, check_size, describe_size
from gemfit_launch.slurm.node.excluded_nodes import requeue_run, slow_nodes
from gemfit_launch.slurm.node.requeue_job import is_cancelled, keeps_nodes, requeue_job, restart_count, say
from gemfit_launch.slurm.records import job_attempts
from gemfit_launch.slurm.records.job_attempts import AttemptEnd, AttemptFiles, AttemptStart, NodeEnd
from gemfit_launch.slurm.records.job_files import JobFiles
from gemfit_launch.slurm.sites.planned_site import site_of

STATED_BY_RANKS = (AttemptOutcome.COMPLETED, AttemptOutcome.STOPPED, AttemptOutcome.FATAL)
"""Outcomes of verdicts that the training itself writes; `failed` is the verdict of this module."""
PACK_SECONDS = 10.0
"""A shared file system may show a new pack late on another node."""
SUBMISSION_SECONDS = 5.0
"""A job may start before `gemfit submit` has recorded its id; one submitted by hand has no record."""


def main() -> ExitCode:
    """Run one hook and log its decision."""
    parser = argparse.ArgumentParser(prog="python -m gemfit_launch.slurm.node.job")
    parser.add_argument("verb", choices=["begin", "limit", "end"])
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--max-restarts", type=int, required=True)
    parser.add_argument("--attempt", type=int, default=0)
    parser.add_argument("--status", type=int, default=0, help="of srun; for the log only")
    parser.add_argument("--asked", action="store_true", help="a signal has asked the job to save")
    arguments = parser.parse_args()
    run = RunDir(arguments.run_dir)
    if arguments.verb == "limit":
        return time_limit.requeue_before_limit(run, arguments.attempt)
    try:
        with explaining_os_errors():
            if arguments.verb == "begin":
                return _begin_or_record(run, arguments.max_restarts)
            return _end_or_record(run, arguments)
    except UserError as error:  # the verdict cannot be written
        say(f"the job ends: {error}")
        return _leave(ExitCode.FAILED)


def _begin_or_record(run: RunDir, max_restarts: int) -> ExitCode:
    try:
        with explaining_os_errors():
            return begin(run, max_restarts=max_restarts)
    except UserError as error:
        return _fail(run, run.attempt, str(error))


def _end_or_record(run: RunDir, arguments: argparse.Namespace) -> ExitCode:
    say(f"attempt {arguments.attempt} has ended (srun: {arguments.status})")
    try:
        with explaining_os_errors():
            return end(
                run,
                arguments.attempt,
                max_restarts=arguments.max_restarts,
                status=arguments.status,
                was_asked=arguments.asked,
            )
    except UserError as error:
        return _fail(run, run.attempt, str(error))


def begin(run: RunDir, *, max_restarts: int) -> ExitCode:
    """Begin a new attempt and answer its rendezvous address, unless the run must not continue."""
    job = os.environ["SLURM_JOB_ID"]
    record_interruption(run)
    if run.stop_requested_by() == job_attempts.STOP_BY_COMMAND:
        say("stop was requested before this attempt began; `gemfit resume` starts a new job")
        return _leave(ExitCode.DONE)
    plan = run.plan()
    if run.is_complete(plan):
        say("the run is complete already")
        return _leave(ExitCode.DONE)
    attempts = job_attempts.read_attempts(run)
    if reason := job_attempts.give_up(attempts, job, max_restarts=max_restarts):
        return _fail(run, run.attempt, reason)
    if not _is_packed(run, plan):
        return _leave(ExitCode.FAILED)
    allocation = Allocation.of_this_job(attempts)
    check_size(plan, allocation)
    # Without a count of restarts, a new allocation looks like the one in which a node failed.
    nodes = allocation.used_by(plan) or Allocation(allocation.nodes).used_by(plan)
    idle = tuple(node for node in allocation.nodes if node not in nodes)
    plan = on_nodes(plan, len(nodes))
    check_bfloat16_here(plan)
    host = requeue.address(nodes[0]) if len(nodes) > 1 else "127.0.0.1"
    run.adopt(plan)
    write_configs(run, plan)
    step = job_attempts.newest_step(run)
    attempt = run.begin_attempt(_allowed_changes(run, job), idle_nodes=len(idle))
    files = AttemptFiles(run, attempt)
    time_limit.warn_of_short_limit(job, site_of(plan).signal_lead_seconds)
    if stops := job_attempts.fruitless_stops(attempts, job):
        say(f"warning: {job_attempts.describe_stops(stops)}")
    start = AttemptStart(
        attempt=attempt,
        job=job,
        nodes=nodes,
        idle=idle,
        restarts=restart_count(),
        step=step,
        time=time.time(),
    )
    files.write(files.start, start)
    say(f"attempt {attempt} of job {job} on {','.join(nodes)}, from step {step} of {plan.steps.total}")
    if plan.node_counts:
        say(describe_size(plan, idle, allocation.at_fault))
    # The batch script runs on machine 0, so a port that is free here is free there.
    write_answer(f"attempt {attempt} {host} {free_port()} {len(nodes)} {','.join(nodes)}")
    return ExitCode.DONE


def end(
    run: RunDir, attempt: int, *, max_restarts: int, status: int = 0, was_asked: bool = False
) -> ExitCode:
    """Record the outcome of ``attempt``; requeue the job, or begin again in it, if the run is to continue."""
    run.end_attempt(attempt)
    job, verdict = os.environ["SLURM_JOB_ID"], run.verdict()
    by_command = run.stop_requested_by() == job_attempts.STOP_BY_COMMAND
    if verdict is not None and verdict.outcome in STATED_BY_RANKS:
        _record_end(run, attempt, verdict.outcome, verdict.reason)
        if verdict.outcome is AttemptOutcome.STOPPED and not by_command:
            say(f"saved at step {verdict.step}")
            return _leave(requeue_run(run, job))
        say(f"{verdict.outcome} at step {verdict.step}" + (f": {verdict.reason}" if verdict.reason else ""))
        return _leave(ExitCode.USER_ERROR if verdict.outcome is AttemptOutcome.FATAL else ExitCode.DONE)
    if AttemptFiles(run, attempt).limit.is_file():
        _record_end(run, attempt, AttemptOutcome.INTERRUPTED, job_attempts.LIMIT_REACHED)
        return _leave(requeue_run(run, job))
    if verdict is None and is_cancelled(job):
        _record_end(run, attempt, AttemptOutcome.CANCELLED, "the job was cancelled before it could save")
        return _leave(requeue_job(run, job))
    failed = _crash(run, attempt, verdict, status)
    if reason := job_attempts.give_up(job_attempts.read_attempts(run), job, max_restarts=max_restarts):
        return _fail(run, attempt, f"{reason}; the last time: {failed.reason}")
    if by_command:
        return _fail(run, attempt, f"crashed after a stop request: {failed.reason}")
    if not was_asked and _begins_again(run, job, failed):
        say("the next attempt begins in the same job")
        write_answer("again")
        return ExitCode.DONE
    return _leave(requeue_run(run, job))


def _begins_again(run: RunDir, job: str, failed: NodeEnd) -> bool:
    """Whether the next attempt after a crash begins in the same job, without the queue.

    Not after a fault of a node where too few others are left, nor after a second crash without a new
    checkpoint: a requeue may give other nodes. A rank that was killed makes its node suspect: others are
    preferred, but without any the node is tried once more. The stop file does not tell whether the job was
    asked to save: nodes also write it when srun ends them, because another has failed.
    """
    if not failed.node:
        return False
    attempts = job_attempts.read_attempts(run)
    crashes = job_attempts.fruitless(attempts, job, AttemptOutcome.CRASHED)
    has_nodes = failed.can_train_again or bool(Allocation.of_this_job(attempts).used_by(run.plan()))
    return crashes <= 1 and has_nodes and keeps_nodes(job)


def record_interruption(run: RunDir) -> None:
    """Record the outcome of an attempt whose batch script was killed: preempted, or its node was lost."""
    files, verdict = AttemptFiles(run, run.attempt), run.verdict()
    if not files.start.is_file() or files.end.is_file():
        return
    saved = verdict is not None and verdict.outcome in (AttemptOutcome.COMPLETED, AttemptOutcome.STOPPED)
    outcome = AttemptOutcome.STOPPED if saved else AttemptOutcome.INTERRUPTED
    at_limit = files.limit.is_file() and not saved
    reason = job_attempts.LIMIT_REACHED if at_limit else "ended by Slurm together with its job"
    _record_end(run, run.attempt, outcome, reason)


def _is_packed(run: RunDir, plan: Plan) -> bool:
    """Whether the packed data is there; else the verdict says why.

    A packing job that failed may have had to exit with 0 (`leave` of the batch script); its verdict is kept.
    Without one, a cache was cleaned after the run was submitted.
    """
    folder, deadline = Path(plan.pack.folder), time.monotonic() + PACK_SECONDS
    while finished_pack(folder) is None:
        verdict = run.verdict() if JobFiles(run).has_verdict_since("train") else None
        if verdict is not None and verdict.outcome in (AttemptOutcome.FAILED, AttemptOutcome.FATAL):
            say(f"the job ends, because the data could not be packed: {verdict.reason}")
            return False
        if time.monotonic() > deadline:
            raise UserError(
                f"{folder}: the packed data of this run is gone; `gemfit resume {run.root}` packs it again"
            )
        time.sleep(0.5)
    return True


def _allowed_changes(run: RunDir, job: str) -> tuple[str, ...]:
    """Changes that `gemfit resume` has allowed; it records them after sbatch has accepted the job."""
    deadline = time.monotonic() + SUBMISSION_SECONDS
    while True:
        try:
            submissions = JobFiles(run).submissions()
        except UserError as error:
            say(f"warning: {error}; no change of the training is allowed")
            return ()
        for submission in submissions:
            if str(submission.job) == job:
                return submission.allowed_changes
        if time.monotonic() > deadline:
            return ()
        time.sleep(0.2)


def _crash(run: RunDir, attempt: int, verdict: Verdict | None, status: int) -> NodeEnd:
    """Record a crash, and print the end of the log of the node that failed first."""
    files = AttemptFiles(run, attempt)
    start = job_attempts.read_sound(AttemptStart, files.start)
    failed = job_attempts.first_failure(files.node_ends(), start.nodes if start is not None else ())
    if failed is None:
        no_start = f"no node has begun to train, and srun ended with status {status}; see `gemfit logs --job`"
        reason = verdict.reason if verdict else no_start
        failed = NodeEnd(node="", rank=0, stage="training", status=1, reason=reason, time=time.time())
    log = files.log(failed.rank)
    for line in tail_of_log(log, TAIL_LINES) if log.is_file() else []:
        sys.stderr.write(f"  {failed.node or 'node'} | {line}\n")
    say(f"attempt {attempt} crashed on {failed.node or 'no single node'}: {failed.reason}")
    _record_end(run, attempt, AttemptOutcome.CRASHED, failed.reason, failed)
    return failed


def _record_end(
    run: RunDir, attempt: int, outcome: AttemptOutcome, reason: str, failed: NodeEnd | None = None
) -> None:
    files = AttemptFiles(run, attempt)
    record = AttemptEnd(
        attempt=attempt,
        outcome=outcome,
        step=job_attempts.newest_step(run),
        reason=reason,
        node=failed.node or None if failed else None,
        at_fault=failed.at_fault if failed else False,
        slow=slow_nodes(run),
        time=time.time(),
    )
    files.write(files.end, record)


def _fail(run: RunDir, attempt: int, reason: str) -> ExitCode:
    step = job_attempts.newest_step(run)
    run.write_verdict(Verdict(outcome=AttemptOutcome.FAILED, attempt=attempt, step=step, reason=reason))
    say(f"the job ends: {reason}")
    say(f"logs: {shlex.quote(str(run.logs))}")
    return _leave(ExitCode.FAILED)


def _leave(code: ExitCode) -> ExitCode:
    write_answer(f"leave {code:d}")
    return code


if __name__ == "__main__":
    sys.exit(main())
