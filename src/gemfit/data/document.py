"""A rendered conversation: token ids, trained flags (loss mask) and positions of its turns.

A token and its "trained" flag share one 32-bit word, so that both travel together: 31 bits hold the
id, the highest bit the flag.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint32]
TRAINED = np.uint32(1 << 31)
IGNORED = -100
"""Label of masked tokens."""


class Turn(NamedTuple):
    """One message inside a document, without a system message of its own turn."""

    role: str
    start: int
    """Index of the first token of its header."""
    header: int
    """Number of header tokens."""


@dataclass(frozen=True, eq=False)
class Document:
    """One conversation as words, and the control texts that a continued chunk repeats. Shapes in brackets."""

    words: Words
    """(tokens,)"""
    turns: tuple[Turn, ...]
    bos: Words
    """Beginning of a continued chunk without a system message, or one too long to be repeated."""
    system_prefix: Words
    """Beginning of a continued chunk: BOS and the system turn, masked."""
    inline_system: Words
    """The system text of formats that write it after the first user header; else empty. Masked."""
    user_header: Words
    user_end: Words

    @property
    def trained_tokens(self) -> int:
        return count_trained(self.words)


def count_trained(words: Words) -> int:
    """Number of trained tokens."""
    return int(np.count_nonzero(words & TRAINED))


def masked(words: Words) -> Words:
    """The same tokens without trained flags."""
    return words & ~TRAINED


def token_ids(words: Words) -> NDArray[np.int32]:
    """Ids alone."""
    return masked(words).view(np.int32)


def labels(words: Words) -> NDArray[np.int32]:
    """The id where a token is trained, ``IGNORED`` elsewhere."""
    return np.where(words & TRAINED, token_ids(words), np.int32(IGNORED))
