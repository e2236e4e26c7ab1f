"""Whitespace proof: which runs of spaces may be split from the word after them without changing its tokens.

Code is indented, and each depth would put another copy of a name into the word cache. Adjacent characters
alone do not allow this split, since entries begin with a space. For a run of *n* spaces that begins at a
split point and ends before another ASCII character, in a tokenizer that passes ``check_provable``:

1. No added token contains a space, so none spans the split.
2. A merge that spans the split joins a symbol of spaces only to one that does not begin with a space. Let
   *r* be the lowest rank of these merges. All merges inside the run have lower ranks than *r*, and the lowest
   rank is merged first. So nothing spans the split before the run is merged as it would be alone.
3. Then no merge, of whatever rank, joins its last symbol to one that does not begin with a space.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from gemfit.data.tokenize.bpe.pretokenize_proof import SPACE
from gemfit.data.tokenize.tokenizer_json import TokenizerJson

MAX_RUN = 64
"""Longer runs are not split."""


def find_splittable_runs(tokenizer: TokenizerJson) -> NDArray[np.bool_]:
    """(MAX_RUN + 1,): by its number of spaces, whether a run may be split from what follows."""
    splittable = np.zeros(MAX_RUN + 1, np.bool_)
    if any(" " in token["content"] for token in tokenizer.added_tokens):
        return splittable
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
    for length in range(2, MAX_RUN + 1):
        last, highest = _merge_run(length, inside)
        splittable[length] = highest < lowest and last not in spanning
    return splittable


def _merge_run(length: int, ranks: dict[tuple[int, int], int]) -> tuple[int, int]:
    """Merge a run on its own: the number of spaces of its last symbol, and the highest rank used."""
    symbols, highest = [1] * length, -1
    while True:
        found = [(ranks[pair], index) for index, pair in enumerate(pairwise(symbols)) if pair in ranks]
        if not found:
            return symbols[-1], highest
        rank, index = min(found)
        highest = max(highest, rank)
        symbols[index : index + 2] = [symbols[index] + symbols[index + 1]]
