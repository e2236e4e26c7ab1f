"""Pre-tokenizers that split at one character: which these are, and whether they change anything.

Where such a step splits depends on two neighbouring characters alone. If it splits no item of the vocabulary,
then no merge could have joined what it keeps apart, since the joined text would be an item; so tokens are the
same without it. Tokenizers that we train are of this kind: their items never went beyond a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from gemfit.data.tokenize.protocol import Unsuited

_BETWEEN = "\ufdd0"  # Between two items: Unicode has promised that it is no character.
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


def splits_an_item(steps: list[tuple[str, bool, str]], vocabulary: Mapping[str, int]) -> bool:
    """Whether any of these steps would split an item of the vocabulary, or may."""
    joined = _BETWEEN.join(vocabulary)
    return joined.count(_BETWEEN) >= len(vocabulary) or any(
        re.search(_boundary(*step), joined) for step in steps
    )


def _boundary(character: str, run: bool, behavior: str) -> str:
    """What matches where the step splits, within an item."""
    at = re.escape(character)
    other = f"[^{_BETWEEN}{at if run or behavior == 'Contiguous' else ''}]"
    sides = {"MergedWithNext": f"{other}{at}", "MergedWithPrevious": f"{at}{other}"}
    return sides.get(behavior, f"{other}{at}|{at}{other}")
