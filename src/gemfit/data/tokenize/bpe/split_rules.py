"""Pre-tokenizers that split at one character, and whether they change any tokens.

Where such a step splits depends on two adjacent characters alone. If it splits no vocabulary entry, then no
merge could join what it separates, since the merged text would be an entry; so the tokens are the same
without it. Tokenizers trained here are of this kind: none of their entries spans words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from gemfit.data.tokenize.protocol import Unsuited

_SEPARATOR = "\ufdd0"  # Between two entries: a Unicode noncharacter.
_KEEPING = ("Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous")
_REGEX = re.compile(r"(?P<character>[^\W_]|[\n\t ▁]|\\[nt])(?P<run>\+?)")
_ESCAPES = {r"\n": "\n", r"\t": "\t"}


def split_steps(pre_tokenizer: Mapping[str, Any] | None) -> list[tuple[str, bool, str]]:
    """Character, whether a run of it counts as one, and behavior of each step; ``Unsuited`` for others."""
    return list(_steps(pre_tokenizer))


def _steps(step: Mapping[str, Any] | None) -> Iterator[tuple[str, bool, str]]:
    if step is None:
        return
    if step["type"] == "Sequence":
        for part in step["pretokenizers"]:
            yield from _steps(part)
    elif step["type"] != "Split" or step["invert"] or step["behavior"] not in _KEEPING:
        raise Unsuited(f"its pre-tokenizer {step['type']} may depend on more than one character")
    else:
        yield *_character(step["pattern"]), step["behavior"]


def _character(pattern: Mapping[str, str]) -> tuple[str, bool]:
    literal = pattern.get("String")
    if literal is not None and len(literal) == 1:
        return literal, False
    match = _REGEX.fullmatch(pattern.get("Regex", ""))
    if match is None:
        raise Unsuited(f"its pre-tokenizer splits at {pattern}")
    return _ESCAPES.get(match["character"], match["character"]), bool(match["run"])


def splits_vocabulary(steps: list[tuple[str, bool, str]], vocabulary: Mapping[str, int]) -> bool:
    """Whether any of these steps splits a vocabulary entry, or may."""
    joined = _SEPARATOR.join(vocabulary)
    return joined.count(_SEPARATOR) >= len(vocabulary) or any(
        re.search(_boundary(*step), joined) for step in steps
    )


def _boundary(character: str, run: bool, behavior: str) -> str:
    """A pattern that matches where the step splits, inside an entry."""
    at = re.escape(character)
    other = f"[^{_SEPARATOR}{at if run or behavior == 'Contiguous' else ''}]"
    sides = {"MergedWithNext": f"{other}{at}", "MergedWithPrevious": f"{at}{other}"}
    return sides.get(behavior, f"{other}{at}|{at}{other}")
