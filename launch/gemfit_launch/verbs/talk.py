"""``gemfit chat`` and ``serve``."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import click

from gemfit.rundir import RunDir
from gemfit_launch.runs.python_module import require_train_extra, run_module
from gemfit_launch.runs.serve import PORT, installed_server, serving
from gemfit_launch.verbs._options import RUN_FOLDER, json_option
from gemfit_launch.verbs.model import model_folder


@click.command()
@click.argument("model", type=RUN_FOLDER)
@click.option(
    "--checkpoint", metavar="STEP", help="Of a run: a step, latest, best or base.  [default: latest]"
)
@click.option("--system", metavar="TEXT", help="What the system says first.  [default: as in training]")
@click.option("--temperature", type=click.FloatRange(min=0), help="0 always takes the likeliest token.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), help="Longest reply.")
@click.option("--seed", type=click.IntRange(min=0), help="Of sampling.")
def chat(
    model: Path,
    checkpoint: str | None,
    system: str | None,
    temperature: float | None,
    max_new_tokens: int | None,
    seed: int | None,
) -> None:
    """Talk to a checkpoint of a run, or to a model folder.

    A checkpoint needs no export. The system message is the most frequent one of the training data;
    --system '' leaves it out. Replies go to standard output, everything else to standard error.

    \b
    Example:
      gemfit chat runs/first
      gemfit chat runs/first --checkpoint base --temperature 0
      echo "I cannot sleep." | gemfit chat runs/first
    """
    require_train_extra("chat")
    arguments = [str(model)]
    for option, value in (
        ("--checkpoint", checkpoint),
        ("--system", system),
        ("--temperature", temperature),
        ("--max-new-tokens", max_new_tokens),
        ("--seed", seed),
    ):
        arguments += [f"{option}={value}"] if value is not None else []
    raise click.exceptions.Exit(run_module("gemfit.chat", arguments))


@click.command()
@click.argument("model", type=RUN_FOLDER)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), default=PORT, show_default=True)
@click.option("--exec", "execute", is_flag=True, help="Start the server, in place of showing how.")
@json_option
def serve(model: Path, host: str, port: int, execute: bool, as_json: bool) -> None:
    """Show the command that serves an exported model, with a server that is installed.

    MODEL is a Hugging Face folder, or a run that was exported. Servers: vLLM, else that of transformers.
    The chat template lies in the tokenizer, so the server needs to be told nothing about the format.

    \b
    Example:
      gemfit serve runs/first
      gemfit serve runs/first --port 9000 --exec
    """
    folder = model_folder(model)
    told = serving(folder, installed_server(), host=host, port=port)
    if _is_outdated(folder, RunDir(model)):
        click.echo(f"note: {model} has a checkpoint that is newer than its export", err=True)
    if execute:
        os.execv(told.argv[0], told.argv)
    click.echo(told.to_json() if as_json else shlex.join(told.argv), nl=not as_json)


def _is_outdated(folder: Path, run: RunDir) -> bool:
    """Whether the run has saved since ``folder`` was exported; a folder of no run never is."""
    exported = (folder / "config.json").stat().st_mtime
    return any(checkpoint.stat().st_mtime > exported for checkpoint in run.committed())
