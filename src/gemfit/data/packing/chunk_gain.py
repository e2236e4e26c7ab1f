"""Chunks that fit into the free places of a row, and their gain: tokens placed less context to repeat.

Arguments are those of ``row_fill``.
"""

from __future__ import annotations

import numpy as np

from gemfit.data.compiled import njit_helper

OPTIONS = 32
"""Lengths of a row's first chunk that are tried, the longest first."""


@njit_helper
def first_chunk(lengths, bodies, at, stops, window, down, seq_len, fill_weight):  # type: ignore[no-untyped-def]
    """Fragments of the first conversation in a new row, for the highest gain with the best second chunk."""
    conversation = window[0]
    fragment = at[conversation]
    most = most_fragments(lengths, bodies, fragment, stops[conversation], seq_len)
    best, best_gain = most, -1
    for num_fragments in range(most, max(0, most - OPTIONS), -1):
        length = chunk_length(lengths, bodies, fragment, num_fragments)
        _, _, _, gain = best_chunk(lengths, bodies, at, stops, window, down, seq_len - length, fill_weight)
        repeated = repeated_at(lengths, bodies, fragment + num_fragments, stops[conversation])
        gain += fill_weight * length - repeated
        if gain > best_gain:
            best, best_gain = num_fragments, gain
    return best


@njit_helper
def best_chunk(lengths, bodies, at, stops, window, down, budget, fill_weight):  # type: ignore[no-untyped-def]
    """The chunk of highest gain in ``budget``: conversation, fragments (0: a whole one), tokens, gain.

    Tokens are 0 if nothing fits. ``fill_weight`` weighs a filled place against a repeated token.
    """
    size = longest_whole(down, budget)
    best_conversation, best_fragments, best_size, best_gain = -1, 0, size, fill_weight * size
    for conversation in window[1:]:
        start, stop = at[conversation], stops[conversation]
        if start >= stop or lengths[start] > budget:
            continue
        context = lengths[start] - bodies[start]
        length, end = lengths[start], start + 1
        while length <= budget:
            gain = fill_weight * length - repeated_at(lengths, bodies, end, stop)
            # A chunk that is mostly repeated context teaches little.
            if gain > best_gain and length >= 2 * context:
                best_conversation, best_fragments = conversation, end - start
                best_size, best_gain = length, gain
            if end == stop:
                break
            length += bodies[end]
            end += 1
    return best_conversation, best_fragments, best_size, best_gain


@njit_helper
def repeated_at(lengths, bodies, fragment, stop):  # type: ignore[no-untyped-def]
    """Context to repeat if a chunk ends before ``fragment``."""
    return lengths[fragment] - bodies[fragment] if fragment < stop else 0


@njit_helper
def longest_whole(down, length):  # type: ignore[no-untyped-def]
    """The longest whole conversation of at most ``length`` tokens, or 0; compresses paths as it goes."""
    while down[length] != length:
        down[length] = down[down[length]]
        length = down[length]
    return length


@njit_helper
def most_fragments(lengths, bodies, fragment, stop, budget):  # type: ignore[no-untyped-def]
    """Number of fragments from ``fragment`` on that fit into ``budget``."""
    total, end = lengths[fragment], fragment + 1
    while end < stop and total + bodies[end] <= budget:
        total += bodies[end]
        end += 1
    return end - fragment


@njit_helper
def chunk_length(lengths, bodies, fragment, num_fragments):  # type: ignore[no-untyped-def]
    """Tokens of a chunk of ``num_fragments`` fragments."""
    total = np.int64(lengths[fragment])
    for index in range(fragment + 1, fragment + num_fragments):
        total += bodies[index]
    return total
