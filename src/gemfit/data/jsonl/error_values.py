"""Excerpts of input values for error messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def excerpt(value: Any) -> str:
    """The JSON type of a value, or its first characters."""
    if value is None:
        return "null or missing"
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list | tuple):
        return "a list"
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "…" + text[0]
