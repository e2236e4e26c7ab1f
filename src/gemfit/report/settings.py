"""Under which settings and versions something was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping

from pydantic import JsonValue

from gemfit.report.blocks import Fold, Table
from gemfit.schemas.training_identity import flatten


def circumstances(
    what: str, settings: Mapping[str, JsonValue], versions: Mapping[str, str]
) -> tuple[Fold, ...]:
    """Both as tables that a reader opens; nothing where neither is known."""
    flat = flatten(dict(settings))
    rows = tuple((key, value if isinstance(value, str) else json.dumps(value)) for key, value in flat.items())
    tables = (
        Table(f"Settings of the {what}", ("setting", "value"), rows),
        Table(f"Versions at the {what}", ("package", "version"), tuple(versions.items())),
    )
    known = tuple(table for table in tables if table.rows)
    return (Fold(f"Settings and versions of the {what}", known),) if known else ()
