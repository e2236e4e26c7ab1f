"""``python -m gemfit_launch.slurm.node.job begin|end RUN_DIR``: attempt hooks of `train.sbatch`.

``begin`` prints attempt, host and port for the tasks, or nothing if there is nothing to do. ``end`` acts on
the verdict. The exit status of either is that of the job.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from pathlib import Path

from gemfit.errors import ExitCode, UserError
from gemfit.rundir import RunDir
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.metrics import Verdict
from gemfit_launch.planning.write_configs import write_configs
from gemfit_launch.runs.exit_report import TAIL_LINES, tail_of_log
from gemfit_launch.runs.local import free_port
from gemfit_launch.slurm.cluster import requeue
from gemfit_launch.slurm.records import job_attempts
from gemfit_launch.slurm.records.job_attempts import AttemptEnd, AttemptFiles, AttemptStart, NodeEnd
from gemfit_launch.slurm.records.job_files import JobFiles

STATED_BY_RANKS = (AttemptOutcome.COMPLETED, AttemptOutcome.STOPPED, AttemptOutcome.FATAL)
"""Outcomes of verdicts that the training itself writes; `failed` is the verdict of this module."""
SUBMISSION_SECONDS = 5.0
"""A job may start before `gemfit submit` has recorded its id; one submitted by hand has no record."""


def main() -> ExitCode:
    """Run one hook and log its decision."""
    parser = argparse.ArgumentParser(prog="python -m gemfit_launch.slurm.node.job")
    parser.add_argument("verb", choices=["begin", "end"])
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--max-restarts", type=int, required=True)
    parser.add_argument("--attempt", type=int, default=0)
    parser.add_argument("--status", type=int, default=0, help="of srun; for the log only")
    arguments = parser.parse_args()
    run = RunDir(arguments.run_dir)
    try:
        if arguments.verb == "begin":
            return begin(run, max_restarts=arguments.max_restarts)
        say(f"attempt {arguments.attempt} has ended (srun: {arguments.status})")
        return end(run, arguments.attempt, max_restarts=arguments.max_restarts)
    except UserError as error:
        return _fail(run, run.attempt, str(error))


def begin(run: RunDir, *, max_restarts: int) -> ExitCode:
    """Begin a new attempt and print its rendezvous address, unless the run must not continue."""
    job = os.environ["SLURM_JOB_ID"]
    record_interruption(run)
    if stopped_by(run) == job_attempts.STOP_BY_COMMAND:
        say("stop was requested before this attempt began; `gemfit resume` starts a new job")
        return ExitCode.DONE
    plan = run.plan()
    if run.is_complete(plan):
        say("the run is complete already")
        return ExitCode.DONE
    if reason := job_attempts.give_up(job_attempts.read_attempts(run), job, max_restarts=max_restarts):
        return _fail(run, run.attempt, reason)
    nodes = requeue.host_names(os.environ["SLURM_JOB_NODELIST"])
    if len(nodes) != plan.topology.nodes:
        raise UserError(f"{run.plan_file} is for {plan.topology.nodes} nodes, but the job has {len(nodes)}")
    host = requeue.address(nodes[0]) if len(nodes) > 1 else "127.0.0.1"
    write_configs(run, plan)
    step = job_attempts.newest_step(run)
    attempt = run.begin_attempt(_allowed_changes(run, job))
    files = AttemptFiles(run, attempt)
    start = AttemptStart(attempt=attempt, job=job, nodes=nodes, step=step, time=time.time())
    files.write(files.start, start)
    say(f"attempt {attempt} of job {job} on {','.join(nodes)}, from step {step} of {plan.steps.total}")
    # The batch script runs on machine 0, so a port that is free here is free there.
    sys.stdout.write(f"{attempt} {host} {free_port()}\n")
    return ExitCode.DONE


def end(run: RunDir, attempt: int, *, max_restarts: int) -> ExitCode:
    """Record the outcome of ``attempt``, and requeue the job if it is to continue."""
    job, verdict = os.environ["SLURM_JOB_ID"], run.verdict()
    by_command = stopped_by(run) == job_attempts.STOP_BY_COMMAND
    if verdict is not None and verdict.outcome in STATED_BY_RANKS:
        _record_end(run, attempt, verdict.outcome, verdict.reason)
        if verdict.outcome is AttemptOutcome.STOPPED and not by_command:
            say(f"saved at step {verdict.step}")
            return _requeue(job, avoid=None)
        say(f"{verdict.outcome} at step {verdict.step}" + (f": {verdict.reason}" if verdict.reason else ""))
        return ExitCode.USER_ERROR if verdict.outcome is AttemptOutcome.FATAL else ExitCode.DONE
    failed = _crash(run, attempt, verdict)
    if reason := job_attempts.give_up(job_attempts.read_attempts(run), job, max_restarts=max_restarts):
        return _fail(run, attempt, f"{reason}; the last time: {failed.reason}")
    if by_command:
        return _fail(run, attempt, f"crashed after a stop request: {failed.reason}")
    return _requeue(job, avoid=failed.node if failed.at_fault else None)


def record_interruption(run: RunDir) -> None:
    """Record the outcome of an attempt whose batch script was killed: preempted, or its node was lost."""
    files, verdict = AttemptFiles(run, run.attempt), run.verdict()
    if not files.start.is_file() or files.end.is_file():
        return
    saved = verdict is not None and verdict.outcome in (AttemptOutcome.COMPLETED, AttemptOutcome.STOPPED)
    outcome = AttemptOutcome.STOPPED if saved else AttemptOutcome.INTERRUPTED
    _record_end(run, run.attempt, outcome, "ended by Slurm together with its job")


def _allowed_changes(run: RunDir, job: str) -> tuple[str, ...]:
    """Changes that `gemfit resume` has allowed; it records them after sbatch has accepted the job."""
    deadline = time.monotonic() + SUBMISSION_SECONDS
    while True:
        for submission in JobFiles(run).submissions():
            if str(submission.job) == job:
                return submission.allowed_changes
        if time.monotonic() > deadline:
            return ()
        time.sleep(0.2)


def stopped_by(run: RunDir) -> str | None:
    """Content of the stop file; ``None`` without one."""
    return run.stop_file.read_text().strip() if run.stop_file.is_file() else None


def say(line: str) -> None:
    """Write a line to the job's log; stdout is read by the batch script."""
    sys.stderr.write(f"{time.strftime('%F %T')} gemfit: {line}\n")


def _crash(run: RunDir, attempt: int, verdict: Verdict | None) -> NodeEnd:
    """Record a crash, and print the end of the log of the node that failed first."""
    files = AttemptFiles(run, attempt)
    failed = job_attempts.first_failure(files.node_ends(), AttemptStart.read(files.start).nodes)
    if failed is None:
        reason = verdict.reason if verdict else "no verdict, and no exit record of a node"
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
        time=time.time(),
    )
    files.write(files.end, record)


def _requeue(job: str, *, avoid: str | None) -> ExitCode:
    """Requeue unless the job was cancelled, or Slurm has requeued it already."""
    decision = requeue.requeue_decision(
        requeue.show_job(job), int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    )
    if decision == "cancelled":
        say("the job was cancelled, so it is not requeued")
        return ExitCode.DONE
    if decision == "queued":
        say("Slurm has requeued the job itself")
        return ExitCode.DONE
    requeue.requeue(job)
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


def _fail(run: RunDir, attempt: int, reason: str) -> ExitCode:
    step = job_attempts.newest_step(run)
    run.write_verdict(Verdict(outcome=AttemptOutcome.FAILED, attempt=attempt, step=step, reason=reason))
    say(f"the job ends: {reason}")
    say(f"logs: {shlex.quote(str(run.logs))}")
    return ExitCode.FAILED


if __name__ == "__main__":
    sys.exit(main())
