"""``gemfit chat``."""

from __future__ import annotations

from pathlib import Path

import click

from gemfit_launch.argv import to_argv
from gemfit_launch.runs.python_module import require_train_extra, run_module
from gemfit_launch.verbs._options import RUN_FOLDER, checkpoint_option, json_option


@click.command()
@click.argument("model", type=RUN_FOLDER)
@checkpoint_option()
@click.option("--message", metavar="TEXT", help="Answer this one message and exit.")
@click.option("--system", metavar="TEXT", help="System message.  [default: as in training]")
@click.option("--temperature", type=click.FloatRange(min=0), help="0 is greedy decoding.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), help="Longest reply.")
@click.option("--seed", type=click.IntRange(min=0), help="Seed of sampling.")
@json_option
def chat(model: Path, message: str | None, as_json: bool, **options: object) -> None:
    """Chat with a checkpoint.

    MODEL is a run or a Hugging Face model folder; a checkpoint needs no export. The default system
    message is the most frequent one of the training data; --system '' leaves it out. Replies go to
    standard output, everything else to standard error.

    \b
    Example:
      gemfit chat runs/first
      gemfit chat runs/first --checkpoint base --temperature 0
      gemfit chat runs/first --message "I cannot sleep before exams." --json
    """
    if as_json and message is None:
        raise click.UsageError("--json needs --message: a chat is not a JSON document")
    require_train_extra("chat")
    argv = to_argv({**options, "message": message, "json": as_json})
    raise click.exceptions.Exit(run_module("gemfit.chat", [str(model), *argv]))
