"""The ``gemfit`` command: a table of verbs by heading, each imported on first use.

``gemfit --help`` imports click and the standard library, so it answers in a few dozen milliseconds.
"""

from __future__ import annotations

import builtins
import importlib
import io
import os
import sys
from typing import Any

import click

from gemfit import __version__
from gemfit.control_characters import escape_control_characters
from gemfit.core.os_errors import explain_os_error
from gemfit.errors import ExitCode, UserError, did_you_mean

HEADINGS: dict[str, dict[str, tuple[str, str]]] = {
    "Recipes": {
        "recipes": ("recipes", "List, show, copy and check recipes"),
    },
    "Data": {
        "pack": ("pack", "Pack conversations into rows"),
        "data": ("data", "Inspect a pack and trained steps"),
    },
    "Plan": {
        "plan": ("plan", "Show what a run would do"),
        "estimate": ("estimate", "Find configurations that fit a GPU"),
        "bench": ("bench", "Measure training speed and memory"),
        "doctor": ("doctor", "Check this machine and a recipe"),
    },
    "Train": {
        "run": ("run", "Train on this machine"),
        "resume": ("resume", "Resume a run where it ran"),
        "stop": ("stop", "Save a checkpoint and stop"),
        "status": ("status", "Show the progress of runs"),
        "logs": ("logs", "Print the logs of a run"),
        "checkpoints": ("checkpoints", "List and verify checkpoints"),
    },
    "Cluster": {
        "site": ("site", "Describe clusters"),
        "fetch": ("fetch", "Fetch model and data for nodes"),
        "preflight": ("preflight", "Check a Slurm job before submission"),
        "submit": ("submit", "Train as a Slurm job"),
        "cancel": ("stop", "Cancel a Slurm job without saving"),
    },
    "After": {
        "eval": ("evaluate", "Evaluate checkpoints on the validation split"),
        "audit": ("audit", "Run safety prompt suites"),
        "chat": ("chat", "Chat with a checkpoint"),
        "export": ("export", "Export a Hugging Face model folder"),
        "card": ("card", "Write the model card"),
        "push": ("push", "Push to the Hugging Face Hub"),
        "sync": ("sync", "Send metrics to experiment trackers"),
        "report": ("report", "Write an HTML report"),
        "serve": ("serve", "Serve an exported model"),
    },
    "About": {
        "schema": ("about", "Print a JSON schema"),
        "version": ("about", "Show installed versions"),
        "completion": ("about", "Print a shell completion script"),
    },
}
"""By heading of the help, for each verb its module in ``gemfit_launch.verbs`` and its help line."""

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
VERBS = {name: entry for verbs in HEADINGS.values() for name, entry in verbs.items()}


def _print_error(text: str) -> None:
    for line in escape_control_characters(text).splitlines():
        click.echo(f"error: {line}", err=True)


class LazyGroup(click.Group):
    """A group that knows its commands by name and help line, and imports one when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        if cmd_name not in VERBS:
            ctx.fail(f"{cmd_name!r} is not a verb{did_you_mean(cmd_name, VERBS)}")
        module = importlib.import_module(f"gemfit_launch.verbs.{VERBS[cmd_name][0]}")
        # A verb that is also a builtin of Python has an underscore there.
        command: click.Command = getattr(module, cmd_name + "_" * hasattr(builtins, cmd_name))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, VERBS))  # aligns the lines of all headings
        for heading, verbs in HEADINGS.items():
            with formatter.section(heading):
                formatter.write_dl([(name.ljust(width), line) for name, (_, line) in verbs.items()])

    def invoke(self, ctx: click.Context) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # a terminal of another encoding shows signs as escapes
                stream.reconfigure(errors="backslashreplace")
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except UserError as error:
            _print_error(str(error))
            ctx.exit(ExitCode.USER_ERROR)
        except OSError as error:
            explained = explain_os_error(error)
            if explained is None:
                raise
            _print_error(explained)
            if error.filename is None:  # it may have been stdout, which Python flushes once more
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            ctx.exit(ExitCode.USER_ERROR)


@click.group(cls=LazyGroup, context_settings=CONTEXT)
@click.version_option(__version__, message="gemfit %(version)s")
def main() -> None:
    """Fine-tune Gemma 3 on conversations: one recipe, any number of ranks.

    \b
    Example:
      gemfit plan gemma3/1b-reference --gpus 8
      gemfit run debug/cpu-tiny --data chat.jsonl --nproc 2
    """


if __name__ == "__main__":
    main()
