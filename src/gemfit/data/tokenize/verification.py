"""Verification samples: an engine's ids of about one text in 1,024, compared with those of the reference.

Texts are sampled by a hash of their content, so the sample does not depend on which process encodes them. At
4 MB/s for the reference this costs 2 % of the time of an engine of 100 MB/s.
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from gemfit.data.tokenize.protocol import Encoder, Ends, EngineMismatch, Ids
from gemfit.data.tokenize.sampling import sample_texts

Values = TypeVar("Values", bytes, Ids)

ONE_IN = 1024
SHOWN_BYTES = 60


class VerificationSample(NamedTuple):
    """Some texts, and the ids that the engine of this name gave them."""

    engine: str
    texts: list[bytes]
    ids: list[Ids]


def sample_encoded(
    engine: Encoder, text: bytes, ends: Ends, ids: Ids, id_ends: Ends, one_in: int = ONE_IN
) -> VerificationSample:
    """A sample of texts that an engine has encoded; ``EngineMismatch`` where its ends are inconsistent."""
    check_ends(engine.name, ids, id_ends, len(ends))
    sample = sample_texts(text, ends, one_in)
    # Copies, so that the large arrays can be freed.
    return VerificationSample(
        engine.name, take(text, ends, sample), [one.copy() for one in take(ids, id_ends, sample)]
    )


def compare(sample: VerificationSample, reference: Encoder) -> None:
    """Raise ``EngineMismatch`` for the first text of which the engine found other ids."""
    lengths = np.array([len(text) for text in sample.texts], np.int64)
    ids, ends = reference.encode(b"".join(sample.texts), np.cumsum(lengths))
    right_ids = take(ids, ends, np.arange(len(sample.texts)))
    for text, mine, right in zip(sample.texts, sample.ids, right_ids, strict=True):
        if not np.array_equal(mine, right):
            same = min(len(mine), len(right))
            unequal = np.flatnonzero(mine[:same] != right[:same])
            token = int(unequal[0]) if len(unequal) else same
            raise EngineMismatch(
                f"{sample.engine} differs from {reference.name} at token {token} of a text of {len(text)} "
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


def take(values: Values, ends: Ends, sample: NDArray[np.int64]) -> list[Values]:
    """Slices of ``values`` that belong to the texts of these indices."""
    return [values[int(ends[index - 1]) if index else 0 : int(ends[index])] for index in sample.tolist()]
