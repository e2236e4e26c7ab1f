"""Messages of ``submit`` and of ``resume`` about a submitted job."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import click

from gemfit_launch.slurm import commands
from gemfit_launch.slurm.records.job_files import Submission


def warn_hidden_options() -> None:
    """Warn about environment variables that Slurm would read as options; jobs do not get them."""
    if names := commands.hidden_options(os.environ):
        click.echo(f"not passed on, because Slurm would obey it: {', '.join(names)}", err=True)


def report_submission(root: Path, submission: Submission) -> None:
    """Print job ids, the run folder and the command that shows its status."""
    if submission.pack_job is not None:
        click.echo(f"packing: job {submission.pack_job}, for which the training waits")
    click.echo(f"job: {submission.job}")
    click.echo(f"run folder: {shlex.quote(str(root))}")
    click.echo(f"status: gemfit status {shlex.quote(str(root))}")
