"""``python -m gemfit_launch.slurm.node.pack_job build|end RUN_DIR``: the packing job of a run.

``build`` packs the data, then makes the plan exact: the submitted one uses an estimated number of rows.
``end`` requeues a job whose build a signal has ended, and records why another build failed. The training job
depends on this one.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from gemfit.core.marked_answer import write_answer
from gemfit.core.os_errors import explaining_os_errors
from gemfit.errors import ExitCode, UserError
from gemfit.rundir import RunDir
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.attempt_record import Verdict
from gemfit.schemas.pack_job import make_pack_job
from gemfit.schemas.plan import Plan
from gemfit_launch.planning.replan import with_rows
from gemfit_launch.planning.row_count import finished_pack
from gemfit_launch.runs.ensure_pack import PackFailed, ensure_pack
from gemfit_launch.runs.python_module import ModuleKilled
from gemfit_launch.slurm.node.end_builder import BuilderEnd
from gemfit_launch.slurm.node.requeue_job import requeue_job, restart_count
from gemfit_launch.slurm.records.job_files import JobFiles

MAX_RESTARTS = 20
"""Of a packing job: its time limit, or the time between preemptions, is too short."""
KILLED_STATUS = 128 + 9
MORE_MEMORY = "give the packing job more (`pack_memory` of the site)"


def main() -> ExitCode:
    """Run one verb and return the exit status of the task, or of the job."""
    parser = argparse.ArgumentParser(prog="python -m gemfit_launch.slurm.node.pack_job")
    parser.add_argument("verb", choices=["build", "end"])
    parser.add_argument("run_dir", type=Path, help="folder with plan.json")
    parser.add_argument("--status", type=int, default=0, help="of srun")
    parser.add_argument("--asked", action="store_true", help="a signal has asked the job to end")
    arguments = parser.parse_args()
    is_build = arguments.verb == "build"
    try:
        with explaining_os_errors():
            run = RunDir.open(arguments.run_dir)
            code = build(run) if is_build else end(run, arguments.status, was_asked=arguments.asked)
    except UserError as error:  # without a run there is no place for a verdict
        sys.stderr.write(f"error: {error}\n")
        code = ExitCode.USER_ERROR
    if not is_build:
        write_answer(f"leave {code:d}")
    return code


def build(run: RunDir) -> ExitCode:
    """Pack the data of ``run``; ``STOPPED`` if a signal ended the build."""
    builder_end = BuilderEnd.install()
    try:
        with explaining_os_errors():
            run.adopt(pack(run.plan()))
        return ExitCode.DONE
    except PackFailed as error:
        code, reason = error.code, f"the data could not be packed; `gemfit logs {run.root} --job` says why"
    except ModuleKilled as error:
        code, reason = ExitCode.USER_ERROR, f"the data could not be packed: {error}; {MORE_MEMORY}"
    except UserError as error:
        code, reason = ExitCode.USER_ERROR, str(error)
    if builder_end.requests:
        return ExitCode.STOPPED
    sys.stderr.write(f"error: {reason}\n")
    _give_up(run, reason)
    return code


def end(run: RunDir, status: int, *, was_asked: bool) -> ExitCode:
    """Requeue a job whose build was ended by a signal; else leave a verdict that says why it failed.

    ``DONE``, with which the training job starts, only where a build that a signal met has finished. A wrapper
    of the site's Python may lose its status.
    """
    if status == ExitCode.DONE and finished_pack(Path(run.plan().pack.folder)) is not None:
        return ExitCode.DONE
    is_failure = status in (ExitCode.FAILED, ExitCode.USER_ERROR)
    has_failed = is_failure and JobFiles(run).has_verdict_since("pack")
    if not has_failed and (was_asked or status in (ExitCode.DONE, ExitCode.STOPPED)):
        if restart_count() < MAX_RESTARTS:
            _requeue(run)
            return ExitCode.FAILED
        _give_up(run, f"packing was interrupted {MAX_RESTARTS} times; give the job more `time`")
    elif not has_failed:
        memory = f"; memory may have run out: {MORE_MEMORY}" if status == KILLED_STATUS else ""
        _give_up(run, f"packing ended with status {status}{memory}; see `gemfit logs {run.root} --job`")
    return ExitCode.USER_ERROR if status == ExitCode.USER_ERROR else ExitCode.FAILED


def _requeue(run: RunDir) -> None:
    try:
        requeue_job(run, os.environ["SLURM_JOB_ID"])
    except UserError as error:
        _give_up(run, f"packing was interrupted, and its job could not be requeued: {error}")


def pack(plan: Plan) -> Plan:
    """Build the pack of ``plan`` unless it exists; returns the plan with the counted rows."""
    job, folder = make_pack_job(plan.recipe), Path(plan.pack.folder)
    if job.fingerprint != plan.pack.fingerprint:
        named = ", ".join(source.name for source in job.sources)
        raise UserError(f"{named}: has changed since the run was submitted; submit it again")
    manifest = ensure_pack(job, folder, force=False, say=print_line)
    return with_rows(plan, manifest.splits["train"].rows)


def print_line(line: str) -> None:
    """One line in the log of the job, at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _give_up(run: RunDir, reason: str) -> None:
    run.write_verdict(Verdict(outcome=AttemptOutcome.FATAL, attempt=run.attempt, step=0, reason=reason))


if __name__ == "__main__":
    sys.exit(main())
