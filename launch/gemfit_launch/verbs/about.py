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
NO_SPACE = {
    "bash": {
        "            COMPREPLY+=($value)\n": "            COMPREPLY+=($value)\n"
        "            [[ $value == *= ]] && compopt -o nospace\n"
    },
    "zsh": {
        'if [[ "$type" == "plain" ]]; then\n': 'if [[ "$type" == "plain" && "$key" == *= ]]; then\n'
        "            compadd -U -S '' -V unsorted -- \"$key\"\n"
        '        elif [[ "$type" == "plain" ]]; then\n'
    },
}
"""Changes to the scripts of click, so that no space follows `KEY=`; fish adds none after a `=`."""

BUILT_ON = ("torch", "transformers", "accelerate", "deepspeed", "datasets", "tokenizers", "peft")


@click.command()
@click.argument("what", type=click.Choice(list(SCHEMAS)))
def schema(what: str) -> None:
    """Print a JSON schema.

    An editor with the schema completes keys and marks errors: write
    `# yaml-language-server: $schema=recipe.schema.json` into the first line of a recipe.

    \b
    Example:
      gemfit schema recipe > recipe.schema.json
    """
    click.echo(json_schema(SCHEMAS[what]), nl=False)


@click.command()
@json_option
def version(as_json: bool) -> None:
    """Show installed versions.

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
    """Print a shell completion script.

    It completes verbs, options, recipe names and the keys of --set.

    \b
    Example:
      gemfit completion bash > ~/.local/share/bash-completion/completions/gemfit
    """
    completer = get_completion_class(shell)
    assert completer is not None, "click completes every shell of the choice"
    script = completer(ctx.find_root().command, {}, "gemfit", "_GEMFIT_COMPLETE").source()
    for before, after in NO_SPACE.get(shell, {}).items():
        assert before in script, "the template of click has changed"
        script = script.replace(before, after)
    click.echo(script)


def _installed(package: str) -> str | None:
    try:
        return installed(package)
    except PackageNotFoundError:
        return None
