"""Submit the jobs of a run: write the scripts into the run folder, then call sbatch.

Data that is not packed yet is packed by a job without a GPU, on which the training job depends.
"""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gemfit.rundir import RunDir
from gemfit.schemas.plan import Plan
from gemfit_launch.planning.request import Request
from gemfit_launch.slurm import commands
from gemfit_launch.slurm.commands import JobMayExistError, SlurmError
from gemfit_launch.slurm.records.job_files import JobFiles, Submission
from gemfit_launch.slurm.submit.site_options import SiteOptions
from gemfit_launch.slurm.submit.snapshot_code import snapshot_code
from gemfit_launch.slurm.submit.template import Kind, render


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run that can be submitted; its folder does not exist yet."""

    root: Path
    request: Request
    plan: Plan
    scripts: dict[Kind, str]
    site_options: SiteOptions


def submit_all(
    jobs: Sequence[Prepared], folder: Path, after: int | None, max_parallel: int | None = None
) -> Iterator[tuple[Prepared, Submission]]:
    """Submit one job after the other; a pack that several need is built once.

    Of more than ``max_parallel`` runs, each waits until the one that many places before it has ended. A
    requeued job has not ended.
    """
    packers: dict[str, int] = {}
    training: list[int] = []
    for job in jobs:
        pack = job.plan.pack.fingerprint
        waits_for = [number for number in (after, packers.get(pack)) if number is not None]
        earlier = [training[-max_parallel]] if max_parallel and len(training) >= max_parallel else []
        submission = submit_new(job, folder, waits_for, earlier)
        training.append(submission.job)
        if submission.pack_job is not None:
            packers.setdefault(pack, submission.pack_job)
        yield job, submission


def submit_new(job: Prepared, folder: Path, after: Sequence[int], after_end: Sequence[int]) -> Submission:
    """Create the run folder and submit; removes the folder if no job can exist."""
    run = RunDir.create(job.root, job.plan)
    with _removed_if_refused(run):
        return submit(run, job.scripts, folder, job.site_options, after, after_end=after_end)


def submit(
    run: RunDir,
    scripts: dict[Kind, str],
    folder: Path,
    site_options: SiteOptions,
    after: Sequence[int] = (),
    allowed_changes: tuple[str, ...] = (),
    *,
    after_end: Sequence[int] = (),
) -> Submission:
    """Submit the jobs of an existing run, with a snapshot of the current code.

    The first job waits for the success of those in ``after``, the training also for the end of ``after_end``.
    """
    files, plan = JobFiles(run), run.plan()
    snapshot_code(run)
    paths = {kind: files.write_script(kind, text) for kind, text in scripts.items()}
    pack_job = (
        commands.submit(paths["pack"], files.job_name("pack"), after=after) if "pack" in paths else None
    )
    with _cancelled_if_refused(pack_job):
        waits_for = after if pack_job is None else [pack_job]
        job = commands.submit(paths["train"], files.job_name("train"), after=waits_for, after_end=after_end)
    submission = Submission(
        job=job,
        pack_job=pack_job,
        site=site_options.lasting_name,
        site_settings=site_options.settings,
        nodes=plan.topology.nodes,
        node_counts=plan.node_counts,
        folder=str(folder),
        allowed_changes=allowed_changes,
        time=time.time(),
    )
    try:
        files.record(submission)
    except OSError as error:  # a full disk
        jobs = " ".join(str(number) for number in (pack_job, job) if number is not None)
        raise JobMayExistError(
            f"{files.submissions_file}: cannot be written: {error.strerror}; "
            f"the run was submitted and cannot be recorded: end it with `scancel {jobs}`"
        ) from None
    return submission


def render_scripts(plan: Plan, root: Path, folder: Path) -> dict[Kind, str]:
    """The text of every job that the plan needs, by kind; ``root`` need not exist yet."""
    folder_of_pack = plan.pack.folder  # empty where no data is named yet
    is_packed = bool(folder_of_pack) and Path(folder_of_pack, "manifest.json").is_file()
    kinds: list[Kind] = ["train"] if is_packed else ["pack", "train"]
    return {kind: render(kind, plan, RunDir(root), folder) for kind in kinds}


@contextmanager
def _removed_if_refused(run: RunDir) -> Iterator[None]:
    """Remove the folder of a run that has no job; a folder whose job may exist stays."""
    try:
        yield
    except JobMayExistError as error:
        raise JobMayExistError(f"{error}\n{_kept(run)}") from None
    except SlurmError:
        shutil.rmtree(run.root)
        raise
    except BaseException:
        # An interrupted sbatch may have been accepted; without a script it was not called yet.
        if not JobFiles(run).script("train").is_file():
            shutil.rmtree(run.root)
        raise


@contextmanager
def _cancelled_if_refused(job: int | None) -> Iterator[None]:
    """Cancel the packing job where the training job is refused."""
    try:
        yield
    except SlurmError as error:
        if job is None:
            raise
        done = _cancelled(job)
        raise JobMayExistError(f"{error}\nthe packing job {job} was accepted, and {done}") from None


def _cancelled(job: int) -> str:
    """Cancel a job; returns what became of it."""
    try:
        commands.cancel(job)
    except SlurmError as refusal:
        return f"could not be cancelled: {refusal}; `scancel {job}`"
    return "is cancelled now"


def _kept(run: RunDir) -> str:
    name = shlex.quote(JobFiles(run).job_name("train"))
    return (
        f"{run.root} is kept; look for a job with `squeue --me --name={name}`. "
        f"If there is none, remove the folder, or submit it with `gemfit resume {run.root} --site SITE`"
    )
