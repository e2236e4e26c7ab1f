"""Printable token texts: visible white space, escaped control characters."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from gemfit.control_characters import escape_control_characters

_EXTRA_SPACES = re.compile(r" +(?=\n|$)|(?<=\n) +|  +")


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
        printable.append(escape_control_characters(dotted).replace("\n", "⏎\n").replace("\t", "→"))
        begin += len(text)
    return printable
