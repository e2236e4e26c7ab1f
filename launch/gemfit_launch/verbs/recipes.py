"""``gemfit recipes``: list, show, copy and check."""

from __future__ import annotations

import json
from pathlib import Path

import click

from gemfit.config.overrides import build
from gemfit.core.atomic_file import write_atomic
from gemfit.core.gpu_count import count_gpus
from gemfit.errors import UserError
from gemfit.schemas.find_inputs import find_files
from gemfit.schemas.recipe import Recipe
from gemfit_launch.output.tables import console, table
from gemfit_launch.planning.plan import find_problems
from gemfit_launch.planning.recipes import SUFFIX, copied_text, find_recipe, load_recipe_document, shipped
from gemfit_launch.planning.request import Request
from gemfit_launch.planning.topology import Ranks, choose_topology
from gemfit_launch.planning.write_configs import recipe_yaml
from gemfit_launch.verbs._completion import RecipeName
from gemfit_launch.verbs._options import (
    json_option,
    ranks_options,
    recipe_argument,
    request_options,
    settings_option,
)


@click.group()
def recipes() -> None:
    """List, show, copy and check recipes.

    \b
    Example:
      gemfit recipes list
      gemfit recipes show gemma3/1b-reference
      gemfit recipes copy gemma3/1b-reference mine.yaml
      gemfit recipes check mine.yaml
    """


@recipes.command(name="list")
@json_option
def list_(as_json: bool) -> None:
    """List the shipped recipes.

    \b
    Example:
      gemfit recipes list --json
    """
    found = {name: build(Recipe, load_recipe_document(name)) for name in shipped()}
    if as_json:
        rows = [{"name": name, **recipe.model_dump(mode="json")} for name, recipe in found.items()]
        click.echo(json.dumps(rows, indent=2))
        return
    lines = [(name, recipe.strategy.label, recipe.description) for name, recipe in found.items()]
    console().print(table(["recipe", "strategy", "description"], lines))


@recipes.command()
@request_options()
@click.option("--origin", is_flag=True, help="Show the file and line of each value.")
@json_option
def show(request: Request, origin: bool, as_json: bool) -> None:
    """Print a recipe with every value resolved.

    \b
    Example:
      gemfit recipes show gemma3/1b-reference --strategy zero3 --origin
    """
    document = request.document()
    recipe = build(Recipe, document)
    click.echo(
        recipe.to_json() if as_json else recipe_yaml(recipe, document if origin else None),
        nl=False,
    )


@recipes.command()
@recipe_argument
@click.argument("destination", type=click.Path(path_type=Path))
def copy(recipe: str, destination: Path) -> None:
    """Copy a recipe to a file to edit.

    \b
    Example:
      gemfit recipes copy gemma3/1b-reference mine.yaml
    """
    source = find_recipe(recipe)
    if destination.is_dir():
        destination = destination / f"{source.stem}{SUFFIX}"
    if destination.exists():
        raise UserError(f"{destination}: exists already; choose another name")
    destination.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(destination, copied_text(source, destination))
    click.echo(f"{destination}\nrun it with: gemfit run {destination} --data FILE.jsonl")


@recipes.command()
@click.argument("names", type=RecipeName(), nargs=-1, required=True, metavar="RECIPE...")
@settings_option
@ranks_options(with_nodes=True)
def check(names: tuple[str, ...], settings: tuple[str, ...], ranks: Ranks) -> None:
    """Validate recipes and report every error.

    \b
    Example:
      gemfit recipes check mine.yaml
      gemfit recipes check gemma3/1b-reference gemma3/270m --gpus 24
    """
    problems = [line for name in names for line in _problems(Request(name=name, settings=settings), ranks)]
    if problems:
        raise UserError("\n".join(problems))
    click.echo("\n".join(f"{name}: valid" for name in names))


def _problems(request: Request, ranks: Ranks) -> list[str]:
    """Errors in one recipe on these ranks; data files that it names have to exist."""
    try:
        recipe = request.recipe()
        topology = choose_topology(ranks, recipe.strategy, visible_gpus=count_gpus())
    except UserError as error:
        return str(error).splitlines()
    problems = [f"{request.name}: {problem}" for problem in find_problems(recipe, topology)]
    for origin in recipe.data.all_sources:
        if origin.source.startswith("hf:"):
            continue
        try:
            find_files(origin.source)
        except UserError as error:
            problems.append(f"{request.name}: data: {error}")
    return problems
