"""JSON files that others may have written or damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gemfit.core.regular_file import read_regular
from gemfit.errors import UserError


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``; a ``UserError`` with the path where there is another thing, or damage."""
    try:
        found = json.loads(read_regular(path).decode("utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path}: is not valid JSON: {error}; copy it again") from None
    except RecursionError:
        raise UserError(f"{path}: is nested too deep to be read; copy it again") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: holds {type(found).__name__}, not a JSON object; copy it again")
    return found


def files_of_index(path: Path) -> list[str]:
    """Names of the files that the index of sharded weights ``path`` lists; each is one in its folder."""
    names = read_json_object(path).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise UserError(f"{path}: has no weight_map; copy it again")
    for name in names.values():
        if not isinstance(name, str) or "/" in name or name in ("", ".", ".."):
            raise UserError(f"{path}: weight_map names {name!r}, which is no file of its folder")
    return sorted(set(names.values()))
