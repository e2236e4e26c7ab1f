"""``gemfit schema``, ``version`` and ``completion``."""

from __future__ import annotations

import json
import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed

import click
from click.shell_completion import get_completion_class

from gemfit import __version__
from gemfit.schemas.base import Contract
from gemfit.schemas.plan import Plan
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.site import Site
from gemfit_launch.output.json_schema import json_schema
from gemfit_launch.output.tables import console, table
from gemfit_launch.verbs._options import json_option

SCHEMAS: dict[str, type[Contract]] = {"recipe": Recipe, "site": Site, "plan": Plan}
BUILT_ON = ("torch", "transformers", "accelerate", "deepspeed", "datasets", "tokenizers", "peft")


@click.command()
@click.argument("what", type=click.Choice(list(SCHEMAS)))
def schema(what: str) -> None:
    """Print the JSON schema of a recipe, a site or a plan.

    An editor that knows it completes keys and marks mistakes: write
    `# yaml-language-server: $schema=recipe.schema.json` into the first line of a recipe.

    \b
    Example:
      gemfit schema recipe > recipe.schema.json
    """
    click.echo(json_schema(SCHEMAS[what]), nl=False)


@click.command()
@json_option
def version(as_json: bool) -> None:
    """Show the versions of gemfit and of what it builds on.

    \b
    Example:
      gemfit version --json
    """
    versions: dict[str, str | None] = {"gemfit": __version__, "python": platform.python_version()}
    versions |= {name: _installed(name) for name in BUILT_ON}
    if as_json:
        click.echo(json.dumps(versions, indent=2))
    else:
        rows = [(name, found or "not installed") for name, found in versions.items()]
        console().print(table(["package", "version"], rows))


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    \b
    Example:
      gemfit completion bash > ~/.local/share/bash-completion/completions/gemfit
    """
    completer = get_completion_class(shell)
    assert completer is not None, "click completes every shell of the choice"
    click.echo(completer(ctx.find_root().command, {}, "gemfit", "_GEMFIT_COMPLETE").source())


def _installed(package: str) -> str | None:
    try:
        return installed(package)
    except PackageNotFoundError:
        return None
