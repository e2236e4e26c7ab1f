"""``gemfit logs``."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from gemfit.errors import UserError
from gemfit.rundir import RunDir
from gemfit_launch.runs.follow_logs import follow as follow_run
from gemfit_launch.runs.follow_logs import headline, last_lines, printable_log
from gemfit_launch.runs.status import ACTIVE_STATES
from gemfit_launch.slurm.cluster.job_status import read_statuses
from gemfit_launch.slurm.records.job_attempts import AttemptFiles
from gemfit_launch.slurm.records.job_files import JobFiles
from gemfit_launch.verbs._options import RUN_FOLDER

SECONDS_BETWEEN_QUESTIONS = 3.0


@click.command()
@click.argument("run", type=RUN_FOLDER)
@click.option(
    "--follow", "-f", is_flag=True, help="Print new lines until the run has ended, over all attempts."
)
@click.option("--attempt", type=click.IntRange(min=1), help="Only this attempt.")
@click.option("--lines", "-n", type=click.IntRange(min=1), help="Only the last lines per attempt.")
@click.option("--node", type=click.IntRange(min=0), default=0, help="Node rank.  [default: 0]")
@click.option("--job", "of_job", is_flag=True, help="Logs of the batch scripts instead.")
def logs(run: Path, follow: bool, attempt: int | None, lines: int | None, node: int, of_job: bool) -> None:
    """Print the logs of a run.

    \b
    Example:
      gemfit logs runs/first --follow
      gemfit logs runs/first --attempt 2 --node 1 --lines 50
    """
    run_dir = RunDir.open(run)
    if follow:
        if attempt is not None or lines is not None or node or of_job:
            raise click.UsageError(
                "--follow prints all attempts; leave out --attempt, --lines, --node and --job"
            )
        for block in follow_run(run_dir, 1, _ActivityPoll(run_dir)):
            _print(block)
        _point_to_job_log(run_dir)
        return
    if of_job:
        for path in _job_logs(run_dir):
            _print_log(f"==> {path} <==\n".encode(), path, lines)
        return
    for number in _attempts(run_dir, attempt):
        path = AttemptFiles(run_dir, number).log(node)
        if node and not path.is_file():
            raise UserError(f"{path}: there is no such log; --node counts the machines of an attempt from 0")
        _print_log(headline(number, path), path, lines)
    _point_to_job_log(run_dir)


def _print_log(headline: bytes, path: Path, lines: int | None) -> None:
    _print(headline)
    for block in last_lines(path, lines):
        _print(block)


def _print(block: bytes) -> None:
    """As it is into a file or pipe; on a terminal with escape sequences made visible."""
    click.echo(printable_log(block) if sys.stdout.isatty() else block, nl=False)


def _point_to_job_log(run: RunDir) -> None:
    """Say where to look if there was no attempt."""
    if run.attempt == 0:
        of_job = f"; the log of its job: gemfit logs {run.root} --job" if JobFiles(run).newest() else ""
        click.echo(f"{run.root}: no attempt has begun{of_job}", err=True)


class _ActivityPoll:
    """Whether a run is active; asks Slurm only every few seconds."""

    def __init__(self, run: RunDir) -> None:
        self._run = run
        self._every = SECONDS_BETWEEN_QUESTIONS if JobFiles(run).newest() is not None else 0.0
        self._next, self._answer = 0.0, True

    def __call__(self) -> bool:
        if time.monotonic() >= self._next:
            self._answer = read_statuses([self._run])[0].state in ACTIVE_STATES
            self._next = time.monotonic() + self._every
        return self._answer


def _attempts(run: RunDir, only: int | None) -> list[int]:
    if only is None:
        return list(range(1, run.attempt + 1))
    if only > run.attempt:
        raise UserError(f"{run.root}: has had {run.attempt} attempts; --attempt {only} is not among them")
    return [only]


def _job_logs(run: RunDir) -> list[Path]:
    files = JobFiles(run)
    if not files.submissions():
        raise UserError(f"{run.root}: was never submitted to Slurm; leave out --job")
    made = [
        path
        for one in files.submissions()
        for path in (
            *([files.log("pack", one.pack_job)] if one.pack_job else []),
            files.log("train", one.job),
        )
    ]
    return [path for path in made if path.is_file()]
