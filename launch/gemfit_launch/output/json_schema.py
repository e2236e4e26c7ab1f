"""The JSON schema of a contract, for editors."""

from __future__ import annotations

import json
from typing import Any

from gemfit.schemas.base import Contract
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.site import Site
from gemfit.schemas.strategy import STRATEGY_NAMES


def json_schema(contract: type[Contract]) -> str:
    """The schema as indented JSON text; for a recipe and a site, of what a person may write."""
    schema: dict[str, Any] = contract.model_json_schema()
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
    if contract in (Recipe, Site):
        _extending(schema, contract.__name__)
    if contract is Recipe:
        _with_short_names(schema)
    return json.dumps(schema, indent=2) + "\n"


def _extending(schema: dict[str, Any], what: str) -> None:
    """A file may extend another, which then gives what it leaves out."""
    schema["properties"]["extends"] = {
        "type": "string",
        "description": f"{what} that this one changes: a name or a file.",
    }
    schema.pop("required", None)


def _with_short_names(schema: dict[str, Any]) -> None:
    """A strategy may be a name instead of a mapping."""
    properties = schema["properties"]
    short = {"enum": list(STRATEGY_NAMES), "description": "Short name, with the defaults of its kind."}
    strategy = properties["strategy"]
    kinds = strategy.pop("oneOf")
    strategy.pop("discriminator", None)
    strategy["anyOf"] = [short, *kinds]
    for kind in kinds:
        # Pydantic takes the default; a file must say which of the four it means.
        schema["$defs"][kind["$ref"].rpartition("/")[2]]["required"] = ["kind"]
