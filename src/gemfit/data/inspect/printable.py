"""Tokens as text that shows what is there: line breaks, odd spaces, and signs that a terminal would obey."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

_ODD_SPACES = re.compile(r" +(?=\n|$)|(?<=\n) +|  +")
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2064\u2066-\u2069\ufeff\ufff9-\ufffb]"
)


def token_texts(tokenizer: Any, ids: Iterable[int]) -> list[str]:
    """The vocabulary's name of each token, a space in place of `▁`."""
    names = tokenizer.convert_ids_to_tokens(list(ids))
    return [str(name).replace("▁", " ") for name in names]


def decode(tokenizer: Any, ids: Iterable[int]) -> str:
    """The text of tokens that stand together; special tokens by their names."""
    text: str = tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text


def make_visible(texts: list[str]) -> list[str]:
    """The same texts, which stand one behind the other, with what cannot be seen made visible.

    `⏎` before each line break, `→` for a tab, `·` for spaces that begin, end or widen a gap in a line;
    control and direction signs by number, so that no data can steer the terminal.
    """
    joined = "".join(texts)
    odd = {at for found in _ODD_SPACES.finditer(joined) for at in range(*found.span())}
    begin, shown = 0, []
    for text in texts:
        dotted = "".join("·" if begin + at in odd else char for at, char in enumerate(text))
        shown.append(_UNSEEN.sub(_by_number, dotted).replace("\n", "⏎\n").replace("\t", "→"))
        begin += len(text)
    return shown


def name_unseen(text: str) -> str:
    """``text`` with control and direction signs by number; line breaks and tabs stay."""
    return _UNSEEN.sub(_by_number, text)


def _by_number(found: re.Match[str]) -> str:
    return f"⟨U+{ord(found[0]):04X}⟩"
