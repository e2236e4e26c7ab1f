"""What a run folder holds about Slurm: scripts, logs of the batch shells, and which jobs were submitted."""

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
    """The job that it waits for, which packs the data."""
    site: str
    nodes: int
    folder: str
    """Where it was submitted; relative names in the recipe begin there."""
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
        """The run folder as nodes name it: absolute."""
        return self.run.root.resolve()

    def job_name(self, kind: str) -> str:
        """What Slurm calls the job: like the run folder."""
        return self.root.name if kind == "train" else f"{self.root.name}-{kind}"

    @property
    def folder(self) -> Path:
        return self.root / "slurm"

    def script(self, kind: str) -> Path:
        """The text of the job that trains, or packs, as it was submitted last."""
        return self.folder / f"{kind}.sbatch"

    def log(self, kind: str, job: int) -> Path:
        """What the batch shell of a job printed, over all its attempts."""
        return self.folder / f"{kind}-{job}.log"

    def log_pattern(self, kind: str) -> str:
        """The same as sbatch's ``--output``, which takes ``%`` for its own."""
        if "\\" in str(self.root):
            raise UserError(f"{self.root}: Slurm takes backslashes out of paths; choose another folder")
        return f"{str(self.folder).replace('%', '%%')}/{kind}-%j.log"

    @property
    def submissions_file(self) -> Path:
        return self.folder / "submissions.json"

    def submissions(self) -> tuple[Submission, ...]:
        """Every job of the run, the newest last; none for a run that never went to Slurm."""
        path = self.submissions_file
        return Submissions.read(path).jobs if path.is_file() else ()

    def newest(self) -> Submission | None:
        """The job that trains the run now, or did last."""
        return self.submissions()[-1] if self.submissions() else None

    def record(self, submission: Submission) -> None:
        """Add a job to those of the run."""
        jobs = Submissions(jobs=(*self.submissions(), submission))
        write_atomic(self.submissions_file, jobs.to_json())

    def write_script(self, kind: str, text: str) -> Path:
        """Keep the text of a job, and tell where."""
        self.folder.mkdir(exist_ok=True)
        write_atomic(self.script(kind), text)
        return self.script(kind)
