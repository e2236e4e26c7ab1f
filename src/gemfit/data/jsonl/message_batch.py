"""Columnar batches of messages and of tokenized blocks.

A block is some MiB of whole JSON lines. It is parsed to ``Messages``, and encoded and rendered to a
``TokenizedBlock``. Both are plain arrays, for compiled kernels and worker processes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]
_SPACES = np.frombuffer(b" \t\n\r\v\f", np.uint8)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Messages:
    """The messages of the valid conversations of a block, in order. Shapes in brackets."""

    text: bytes
    """All contents, joined, as UTF-8."""
    ends: NDArray[np.int64]
    """(messages,): where each content ends in ``text``."""
    roles: NDArray[np.uint8]
    """(messages,): index into ``conversation.ROLES``."""
    last: NDArray[np.int64]
    """(conversations,): end of each conversation's messages, as an index into the messages."""
    lines: NDArray[np.int64]
    """(conversations,): line in the file, from 1."""
    untrained: NDArray[np.bool_] | None = None
    """(messages,): True for messages with `weight: 0`; None if there are none."""

    def count_empty(self) -> int:
        """Messages without text: no character, or ASCII whitespace only."""
        starts = np.concatenate([np.zeros(1, np.int64), self.ends])[:-1]
        filled = np.flatnonzero(starts < self.ends)
        data = np.frombuffer(self.text, np.uint8)
        first, last = data[starts[filled]], data[self.ends[filled] - 1]
        spaced = filled[np.isin(first, _SPACES) & np.isin(last, _SPACES)]
        blank = sum(self.text[starts[index] : self.ends[index]].isspace() for index in spaced)
        return len(self.ends) - len(filled) + blank


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TokenizedBlock:
    """The result of one block: fragments to pack, and counts per valid conversation.

    A fragment is stored as at the start of a chunk (context and body); one that may continue the chunk of
    the fragment before it (``continues``) is stored a second time, after that, as its body alone.
    """

    words: NDArray[np.uint32]
    """(stored,): token ids, the highest bit set where a token is trained (see ``document``)."""
    lengths: Ints
    """(fragments,): context and body."""
    context: Ints
    """(fragments,): repeated tokens: masked context in front of the body."""
    starts: Ints
    """(fragments,): index in the rendered conversation of the first token of the body."""
    continues: NDArray[np.bool_]
    """(fragments,): True if the chunk of the fragment before it may continue with it."""
    mid_message: NDArray[np.bool_]
    """(fragments,): True if the body begins inside a message."""
    conversation: Ints
    """(fragments,): index into the columns below, not decreasing."""

    lines: NDArray[np.int64]
    """(conversations,): line in the file, from 1."""
    digests: NDArray[np.uint64]
    """(conversations, 2): equal for exact copies only."""
    normalized_hashes: NDArray[np.uint64]
    """(conversations,): equal also for copies that differ in case, spacing or punctuation."""
    signatures: NDArray[np.uint32]
    """(conversations, K): MinHash of the text; K is 0 if near-duplicates are ignored."""
    tokens: Ints
    """(conversations,): tokens of the whole conversation as rendered."""
    trained: Ints
    """(conversations,): those with a label, before anything is cut."""
    role_tokens: Ints
    """(conversations, roles): tokens of each role's turns, header and end included; the rest is control."""
    truncated: Ints
    """(conversations,): tokens cut off by ``overlong: truncate``."""
    dropped: Ints
    """(conversations,): all its tokens, where ``overlong: drop`` left it out."""
    untrained: Ints
    """(conversations,): tokens of fragments without a single trained token, which are left out."""
