"""Job scripts as they would be submitted, on standard output."""

from __future__ import annotations

import click

from gemfit_launch.slurm.submit.template import Kind


def show_scripts(scripts: dict[Kind, str]) -> None:
    """Every script, byte for byte, after a line that names it."""
    for kind, text in scripts.items():
        click.secho(f"{kind}.sbatch", bold=True)
        click.echo(text)
