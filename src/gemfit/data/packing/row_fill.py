"""Fill rows with chunks of fragments, in compiled code; see ``chunk_packing`` for the terms.

Arrays of fragments: ``lengths`` with context, ``bodies`` without. Arrays of long conversations: ``at`` is
the first fragment not yet placed, ``stops`` the one after the last. Cost: tens of microseconds per row that
holds a part of a long conversation, because every conversation of the window is searched for every chunk.
"""

from __future__ import annotations

import numpy as np

from gemfit.data.compiled import njit, njit_helper

WINDOW = 128
"""Long conversations that are searched for the best chunk."""
OPTIONS = 32
"""Lengths of a row's first chunk that are tried, the longest first."""
ENOUGH = 32
"""Remainders of conversations, of half a row at most, that pack well without being split."""


@njit
def longest_chunks(lengths, bodies, starts, stops, seq_len):  # type: ignore[no-untyped-def]
    """Chunks that each take all the fragments that fit: first fragment and number of fragments."""
    first = np.empty(len(lengths), np.int32)
    count = np.empty(len(lengths), np.int32)
    num_chunks = 0
    for conversation in range(len(starts)):
        fragment = starts[conversation]
        while fragment < stops[conversation]:
            first[num_chunks] = fragment
            count[num_chunks] = _most_fragments(lengths, bodies, fragment, stops[conversation], seq_len)
            fragment += count[num_chunks]
            num_chunks += 1
    return first[:num_chunks], count[:num_chunks]


@njit
def fill_rows(lengths, bodies, starts, stops, whole, seq_len, fill_weight):  # type: ignore[no-untyped-def]
    """Rows of chunks of long conversations, and of whole conversations (sorted by length) that fit best.

    Returns first fragment, number of fragments and row of each chunk, the free places of each row, which
    whole conversations are used, and the remainders (first fragment, number of fragments).
    """
    first = np.empty(len(lengths), np.int32)
    count = np.empty(len(lengths), np.int32)
    row = np.empty(len(lengths), np.int32)
    free = np.empty(len(lengths), np.int32)
    num_chunks = num_rows = 0
    used = np.zeros(len(whole), np.bool_)
    begin, left, down = _whole_by_length(lengths, whole, seq_len)
    at = starts.copy()
    tokens_left = np.empty(len(starts), np.int64)
    long_total = big_total = np.int64(0)
    for conversation in range(len(starts)):
        fragments = stops[conversation] - starts[conversation]
        tokens_left[conversation] = _chunk_length(lengths, bodies, starts[conversation], fragments)
        long_total += tokens_left[conversation]
    for one in whole:
        big_total += lengths[one] if 2 * lengths[one] > seq_len else 0
    long_left, big_left = long_total, big_total
    # numpy's functions for such arrays take seconds to compile; loops do not.
    conversations = np.empty(WINDOW, np.int64)
    size, fresh = _slide_window(conversations, 0, at, stops, 0)
    window = conversations[:size]
    while len(window):
        if fill_weight > 1 or fresh == len(starts):
            _longest_first(window, tokens_left)
        base = window[0]
        if fresh == len(starts) and len(window) >= ENOUGH and tokens_left[base] <= seq_len // 2:
            break
        budget = seq_len
        # Whole conversations of more than half a row begin rows in turn with the long ones: at the end
        # nothing would be left to share a row with them.
        chosen, size = base, _longest_whole(down, seq_len)
        if 2 * size > seq_len and float(big_left) * long_total > float(long_left) * big_total:
            num_fragments = 0
        else:
            num_fragments = _first_chunk(lengths, bodies, at, stops, window, down, seq_len, fill_weight)
            size = _chunk_length(lengths, bodies, at[chosen], num_fragments)
        while size > 0:
            if num_fragments > 0:
                first[num_chunks], count[num_chunks] = at[chosen], num_fragments
                tokens_left[chosen] -= size
                at[chosen] += num_fragments
                repeated = _repeated_at(lengths, bodies, at[chosen], stops[chosen])
                tokens_left[chosen] += repeated
                long_left -= size - repeated
            else:
                left[size] -= 1
                taken = begin[size] + left[size]
                used[taken] = True
                if left[size] == 0:
                    down[size] = size - 1
                first[num_chunks], count[num_chunks] = whole[taken], 1
                big_left -= size if 2 * size > seq_len else 0
            row[num_chunks] = num_rows
            num_chunks += 1
            budget -= size
            chosen, num_fragments, size, _ = _best_chunk(
                lengths, bodies, at, stops, window, down, budget, fill_weight
            )
        free[num_rows] = budget
        num_rows += 1
        size, fresh = _slide_window(conversations, len(window), at, stops, fresh)
        window = conversations[:size]
    ends = (np.empty(len(window), starts.dtype), np.empty(len(window), starts.dtype))
    num_ends = 0
    for conversation in window:
        if at[conversation] < stops[conversation]:
            ends[0][num_ends] = at[conversation]
            ends[1][num_ends] = stops[conversation] - at[conversation]
            num_ends += 1
    ends = (ends[0][:num_ends], ends[1][:num_ends])
    return first[:num_chunks], count[:num_chunks], row[:num_chunks], free[:num_rows], used, ends


@njit_helper
def _slide_window(window, size, at, stops, fresh):  # type: ignore[no-untyped-def]
    """Drop conversations that are used up and add fresh ones; returns the size and the next fresh one."""
    filled = 0
    for index in range(size):
        if at[window[index]] < stops[window[index]]:
            window[filled] = window[index]
            filled += 1
    while filled < len(window) and fresh < len(stops):
        window[filled] = fresh
        filled += 1
        fresh += 1
    return filled, fresh


@njit_helper
def _longest_first(window, tokens_left):  # type: ignore[no-untyped-def]
    """Move the conversation with most tokens left to the front, so that all end at about the same time."""
    longest = 0
    for index in range(1, len(window)):
        if tokens_left[window[index]] > tokens_left[window[longest]]:
            longest = index
    window[0], window[longest] = window[longest], window[0]


@njit_helper
def _whole_by_length(lengths, whole, seq_len):  # type: ignore[no-untyped-def]
    """For each length: where its conversations begin, how many there are, the next length that occurs."""
    left = np.zeros(seq_len + 1, np.int32)
    for one in whole:
        left[lengths[one]] += 1
    begin, down = np.zeros(seq_len + 1, np.int64), np.zeros(seq_len + 1, np.int64)
    for length in range(1, seq_len + 1):
        begin[length] = begin[length - 1] + left[length - 1]
        down[length] = length
        if left[length] == 0:
            down[length] = length - 1
    return begin, left, down


@njit_helper
def _first_chunk(lengths, bodies, at, stops, window, down, seq_len, fill_weight):  # type: ignore[no-untyped-def]
    """Fragments of the first conversation in a new row, for the highest gain with the best second chunk."""
    conversation = window[0]
    fragment = at[conversation]
    most = _most_fragments(lengths, bodies, fragment, stops[conversation], seq_len)
    best, best_gain = most, -1
    for num_fragments in range(most, max(0, most - OPTIONS), -1):
        length = _chunk_length(lengths, bodies, fragment, num_fragments)
        _, _, _, gain = _best_chunk(lengths, bodies, at, stops, window, down, seq_len - length, fill_weight)
        repeated = _repeated_at(lengths, bodies, fragment + num_fragments, stops[conversation])
        gain += fill_weight * length - repeated
        if gain > best_gain:
            best, best_gain = num_fragments, gain
    return best


@njit_helper
def _best_chunk(lengths, bodies, at, stops, window, down, budget, fill_weight):  # type: ignore[no-untyped-def]
    """The chunk of highest gain in ``budget``: conversation, fragments (0: a whole one), tokens, gain.

    Tokens are 0 if nothing fits. ``fill_weight`` weighs a filled place against a repeated token.
    """
    size = _longest_whole(down, budget)
    best_conversation, best_fragments, best_size, best_gain = -1, 0, size, fill_weight * size
    for conversation in window[1:]:
        start, stop = at[conversation], stops[conversation]
        if start >= stop or lengths[start] > budget:
            continue
        context = lengths[start] - bodies[start]
        length, end = lengths[start], start + 1
        while length <= budget:
            gain = fill_weight * length - _repeated_at(lengths, bodies, end, stop)
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
def _repeated_at(lengths, bodies, fragment, stop):  # type: ignore[no-untyped-def]
    """Context to repeat if a chunk ends before ``fragment``."""
    return lengths[fragment] - bodies[fragment] if fragment < stop else 0


@njit_helper
def _longest_whole(down, length):  # type: ignore[no-untyped-def]
    """The longest whole conversation of at most ``length`` tokens, or 0; compresses paths as it goes."""
    while down[length] != length:
        down[length] = down[down[length]]
        length = down[length]
    return length


@njit_helper
def _most_fragments(lengths, bodies, fragment, stop, budget):  # type: ignore[no-untyped-def]
    """Number of fragments from ``fragment`` on that fit into ``budget``."""
    total, end = lengths[fragment], fragment + 1
    while end < stop and total + bodies[end] <= budget:
        total += bodies[end]
        end += 1
    return end - fragment


@njit_helper
def _chunk_length(lengths, bodies, fragment, num_fragments):  # type: ignore[no-untyped-def]
    """Tokens of a chunk of ``num_fragments`` fragments."""
    total = np.int64(lengths[fragment])
    for index in range(fragment + 1, fragment + num_fragments):
        total += bodies[index]
    return total
