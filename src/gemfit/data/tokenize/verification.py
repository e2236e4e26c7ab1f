"""Comparison of an engine's ids with those of the reference.

While an engine works, a small sample of all texts is encoded a second time, by the reference. The content
decides which texts, so they are the same ones in any process, about one in 1,024. With 4 MB/s for the
reference this costs some 2 % of the time of an engine of 100 MB/s.
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from gemfit.data.tokenize.protocol import Encoder, Ends, EngineMismatch, Ids
from gemfit.data.tokenize.sampling import pick_texts

Values = TypeVar("Values", bytes, Ids)

ONE_IN = 1024
SHOWN_BYTES = 60


class VerificationSample(NamedTuple):
    """Some texts, and what the engine of this name made of them."""

    engine: str
    texts: list[bytes]
    ids: list[Ids]


def pick(
    engine: Encoder, text: bytes, ends: Ends, ids: Ids, id_ends: Ends, one_in: int = ONE_IN
) -> VerificationSample:
    """The sample of what an engine has encoded; ``EngineMismatch`` where its ends cannot be right."""
    check_ends(engine.name, ids, id_ends, len(ends))
    picked = pick_texts(text, ends, one_in)
    # Copies: what they are taken from is large, and not needed for long.
    return VerificationSample(
        engine.name, take(text, ends, picked), [one.copy() for one in take(ids, id_ends, picked)]
    )


def compare(picked: VerificationSample, reference: Encoder) -> None:
    """Raise ``EngineMismatch`` for the first text of which the engine found other ids."""
    lengths = np.array([len(text) for text in picked.texts], np.int64)
    ids, ends = reference.encode(b"".join(picked.texts), np.cumsum(lengths))
    right_ids = take(ids, ends, np.arange(len(picked.texts)))
    for text, mine, right in zip(picked.texts, picked.ids, right_ids, strict=True):
        if not np.array_equal(mine, right):
            same = min(len(mine), len(right))
            unequal = np.flatnonzero(mine[:same] != right[:same])
            token = int(unequal[0]) if len(unequal) else same
            raise EngineMismatch(
                f"{picked.engine} differs from {reference.name} at token {token} of a text of {len(text)} "
                f"bytes that begins with {text[:SHOWN_BYTES].decode(errors='replace')!r}: it has "
                f"{mine[token : token + 3].tolist()}, and {right[token : token + 3].tolist()} is right"
            )


def check_ends(name: str, ids: Ids, id_ends: Ends, num_texts: int) -> None:
    """Raise ``EngineMismatch`` unless the ends divide all ids among this many texts."""
    last = int(id_ends[-1]) if len(id_ends) else 0
    if len(id_ends) != num_texts or last != len(ids):
        raise EngineMismatch(
            f"{name} gave {len(id_ends)} texts with {last} of {len(ids)} ids for {num_texts} texts"
        )


def take(values: Values, ends: Ends, picked: NDArray[np.int64]) -> list[Values]:
    """What belongs to the picked texts."""
    return [values[int(ends[index - 1]) if index else 0 : int(ends[index])] for index in picked.tolist()]
