"""A row of a table as one line of JSON, without the nulls that Arrow adds to structs.

Arrow gives all structs of a column the same keys, so a key of one message is null in all others. Such nulls
are left out, as the schema of the column shows them. In the arguments and parameters of tools a null may have
been written: what is stored as JSON (text, or the type ``Json`` of ``datasets``) is kept as it is, and in
structs, where the two cannot be told apart, the row is refused, as any bad line.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import orjson

from gemfit.data.jsonl.line_parser import refused_row

_SCHEMAS = ("input_schema", "inputSchema", "output_schema", "outputSchema")
_WRITTEN = ("arguments", "args", "parameters", "parametersJsonSchema", "response", *_SCHEMAS)
"""Keys of tool calls, definitions and results whose values are the user's own JSON."""
_JSON_TYPES = (str, int, float, list, dict, type(None))
_CANNOT_TELL = (
    "is null in a struct of Arrow, which fills the keys of other rows with null: whether it was "
    "written cannot be told; store tool arguments and parameters as JSON text (json.dumps) or as "
    "datasets.Json(), without the nulls that were not written; give JSON files without `hf:`"
)


def row_line(row: Mapping[str, Any], features: Mapping[str, Any] | None) -> bytes:
    """The row as a line that ends in a line break; ``features`` are those of ``datasets``."""
    try:
        # Messages and tools are lists; a struct, such as metadata, holds nothing that is trained.
        kept = {
            name: _without_padding(value, (features or {}).get(name), name, written=False)
            if isinstance(value, list)
            else value
            for name, value in row.items()
        }
    except (_AmbiguousNull, _NoJson) as error:
        return refused_row(str(error))
    try:
        return orjson.dumps(kept, default=_as_json, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # an integer of more than 64 bits
        return json.dumps(kept, default=_as_json, ensure_ascii=False).encode() + b"\n"


def _as_json(value: Any) -> Any:
    """Bytes as the text that they hold; an object, which is no content, if they hold none."""
    if not isinstance(value, bytes):
        return str(value)
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"bytes": len(value)}


def _without_padding(value: Any, feature: Any, place: str, *, written: bool) -> Any:
    if isinstance(value, list):
        inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
        return [
            _without_padding(item, inner, f"{place}[{index}]", written=written)
            for index, item in enumerate(value)
        ]
    if written and not _is_json(value):
        raise _NoJson(place, value)
    if not (isinstance(value, dict) and isinstance(feature, dict)):
        return value
    kept = {}
    for key, item in value.items():
        below = written or key in _WRITTEN
        if item is not None:
            kept[key] = _without_padding(item, feature.get(key), f"{place}.{key}", written=below)
        elif written:
            raise _AmbiguousNull(f"{place}.{key}")
    return kept


class _AmbiguousNull(Exception):
    """A null that may be padding or may have been written; its argument is the place in the row."""

    def __str__(self) -> str:
        return f"{self.args[0]} {_CANNOT_TELL}"


class _NoJson(Exception):
    """A value without JSON form under arguments of a tool; its arguments are the place in the row and it."""

    def __str__(self) -> str:
        place, value = self.args
        shown = value if isinstance(value, float) else f"of the type {type(value).__name__}"
        return f"{place} is {shown}, which JSON does not have; write null or text, or remove it"


def _is_json(value: Any) -> bool:
    return isinstance(value, _JSON_TYPES) and (not isinstance(value, float) or math.isfinite(value))
