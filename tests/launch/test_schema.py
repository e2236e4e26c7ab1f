"""The JSON schema that editors read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from gemfit.schemas.recipe import Recipe
from gemfit_launch.output.json_schema import json_schema
from gemfit_launch.planning.recipes import shipped
from gemfit_launch.planning.request import Request

CHECKED_IN = Path(__file__).parents[2] / "docs" / "schema" / "recipe.schema.json"


def test_the_checked_in_schema_is_the_one_that_gemfit_prints(cli: Callable[..., Result]) -> None:
    printed = cli("schema", "recipe").output
    assert CHECKED_IN.read_text() == printed, (
        "make it again: gemfit schema recipe > docs/schema/recipe.schema.json"
    )


@pytest.mark.parametrize("what", ["recipe", "site", "plan"])
def test_every_schema_is_closed_so_that_an_editor_marks_a_misspelt_key(
    what: str, cli: Callable[..., Result]
) -> None:
    schema = json.loads(cli("schema", what).output)
    assert schema["additionalProperties"] is False
    assert schema["$schema"].startswith("https://json-schema.org/")


def test_the_schema_knows_every_key_that_a_shipped_recipe_writes() -> None:
    schema = json.loads(json_schema(Recipe))
    names = list(shipped())
    assert len(names) >= 3, "the catalog lost a recipe"
    for name in names:
        assert set(Request(name=name).document().data) <= set(schema["properties"])


def test_the_schema_allows_what_only_files_have_and_explains_each_setting() -> None:
    schema = json.loads(json_schema(Recipe))
    assert "extends" in schema["properties"]
    assert "required" not in schema, "a recipe that extends another may leave out the model"
    assert "zero3" in schema["properties"]["strategy"]["anyOf"][0]["enum"]
    assert schema["$defs"]["OptimRecipe"]["properties"]["learning_rate"]["description"]
