"""Shared by ``run`` and a local ``resume``: pack the data, train, report the exit code."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from gemfit.errors import ExitCode, UserError
from gemfit.rundir import RunDir
from gemfit.schemas.pack_job import make_pack_job
from gemfit.schemas.plan import Plan
from gemfit_launch.output.progress import watching
from gemfit_launch.runs.ensure_pack import PackFailed, ensure_pack
from gemfit_launch.runs.exit_report import conclude
from gemfit_launch.runs.local import carry_out

stop_at_option = click.option(
    "--stop-at", type=click.IntRange(min=1), metavar="STEP", help="Save and stop after this step."
)


def pack_data(plan: Plan) -> None:
    """Build the pack of the plan unless it exists; data that has changed is a ``UserError``."""
    if plan.pack.folder and Path(plan.pack.folder, "manifest.json").is_file():
        return
    job = make_pack_job(plan.recipe)
    if job.fingerprint != plan.pack.fingerprint:
        raise UserError(
            f"{plan.pack.folder}: the pack was removed, and {plan.recipe.data.label} has changed since; "
            "restore the old data, or start a new run"
        )
    try:
        ensure_pack(job, Path(plan.pack.folder), force=False, say=click.echo)
    except PackFailed as error:
        raise click.exceptions.Exit(error.code) from None


def train(
    run_dir: RunDir, plan: Plan, stop_at: int | None, allowed_changes: tuple[str, ...] = ()
) -> ExitCode:
    """Run one attempt with a progress display, and print how it ended."""
    click.echo(f"run folder: {shlex.quote(str(run_dir.root))}")
    with watching(plan.steps.total) as watch:
        outcome = carry_out(run_dir, plan, watch, stop_at=stop_at, allowed_changes=allowed_changes)
    ending = conclude(run_dir, outcome)
    click.echo(ending.text, err=ending.code not in (ExitCode.DONE, ExitCode.STOPPED))
    return ending.code
