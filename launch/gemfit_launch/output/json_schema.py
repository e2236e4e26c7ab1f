"""JSON schema of recipe, site and plan, for editors."""

from __future__ import annotations

import ast
import inspect
import json
from itertools import pairwise
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from gemfit.schemas.base import Contract
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.site import Site
from gemfit.schemas.strategy import STRATEGY_NAMES


def json_schema(contract: type[Contract]) -> str:
    """The schema as indented JSON text; for a recipe and a site, of the YAML files that users write."""
    schema: dict[str, Any] = contract.model_json_schema(schema_generator=Described)
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
    if contract in (Recipe, Site):
        _extending(schema, contract.__name__)
    if contract is Recipe:
        _with_short_names(schema)
    return json.dumps(schema, indent=2) + "\n"


class Described(GenerateJsonSchema):
    """Describes fields with the docstrings that follow them.

    pydantic's ``use_attribute_docstrings`` reads them when a class is made: a third of the time in which
    the launcher and the job hooks start.
    """

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        made = super().model_schema(schema)
        properties = made.get("properties", {})
        for base in reversed(schema["cls"].__mro__):
            for name, text in field_docstrings(base).items():
                if name in properties:
                    properties[name]["description"] = text
        return made


def field_docstrings(contract: type) -> dict[str, str]:
    """Docstring of each field that ``contract`` itself declares."""
    if not issubclass(contract, Contract):
        return {}
    (declared,) = ast.parse(inspect.getsource(contract)).body
    assert isinstance(declared, ast.ClassDef)
    return {
        field.target.id: inspect.cleandoc(text.value.value)
        for field, text in pairwise(declared.body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


def _extending(schema: dict[str, Any], what: str) -> None:
    """Add `extends`: nothing is required, because the extended file may supply it."""
    schema["properties"]["extends"] = {
        "type": "string",
        "description": f"{what} that this one changes: a name or a file.",
    }
    schema.pop("required", None)


def _with_short_names(schema: dict[str, Any]) -> None:
    """Allow a strategy as a short name instead of a mapping."""
    properties = schema["properties"]
    short = {"enum": list(STRATEGY_NAMES), "description": "Short name, with the defaults of its kind."}
    strategy = properties["strategy"]
    kinds = strategy.pop("oneOf")
    strategy.pop("discriminator", None)
    strategy["anyOf"] = [short, *kinds]
    for kind in kinds:
        # Pydantic has a default; a file must name the kind.
        schema["$defs"][kind["$ref"].rpartition("/")[2]]["required"] = ["kind"]
