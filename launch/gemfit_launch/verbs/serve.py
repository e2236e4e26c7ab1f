"""``gemfit serve``."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import click

from gemfit.errors import UserError
from gemfit.rundir import RunDir
from gemfit_launch.runs.serve import PORT, installed_server, serving
from gemfit_launch.verbs._options import RUN_FOLDER, json_option


@click.command()
@click.argument("model", type=RUN_FOLDER)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), default=PORT, show_default=True)
@click.option("--exec", "execute", is_flag=True, help="Start the server instead of printing its command.")
@json_option
def serve(model: Path, host: str, port: int, execute: bool, as_json: bool) -> None:
    """Serve an exported model.

    Prints the command of an installed server: vLLM, else that of transformers. MODEL is a Hugging Face
    folder, or a run that was exported. The chat template is part of the exported tokenizer.

    \b
    Example:
      gemfit serve runs/first
      gemfit serve runs/first --port 9000 --exec
    """
    folder = model_folder(model)
    server = serving(folder, installed_server(), host=host, port=port)
    if _is_outdated(folder, RunDir(model)):
        click.echo(f"note: {model} has a checkpoint that is newer than its export", err=True)
    if execute:
        os.execv(server.argv[0], server.argv)
    click.echo(server.to_json() if as_json else shlex.join(server.argv), nl=not as_json)


def model_folder(path: Path) -> Path:
    """The folder with the weights: ``path`` itself, or the export of a run."""
    if (path / "config.json").is_file():
        return path
    if not RunDir(path).plan_file.is_file():
        raise UserError(f"{path}: is neither a model folder (no config.json) nor a run (no plan.json)")
    export = RunDir(path).export
    if not (export / "config.json").is_file():
        raise UserError(f"{path}: has no exported model yet; make it with `gemfit export {path}`")
    return export


def _is_outdated(folder: Path, run: RunDir) -> bool:
    """Whether the run has saved since ``folder`` was exported; false for a folder outside of a run."""
    exported = (folder / "config.json").stat().st_mtime
    return any(checkpoint.stat().st_mtime > exported for checkpoint in run.committed())
