"""Apply ``data.overlong`` to one conversation: drop, truncate, split or cut, and count what is lost."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gemfit.data.compiled import njit
from gemfit.data.document import Document, Words
from gemfit.data.packing.split_turns import CONTEXT, LENGTH, split, with_capacity
from gemfit.data.packing.turn_spans import as_spans, concatenate_spans, next_trained, put_fragment, put_span

OVERLONG_MODES = ("drop", "truncate", "split", "cut")
"""Values of ``data.overlong``."""
_DROP, _TRUNCATE, _, _CUT = range(len(OVERLONG_MODES))


class ConversationFragment(NamedTuple):
    """A part of a conversation that fits into a row together with its context."""

    words: Words
    """At the start of a chunk: context, then the body."""
    body: Words
    """Inside a chunk, after the fragment before it."""
    continues: bool
    """True if the fragment before it is its neighbour in the conversation."""
    start: int
    """Index in the conversation of the first word of the body."""
    mid_message: bool = False
    """True if the body begins inside a message."""

    @property
    def repeated(self) -> int:
        """Number of repeated tokens: the masked context."""
        return len(self.words) - len(self.body)


class FittedDocument(NamedTuple):
    """The fragments of one conversation that are packed, and the tokens that are not."""

    fragments: list[ConversationFragment]
    truncated: int = 0
    """Cut off by ``truncate``."""
    dropped: int = 0
    """All tokens of a conversation that ``drop`` left out."""
    untrained: int = 0
    """Of fragments without a single trained token, which are left out."""


def fit_document(document: Document, overlong: str, seq_len: int) -> FittedDocument:
    """Fragments of at most ``seq_len`` words; ``overlong`` as in ``data``.

    One conversation alone, as objects, for tests and benchmarks; a build fits a block at once (``fit_rows``).
    """
    conversation, control = as_spans(document)
    spans, fragments = np.empty((64, 3), np.int64), np.empty((64, 5), np.int32)
    mode = OVERLONG_MODES.index(overlong)
    spans, num_spans, fragments, num_fragments, costs = fit_conversation(
        document.words, conversation, mode, seq_len, spans, 0, fragments, 0
    )
    stored = concatenate_spans(document.words, control, spans[:num_spans])
    return FittedDocument(_as_objects(document, stored, fragments[:num_fragments].tolist()), *costs)


def _as_objects(document: Document, stored: Words, rows: list[list[int]]) -> list[ConversationFragment]:
    found, at = [], 0
    for length, context, start, continues, mid_message in rows:
        words, body = stored[at : at + length], document.words[start : start + length - context]
        found.append(ConversationFragment(words, body, bool(continues), start, bool(mid_message)))
        at += length + (len(body) if continues else 0)
    return found


@njit
def fit_conversation(
    words: Any,
    conversation: Any,
    mode: Any,
    seq_len: Any,
    spans: Any,
    num_spans: Any,
    fragments: Any,
    num_fragments: Any,
) -> Any:
    """Append fragments and their words as ``split`` does, ``mode`` being an index into ``OVERLONG_MODES``.

    Returns both tables, the rows used of each, and tokens truncated, dropped and untrained.
    """
    start, stop = conversation.whole
    tokens = stop - start
    if tokens > seq_len and mode == _DROP:
        return spans, num_spans, fragments, num_fragments, (0, tokens, 0)
    if tokens > seq_len and mode != _TRUNCATE:
        step = max(8, seq_len // 8) if mode == _CUT else 0
        first = num_fragments
        spans, num_spans, fragments, num_fragments = split(
            words, conversation, seq_len, step, spans, num_spans, fragments, num_fragments
        )
        packed = 0
        for fragment in range(first, num_fragments):
            packed += fragments[fragment, LENGTH] - fragments[fragment, CONTEXT]
        return spans, num_spans, fragments, num_fragments, (0, 0, tokens - packed)
    packed = min(tokens, seq_len)
    if packed < tokens and next_trained(words, start, start + packed) == start + packed:
        # The question alone fills the row.
        return spans, num_spans, fragments, num_fragments, (tokens, 0, 0)
    spans = with_capacity(spans, num_spans + 1)
    fragments = with_capacity(fragments, num_fragments + 1)
    put_span(spans, num_spans, start, start + packed, 0)
    put_fragment(fragments, num_fragments, packed, 0, 0, 0, 0)
    return spans, num_spans + 1, fragments, num_fragments + 1, (tokens - packed, 0, 0)
