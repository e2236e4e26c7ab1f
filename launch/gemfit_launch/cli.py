"""The ``gemfit`` command: a table of verbs, each imported on first use.

``gemfit --help`` imports click and nothing else, so it answers in a few dozen milliseconds.
"""

from __future__ import annotations

import builtins
import importlib
from typing import Any

import click

from gemfit import __version__
from gemfit.errors import ExitCode, UserError, did_you_mean

VERBS = {
    "ls": ("recipes", "List the recipes that come with gemfit"),
    "show": ("recipes", "Print a recipe with every value resolved"),
    "copy": ("recipes", "Copy a recipe to a file of your own, to edit"),
    "check": ("recipes", "Look for mistakes in recipes, and tell all of them at once"),
    "plan": ("plan", "Show what a run would do, and touch nothing"),
    "fit": ("fit", "List the ways of training a recipe that fit a kind of GPU, fastest first"),
    "pack": ("pack", "Turn conversations into packed rows, once"),
    "data": ("data", "Look into a pack: its rows, its figures, and the proof that it is sound"),
    "doctor": ("doctor", "Look at what this machine can do, and whether a recipe would train what it says"),
    "run": ("run", "Train here, exactly as planned"),
    "bench": ("bench", "Measure a recipe here: time of a step, tokens a second, stalls, memory"),
    "preflight": ("preflight", "Look for what would go wrong with a job, before it is submitted"),
    "submit": ("slurm", "Train as a Slurm job that comes back when it is preempted"),
    "resume": ("slurm", "Go on with a run as a new Slurm job, as before or elsewhere"),
    "cancel": ("slurm", "End the Slurm job of a run at once, and do not let it come back"),
    "stop": ("runs", "Ask a run to save and stop at its next step"),
    "site": ("site", "List, show and write the descriptions of clusters"),
    "status": ("runs", "Show how runs are doing"),
    "logs": ("logs", "Print what a run printed, over all its attempts"),
    "checkpoints": ("checkpoints", "List the checkpoints of a run, and what is wrong with any of them"),
    "eval": ("evaluate", "Measure a run's models on its held-out conversations, and let them speak"),
    "export": ("model", "Turn a checkpoint into a Hugging Face model folder"),
    "report": ("report", "Write a run as one HTML page that needs no network, and as pictures"),
    "generate": ("model", "Let a trained model answer one message"),
    "audit": ("audit", "Ask models of a run what matters, and say what to look at"),
    "chat": ("talk", "Talk to a checkpoint of a run, or to a model folder"),
    "serve": ("talk", "Show the command that serves an exported model, with a server that is installed"),
    "card": ("card", "Write the model card of a checkpoint, from what the run has recorded"),
    "push": ("hub", "Push a checkpoint, with its card, to the Hugging Face Hub"),
    "schema": ("about", "Print the JSON schema of a recipe, a site or a plan"),
    "version": ("about", "Show the versions of gemfit and of what it builds on"),
    "completion": ("about", "Print the completion script of a shell"),
}
"""For each verb the module in ``gemfit_launch.verbs`` that holds it, and its line in the help."""


class Verbs(click.Group):
    """A group that knows its commands by name and help line, and loads one when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        if cmd_name not in VERBS:
            ctx.fail(f"{cmd_name!r} is not a verb{did_you_mean(cmd_name, VERBS)}")
        module = importlib.import_module(f"gemfit_launch.verbs.{VERBS[cmd_name][0]}")
        # A verb that is also a name of Python has an underscore there.
        command: click.Command = getattr(module, cmd_name + "_" * hasattr(builtins, cmd_name))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(name, line) for name, (_, line) in VERBS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            for line in str(error).splitlines():
                click.echo(f"error: {line}", err=True)
            ctx.exit(ExitCode.USER_ERROR)


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="gemfit %(version)s")
def main() -> None:
    """Fine-tune Gemma 3 on conversations: one recipe, any number of ranks.

    \b
    Example:
      gemfit plan gemma3/1b-reference --gpus 8
      gemfit run debug/cpu-tiny --data talks.jsonl --nproc 2
    """


if __name__ == "__main__":
    main()
