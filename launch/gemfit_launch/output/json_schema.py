"""JSON schema of recipe, site and plan, for editors."""

from __future__ import annotations

import json
from typing import Any

from gemfit.schemas.base import Contract
from gemfit.schemas.recipe import Recipe
from gemfit.schemas.site import Site
from gemfit.schemas.strategy import STRATEGY_NAMES


def json_schema(contract: type[Contract]) -> str:
    """The schema as indented JSON text; for a recipe and a site, of the YAML files that users write."""
    schema: dict[str, Any] = contract.model_json_schema()
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
    if contract in (Recipe, Site):
        _extending(schema, contract.__name__)
    if contract is Recipe:
        _with_short_names(schema)
    return json.dumps(schema, indent=2) + "\n"


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
