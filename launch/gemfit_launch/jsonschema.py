"""The JSON schema of a contract, for editors."""

from __future__ import annotations

import json
from typing import Any

from gemfit.contract import Contract
from gemfit.recipe import Recipe
from gemfit.strategy import STRATEGY_NAMES


def json_schema(contract: type[Contract]) -> str:
    """The schema as indented JSON text; for a recipe, of what a person may write."""
    schema: dict[str, Any] = contract.model_json_schema()
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
    if contract is Recipe:
        _as_written(schema)
    return json.dumps(schema, indent=2) + "\n"


def _as_written(schema: dict[str, Any]) -> None:
    """A file may extend another, which then gives what it leaves out; a strategy has short names."""
    properties = schema["properties"]
    properties["extends"] = {
        "type": "string",
        "description": "Recipe that this one changes: a name or a file.",
    }
    schema.pop("required", None)
    short = {"enum": list(STRATEGY_NAMES), "description": "Short name, with the defaults of its kind."}
    strategy = properties["strategy"]
    kinds = strategy.pop("oneOf")
    strategy.pop("discriminator", None)
    strategy["anyOf"] = [short, *kinds]
    for kind in kinds:
        # Pydantic takes the default; a file must say which of the four it means.
        schema["$defs"][kind["$ref"].rpartition("/")[2]]["required"] = ["kind"]
