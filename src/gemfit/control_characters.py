"""Control and direction characters as visible code points, so that no file can control the terminal."""

from __future__ import annotations

import re

CONTROL_CHARACTERS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2064\u2066-\u2069\ufeff\ufff9-\ufffb]"
)
"""All but line breaks and tabs."""


def escape_control_characters(text: str) -> str:
    """``text`` with control and direction characters by code point; line breaks and tabs stay."""
    return CONTROL_CHARACTERS.sub(_code_point, text)


def _code_point(found: re.Match[str]) -> str:
    return f"⟨U+{ord(found[0]):04X}⟩"
