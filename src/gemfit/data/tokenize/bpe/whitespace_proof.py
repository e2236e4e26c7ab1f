"""Which runs of spaces may be parted from the word behind them, and the proof that this holds.

Code is indented, and each depth would make another word of the same name. Pairs alone do not allow the cut,
since items begin with a space. The claim, for a run of *n* spaces behind a cut and before another ASCII
character, in a tokenizer as ``cuts`` has it:

1. No added token has a space in it, so none spans the cut.
2. A merge that spans the cut joins an item of nothing but spaces to one that begins with no space. Let *r*
   be the lowest rank of these. All merges that the run alone would make have lower ranks than *r*, and the
   lowest rank comes first. So nothing spans the cut before the run is what it would be alone.
3. Then its last item is joined to none that begins with no space, whatever the rank.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from gemfit.data.tokenize.bpe.pretokenize_proof import SPACE
from gemfit.data.tokenize.tokenizer_json import TokenizerJson

LONGEST = 64
"""Longer runs are left alone."""


def find_runs(tokenizer: TokenizerJson) -> NDArray[np.bool_]:
    """(LONGEST + 1,): whether a run of so many spaces may be parted from what follows."""
    parted = np.zeros(LONGEST + 1, np.bool_)
    if any(" " in token["content"] for token in tokenizer.added_tokens):
        return parted
    space = " " if tokenizer.fields.get("normalizer") is None else SPACE
    inside: dict[tuple[int, int], int] = {}
    spanning: dict[int, int] = {}
    for rank, (left, right) in enumerate(tokenizer.model["merges"]):
        if left.strip(space):
            continue
        if not right.strip(space):
            inside[len(left), len(right)] = rank
        elif not right.startswith(space):
            spanning.setdefault(len(left), rank)
    lowest = min(spanning.values(), default=len(tokenizer.model["merges"]))
    for length in range(2, LONGEST + 1):
        last, highest = _alone(length, inside)
        parted[length] = highest < lowest and last not in spanning
    return parted


def _alone(length: int, ranks: dict[tuple[int, int], int]) -> tuple[int, int]:
    """How many spaces the last item has that a run becomes, and the highest rank on the way."""
    items, highest = [1] * length, -1
    while True:
        found = [(ranks[pair], at) for at, pair in enumerate(pairwise(items)) if pair in ranks]
        if not found:
            return items[-1], highest
        rank, at = min(found)
        highest = max(highest, rank)
        items[at : at + 2] = [items[at] + items[at + 1]]
