"""Printable token texts: visible white space, escaped control characters."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

_EXTRA_SPACES = re.compile(r" +(?=\n|$)|(?<=\n) +|  +")
_CONTROL_CHARACTERS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2064\u2066-\u2069\ufeff\ufff9-\ufffb]"
)


def token_texts(tokenizer: Any, ids: Iterable[int]) -> list[str]:
    """The vocabulary entry of each token, with a space instead of `▁`."""
    names = tokenizer.convert_ids_to_tokens(list(ids))
    return [str(name).replace("▁", " ") for name in names]


def decode(tokenizer: Any, ids: Iterable[int]) -> str:
    """The text of consecutive tokens; special tokens by name."""
    text: str = tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text


def to_printable(texts: list[str]) -> list[str]:
    """Consecutive texts with invisible characters made visible.

    `⏎` before each line break, `→` for a tab, `·` for leading, trailing and multiple spaces; control and
    direction characters by code point, so that no data can control the terminal.
    """
    joined = "".join(texts)
    extra = {at for found in _EXTRA_SPACES.finditer(joined) for at in range(*found.span())}
    begin, printable = 0, []
    for text in texts:
        dotted = "".join("·" if begin + at in extra else char for at, char in enumerate(text))
        printable.append(_CONTROL_CHARACTERS.sub(_code_point, dotted).replace("\n", "⏎\n").replace("\t", "→"))
        begin += len(text)
    return printable


def escape_control_characters(text: str) -> str:
    """``text`` with control and direction characters by code point; line breaks and tabs stay."""
    return _CONTROL_CHARACTERS.sub(_code_point, text)


def _code_point(found: re.Match[str]) -> str:
    return f"⟨U+{ord(found[0]):04X}⟩"
