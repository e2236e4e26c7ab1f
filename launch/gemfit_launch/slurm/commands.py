"""Wrappers of Slurm's commands with typed results. None needs an accounting database.

Every call starts one process (about 10 ms on an idle controller).
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gemfit.errors import UserError
from gemfit_launch.slurm.states import JobState, parse_job_state

PATIENCE_SECONDS = 60
FORGOTTEN = "Invalid job id specified"
FIELDS = "%i|%T|%S|%r|%j"
TERMINAL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r(?=\n|\Z)")
"""Colours and carriage returns that a wrapper of a command may print."""
JOB_LINE = re.compile(r"\s*(\d+)\|")
"""What a line of that format begins with; a wrapper of squeue may print others."""
LOST = re.compile(
    r"timed out|zero bytes|unexpected message|(?:send|receive|shutdown) failure|connection reset|broken pipe"
    r"|endpoint is not connected",
    re.IGNORECASE,
)
"""In what a command prints whose connection broke after it had asked the controller for something."""
STARTS_AT = re.compile(r"to start at (\S+)")
"""In what ``sbatch --test-only`` prints, on standard error."""
PASSED_ON = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT", "SLURM_SACK_KEY", "SLURM_SACK_JWKS")
"""Where Slurm is and who the user is: these set no option of a job, and without them a command may not find
its controller (a login node without configuration files) or not be accepted (a token)."""

PREFIXES = ("SBATCH_", "SLURM_", "SRUN_", "SALLOC_", "SQUEUE_", "SCANCEL_", "SINFO_", "SCONTROL_")


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A job in the output of squeue."""

    id: int
    state: JobState
    reason: str
    """Slurm's reason why it is pending; `None` while it runs."""
    start: str
    """Start time, actual or expected; `N/A` if unknown."""
    name: str
    """Distinguishes it from another job after the ids have restarted."""

    @property
    def is_over(self) -> bool:
        return self.state.phase == "ended"


class SlurmError(UserError):
    """A command of Slurm failed; the message contains its output."""

    def __init__(self, message: str, *, stdout: str = "") -> None:
        super().__init__(message)
        self.stdout = stdout


class NoAnswerError(SlurmError):
    """A command was too slow, was killed or lost its connection; what it asked for may have happened."""


class JobMayExistError(UserError):
    """Whether a job was submitted is not known, so its run folder has to stay."""


def submit(script: Path, name: str, *, after: Sequence[int] = (), after_end: Sequence[int] = ()) -> int:
    """Submit a script, whose job is called ``name``, and return the job id.

    The job depends on the success of the jobs in ``after``, and on the end of those in ``after_end``.
    A ``SlurmError`` means that Slurm refused it; ``JobMayExistError`` that it may have been accepted.
    """
    kinds = {"afterok": after, "afterany": after_end}
    dependencies = ",".join(":".join([kind, *map(str, ids)]) for kind, ids in kinds.items() if ids)
    waiting = [f"--dependency={dependencies}", "--kill-on-invalid-dep=yes"] if dependencies else []
    try:
        answer = call(["sbatch", "--parsable", *waiting, str(script)])
    except SlurmError as error:
        numbers = job_ids(error.stdout)
        if not numbers and not isinstance(error, NoAnswerError):
            raise
        named = f" (it printed {', '.join(map(str, numbers))})" if numbers else ""
        raise JobMayExistError(f"{error}; a job may have been submitted{named}") from None
    numbers = job_ids(answer)
    if len(numbers) > 1:
        numbers = _called(name, numbers)
    if len(numbers) != 1:
        said = answer.strip() or "nothing"
        raise JobMayExistError(f"sbatch: accepted the job, and printed no clear job id but: {said}")
    return numbers[0]


def job_ids(answer: str) -> list[int]:
    """What may be the job id in the output of ``sbatch --parsable``: the last ``N;CLUSTER``, else all ``N``.

    A site may wrap sbatch in a script that prints lines of its own, before or after it.
    """
    found = re.findall(r"^\s*([0-9]+)(;\S*)?\s*$", answer, re.MULTILINE)
    certain = [int(number) for number, cluster in found if cluster]
    return certain[-1:] or list(dict.fromkeys(int(number) for number, _ in found))


def _called(name: str, numbers: list[int]) -> list[int]:
    """Those of these jobs that have this name; none where Slurm does not answer."""
    try:
        known = jobs(numbers)
    except SlurmError:
        return []
    return [number for number, job in known.items() if job.name.strip() == name.strip()]


def expected_start(script: str, *, nodes: int | None = None) -> str:
    """When a job would start, as Slurm writes it, on ``nodes`` nodes where given; nothing is submitted.

    Empty where sbatch does not tell. A rejection of the script is a ``SlurmError``.
    """
    size = [f"--nodes={nodes}"] if nodes is not None else []
    done = _run(["sbatch", "--test-only", *size], stdin=script)
    found = STARTS_AT.search(done.stderr) or STARTS_AT.search(done.stdout)
    return found[1] if found else ""


def jobs(ids: Collection[int]) -> dict[int, Job]:
    """Those of these jobs, of any user, that Slurm still knows, by id.

    A line that cannot be read is a ``SlurmError``: its job would be taken for one that has ended.
    """
    if not ids:
        return {}
    wanted = f"--jobs={','.join(map(str, sorted(ids)))}"
    try:
        answer = call(["squeue", "--noheader", "--states=all", wanted, f"--format={FIELDS}"])
    except SlurmError as refusal:
        if FORGOTTEN in str(refusal):  # only for a query of one job; of several, squeue skips unknown ones
            return {}
        raise
    lines = [line for line in answer.split("\n") if (found := JOB_LINE.match(line)) and int(found[1]) in ids]
    return {job.id: job for job in map(parse_job, lines)}


def cancel(job: int) -> None:
    """Cancel a job; it is not requeued."""
    call(["scancel", str(job)])


def parse_job(line: str) -> Job:
    """One line of ``squeue``; one that is cut is a ``SlurmError``."""
    fields = line.lstrip().rstrip("\r").split("|", maxsplit=FIELDS.count("|"))
    if len(fields) <= FIELDS.count("|"):
        raise SlurmError(f"squeue: printed {line.strip()!r} in place of {FIELDS}")
    number, state, start, reason, name = fields
    return Job(id=int(number), state=parse_job_state(state), reason=reason, start=start, name=name)


def call(argv: list[str], *, stdin: str = "") -> str:
    """Standard output of one command; a failure or a missing command is a ``SlurmError``."""
    return _run(argv, stdin=stdin).stdout


def _run(argv: list[str], *, stdin: str) -> subprocess.CompletedProcess[str]:
    try:
        done = subprocess.run(
            argv,
            env=environment(os.environ),
            input=stdin,
            capture_output=True,
            encoding="utf-8",  # as job scripts are written, whatever the locale
            errors="replace",
            check=False,
            timeout=PATIENCE_SECONDS,
        )
    except FileNotFoundError:
        raise SlurmError(
            f"{argv[0]} is not on PATH; run this on a login node, or train here with `gemfit run`"
        ) from None
    except OSError as error:
        raise SlurmError(f"{argv[0]}: cannot be started: {error.strerror}") from None
    except subprocess.TimeoutExpired as error:
        raise NoAnswerError(_no_answer(argv[0], error)) from None
    done.stdout, done.stderr = (TERMINAL.sub("", text) for text in (done.stdout, done.stderr))
    if done.returncode:
        raise _failure(argv[0], done)
    return done


def _failure(command: str, done: subprocess.CompletedProcess[str]) -> SlurmError:
    message = (done.stderr or done.stdout).strip() or f"exit status {done.returncode}"
    number = -done.returncode if done.returncode < 0 else done.returncode - 128  # of a shell in between
    if 0 < number < signal.NSIG:
        return NoAnswerError(f"{command}: was killed by signal {number}: {message}", stdout=done.stdout)
    kind = NoAnswerError if LOST.search(message) else SlurmError
    return kind(f"{command}: {message}", stdout=done.stdout)


def _no_answer(command: str, error: subprocess.TimeoutExpired) -> str:
    written = error.stderr or b""
    words = (written.decode(errors="replace") if isinstance(written, bytes) else written).strip()
    return f"{command}: Slurm does not answer within {PATIENCE_SECONDS} seconds" + (
        f" ({words})" if words else ""
    )


def environment(base: Mapping[str, str]) -> dict[str, str]:
    """``base`` without variables that Slurm's commands read as options."""
    hidden = set(hidden_options(base))
    return {name: value for name, value in base.items() if name not in hidden}


def hidden_options(base: Mapping[str, str]) -> list[str]:
    """Names of the variables that Slurm's commands would read as options."""
    return sorted(name for name in base if name.startswith(PREFIXES) and name not in PASSED_ON)
