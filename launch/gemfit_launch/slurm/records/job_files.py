"""Slurm files of a run folder: job scripts, logs of batch scripts, submissions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gemfit.core.atomic_file import write_atomic
from gemfit.errors import UserError
from gemfit.rundir import RunDir
from gemfit.schemas.base import Contract


class Submission(Contract):
    """One job that was submitted for a run."""

    job: int
    """Its id, which a requeued job keeps."""
    pack_job: int | None
    """The packing job that it depends on."""
    site: str
    """As `--site` takes it: a name, or the absolute path of a file."""
    site_settings: tuple[str, ...] = ()
    """What `--site-set` changed of it."""
    nodes: int
    node_counts: tuple[int, ...] = ()
    """As `Plan.node_counts`."""
    folder: str
    """Working folder of the submission, to which relative paths in the recipe refer."""
    allowed_changes: tuple[str, ...] = ()
    """Keys of the training's identity that may differ from what a checkpoint was saved under."""
    time: float
    """Seconds since the Unix epoch."""


class Submissions(Contract):
    """All jobs of a run, the newest last."""

    jobs: tuple[Submission, ...] = ()


@dataclass(frozen=True, slots=True)
class JobFiles:
    """The folder ``slurm`` of a run."""

    run: RunDir

    @property
    def root(self) -> Path:
        """Absolute path of the run folder."""
        return self.run.root.resolve()

    def job_name(self, kind: str) -> str:
        """Job name: that of the run folder."""
        return self.root.name if kind == "train" else f"{self.root.name}-{kind}"

    @property
    def folder(self) -> Path:
        return self.root / "slurm"

    def script(self, kind: str) -> Path:
        """Script of the training or packing job, as submitted last."""
        return self.folder / f"{kind}.sbatch"

    def log(self, kind: str, job: int) -> Path:
        """Log of the batch script of a job, over all its attempts."""
        return self.folder / f"{kind}-{job}.log"

    def log_pattern(self, kind: str) -> str:
        """The same for sbatch's ``--output``, where ``%`` has to be escaped."""
        if "\\" in str(self.root):
            raise UserError(f"{self.root}: Slurm removes backslashes from paths; choose another folder")
        if ":" in str(self.root):
            raise UserError(
                f"{self.root}: a colon separates folders in PYTHONPATH, and the job imports the code in this "
                "folder; choose another"
            )
        return f"{str(self.folder).replace('%', '%%')}/{kind}-%j.log"

    @property
    def submissions_file(self) -> Path:
        return self.folder / "submissions.json"

    def submissions(self) -> tuple[Submission, ...]:
        """Every job of the run, the newest last; empty for a run that was never submitted."""
        path = self.submissions_file
        return Submissions.read(path).jobs if path.is_file() else ()

    def newest(self) -> Submission | None:
        """The newest submission, if any."""
        return self.submissions()[-1] if self.submissions() else None

    def record(self, submission: Submission) -> None:
        """Add a job to those of the run."""
        jobs = Submissions(jobs=(*self.submissions(), submission))
        write_atomic(self.submissions_file, jobs.to_json())

    def was_cancelled(self, job: int) -> bool:
        """Whether ``job`` is known to have been cancelled, also when Slurm has forgotten it."""
        return self._cancelled_file(job).is_file()

    def record_cancelled(self, job: int) -> None:
        """Record that ``job`` was cancelled."""
        self.folder.mkdir(exist_ok=True)
        write_atomic(self._cancelled_file(job), "")

    def _cancelled_file(self, job: int) -> Path:
        return self.folder / f"job-{job}.cancelled"

    def has_verdict_since(self, kind: str) -> bool:
        """Whether the run has a verdict that is newer than the script of a job."""
        files = (self.run.verdict_file, self.script(kind))
        return all(path.is_file() for path in files) and files[0].stat().st_mtime >= files[1].stat().st_mtime

    def write_script(self, kind: str, text: str) -> Path:
        """Write a job script and return its path."""
        self.folder.mkdir(exist_ok=True)
        write_atomic(self.script(kind), text)
        return self.script(kind)
