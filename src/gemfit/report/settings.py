"""Settings and versions of an evaluation or an audit."""

from __future__ import annotations

import json
from collections.abc import Mapping

from pydantic import JsonValue

from gemfit.report.blocks import Fold
from gemfit.schemas.training_identity import flatten
from gemfit.summary.text_table import TextTable


def settings_fold(
    what: str, settings: Mapping[str, JsonValue], versions: Mapping[str, str]
) -> tuple[Fold, ...]:
    """Both as folded tables; nothing where neither is recorded."""
    flat = flatten(dict(settings))
    rows = tuple((key, value if isinstance(value, str) else json.dumps(value)) for key, value in flat.items())
    tables = (
        TextTable(f"Settings of the {what}", ("setting", "value"), rows),
        TextTable(f"Versions of the {what}", ("package", "version"), tuple(versions.items())),
    )
    recorded = tuple(table for table in tables if table.rows)
    return (Fold(f"Settings and versions of the {what}", recorded),) if recorded else ()
