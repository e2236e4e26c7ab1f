"""``gemfit ls``, ``show``, ``copy`` and ``check``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from gemfit.config.overrides import build
from gemfit.core.atomic_file import write_atomic
from gemfit.errors import UserError
from gemfit.schemas.pack_job import find_files
from gemfit.schemas.recipe import Recipe
from gemfit_launch.output.tables import console, table
from gemfit_launch.planning.plan import find_problems
from gemfit_launch.planning.recipes import SUFFIX, copied_text, find_recipe, load_recipe_document, shipped
from gemfit_launch.planning.request import Request
from gemfit_launch.planning.topology import Ranks, choose_topology, count_gpus
from gemfit_launch.planning.write_configs import recipe_yaml
from gemfit_launch.verbs._options import (
    RecipeName,
    json_option,
    ranks_options,
    recipe_argument,
    request_options,
)


@click.command()
@json_option
def ls(as_json: bool) -> None:
    """List the recipes that come with gemfit.

    \b
    Example:
      gemfit ls
    """
    recipes = {name: build(Recipe, load_recipe_document(name)) for name in shipped()}
    if as_json:
        rows = [{"name": name, **recipe.model_dump(mode="json")} for name, recipe in recipes.items()]
        click.echo(json.dumps(rows, indent=2))
        return
    lines = [(name, recipe.strategy.label, recipe.description) for name, recipe in recipes.items()]
    console().print(table(["recipe", "strategy", "what it is"], lines))


@click.command()
@request_options()
@click.option("--origin", is_flag=True, help="Say where each value was written.")
@json_option
def show(request: Request, origin: bool, as_json: bool) -> None:
    """Print a recipe with every value resolved.

    \b
    Example:
      gemfit show gemma3/1b-reference --strategy zero3 --origin
    """
    document = request.document()
    recipe = build(Recipe, document)
    click.echo(
        recipe.to_json() if as_json else recipe_yaml(recipe, document if origin else None),
        nl=False,
    )


@click.command()
@recipe_argument
@click.argument("destination", type=click.Path(path_type=Path))
def copy(recipe: str, destination: Path) -> None:
    """Copy a recipe to a file of your own, to edit.

    \b
    Example:
      gemfit copy gemma3/1b-reference mine.yaml
    """
    source = find_recipe(recipe)
    if destination.is_dir():
        destination = destination / f"{source.stem}{SUFFIX}"
    if destination.exists():
        raise UserError(f"{destination}: is there already; choose another name")
    destination.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(destination, copied_text(source, destination))
    click.echo(f"{destination}\nrun it with: gemfit run {destination} --data FILE.jsonl")


@click.command()
@click.argument("recipes", type=RecipeName(), nargs=-1, required=True, metavar="RECIPE...")
@click.option(
    "--set", "settings", metavar="KEY=VALUE", multiple=True, help="Change one value; may be repeated."
)
@ranks_options(with_nodes=True)
def check(recipes: tuple[str, ...], settings: tuple[str, ...], ranks: Ranks) -> None:
    """Look for mistakes in recipes, and tell all of them at once.

    \b
    Example:
      gemfit check mine.yaml
      gemfit check gemma3/1b-reference gemma3/270m --gpus 24
    """
    problems = [line for name in recipes for line in _problems(Request(name=name, settings=settings), ranks)]
    if problems:
        raise UserError("\n".join(problems))
    click.echo("\n".join(f"{name}: no mistake found" for name in recipes))


def _problems(request: Request, ranks: Ranks) -> list[str]:
    """Mistakes in one recipe, on these ranks; its data is looked for where it names any."""
    try:
        recipe = request.recipe()
        topology = choose_topology(ranks, recipe.strategy, visible_gpus=count_gpus())
    except UserError as error:
        return str(error).splitlines()
    problems = [f"{request.name}: {problem}" for problem in find_problems(recipe, topology)]
    for origin in recipe.data.mixture:
        if origin.source.startswith("hf:"):
            continue
        try:
            find_files(origin.source)
        except UserError as error:
            problems.append(f"{request.name}: data: {error}")
    return problems
