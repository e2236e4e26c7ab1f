"""Fill rows with runs of atoms, in compiled code: see ``runs`` for what these are.

Arrays of atoms: ``lengths`` with context, ``bodies`` without. Chains: ``heads`` or ``at`` is the first atom
that is left of each, ``stops`` the one after its last. Cost: some tens of microseconds a row that holds a
part of a long conversation, because every chain of the window is looked at for every run.
"""

from __future__ import annotations

import numpy as np

from gemfit.data.compiled import njit, njit_helper

WINDOW = 128
"""Long conversations among which the best filling is looked for."""
OPTIONS = 32
"""Lengths of the first run of a row that are tried, the longest first."""
ENOUGH = 32
"""Ends of conversations, of half a row at most, that pack well without being cut."""


@njit
def cut_late(lengths, bodies, heads, stops, seq_len):  # type: ignore[no-untyped-def]
    """Pieces that each take all the atoms that fit."""
    first = np.empty(len(lengths), np.int32)
    num_atoms = np.empty(len(lengths), np.int32)
    num_runs = 0
    for chain in range(len(heads)):
        position = heads[chain]
        while position < stops[chain]:
            first[num_runs] = position
            num_atoms[num_runs] = _longest(lengths, bodies, position, stops[chain], seq_len)
            position += num_atoms[num_runs]
            num_runs += 1
    return first[:num_runs], num_atoms[:num_runs]


@njit
def fill_rows(lengths, bodies, heads, stops, whole, seq_len, worth):  # type: ignore[no-untyped-def]
    """Rows out of chains, and of whole conversations (sorted by length) where they fill a rest best."""
    first = np.empty(len(lengths), np.int32)
    count = np.empty(len(lengths), np.int32)
    row = np.empty(len(lengths), np.int32)
    free = np.empty(len(lengths), np.int32)
    num_runs = num_rows = 0
    used = np.zeros(len(whole), np.bool_)
    begin, left, down = _stock(lengths, whole, seq_len)
    at = heads.copy()
    rest = np.empty(len(heads), np.int64)
    long_total = big_total = np.int64(0)
    for chain in range(len(heads)):
        rest[chain] = _length(lengths, bodies, heads[chain], stops[chain] - heads[chain])
        long_total += rest[chain]
    for one in whole:
        big_total += lengths[one] if 2 * lengths[one] > seq_len else 0
    long_left, big_left = long_total, big_total
    # What numpy has for such arrays takes seconds to compile; loops do not.
    chains = np.empty(WINDOW, np.int64)
    size, fresh = _slide_window(chains, 0, at, stops, 0)
    window = chains[:size]
    while len(window):
        if worth > 1 or fresh == len(heads):
            _longest_first(window, rest)
        base = window[0]
        if fresh == len(heads) and len(window) >= ENOUGH and rest[base] <= seq_len // 2:
            break
        room = seq_len
        # Whole conversations of more than half a row begin rows in turn with the long ones: left to the
        # end they would find nothing to share a row with.
        chain, size = base, _occurring(down, seq_len)
        if 2 * size > seq_len and float(big_left) * long_total > float(long_left) * big_total:
            num_atoms = 0
        else:
            num_atoms = _first_run(lengths, bodies, at, stops, window, down, seq_len, worth)
            size = _length(lengths, bodies, at[chain], num_atoms)
        while size > 0:
            if num_atoms > 0:
                first[num_runs], count[num_runs] = at[chain], num_atoms
                rest[chain] -= size
                at[chain] += num_atoms
                owed = _owed(lengths, bodies, at[chain], stops[chain])
                rest[chain] += owed
                long_left -= size - owed
            else:
                left[size] -= 1
                taken = begin[size] + left[size]
                used[taken] = True
                if left[size] == 0:
                    down[size] = size - 1
                first[num_runs], count[num_runs] = whole[taken], 1
                big_left -= size if 2 * size > seq_len else 0
            row[num_runs] = num_rows
            num_runs += 1
            room -= size
            chain, num_atoms, size, _ = _filling(lengths, bodies, at, stops, window, down, room, worth)
        free[num_rows] = room
        num_rows += 1
        num_open, fresh = _slide_window(chains, len(window), at, stops, fresh)
        window = chains[:num_open]
    ends = (np.empty(len(window), heads.dtype), np.empty(len(window), heads.dtype))
    num_ends = 0
    for chain in window:
        if at[chain] < stops[chain]:
            ends[0][num_ends], ends[1][num_ends] = at[chain], stops[chain] - at[chain]
            num_ends += 1
    ends = (ends[0][:num_ends], ends[1][:num_ends])
    return first[:num_runs], count[:num_runs], row[:num_runs], free[:num_rows], used, ends


@njit_helper
def _slide_window(window, size, at, stops, fresh):  # type: ignore[no-untyped-def]
    """Drop chains that are used up and take fresh ones in; how many there are then, and the next fresh."""
    kept = 0
    for place in range(size):
        if at[window[place]] < stops[window[place]]:
            window[kept] = window[place]
            kept += 1
    while kept < len(window) and fresh < len(stops):
        window[kept] = fresh
        kept += 1
        fresh += 1
    return kept, fresh


@njit_helper
def _longest_first(window, rest):  # type: ignore[no-untyped-def]
    """Put the chain with most left to the front, so that all of a window end at about one time."""
    longest = 0
    for place in range(1, len(window)):
        if rest[window[place]] > rest[window[longest]]:
            longest = place
    window[0], window[longest] = window[longest], window[0]


@njit_helper
def _stock(lengths, whole, seq_len):  # type: ignore[no-untyped-def]
    """For each length: where its conversations begin, how many there are, the next one that occurs."""
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
def _first_run(lengths, bodies, at, stops, window, down, seq_len, worth):  # type: ignore[no-untyped-def]
    """How many atoms of the first chain a new row takes, so that with one filling it gains most."""
    chain = window[0]
    position = at[chain]
    most = _longest(lengths, bodies, position, stops[chain], seq_len)
    best, best_gain = most, -1
    for num_atoms in range(most, max(0, most - OPTIONS), -1):
        length = _length(lengths, bodies, position, num_atoms)
        _, _, _, gain = _filling(lengths, bodies, at, stops, window, down, seq_len - length, worth)
        gain += worth * length - _owed(lengths, bodies, position + num_atoms, stops[chain])
        if gain > best_gain:
            best, best_gain = num_atoms, gain
    return best


@njit_helper
def _filling(lengths, bodies, at, stops, window, down, room, worth):  # type: ignore[no-untyped-def]
    """What gains most in ``room``: chain, atoms (0: a whole conversation), tokens (0: nothing), gain.

    ``worth`` is what a filled place gains beside a token that need not be repeated.
    """
    size = _occurring(down, room)
    best_chain, best_atoms, best_size, best_gain = -1, 0, size, worth * size
    for chain in window[1:]:
        position = at[chain]
        stop = stops[chain]
        if position >= stop or lengths[position] > room:
            continue
        context = lengths[position] - bodies[position]
        length, end = lengths[position], position + 1
        while length <= room:
            gain = worth * length - _owed(lengths, bodies, end, stop)
            # A scrap that is mostly repeated context teaches little.
            if gain > best_gain and length >= 2 * context:
                best_chain, best_atoms, best_size, best_gain = chain, end - position, length, gain
            if end == stop:
                break
            length += bodies[end]
            end += 1
    return best_chain, best_atoms, best_size, best_gain


@njit_helper
def _owed(lengths, bodies, position, stop):  # type: ignore[no-untyped-def]
    """Context that has to be repeated because a piece ends before ``position``."""
    return lengths[position] - bodies[position] if position < stop else 0


@njit_helper
def _occurring(down, length):  # type: ignore[no-untyped-def]
    """The longest whole conversation of at most ``length`` tokens, or 0; shortens the way for later."""
    while down[length] != length:
        down[length] = down[down[length]]
        length = down[length]
    return length


@njit_helper
def _longest(lengths, bodies, position, stop, room):  # type: ignore[no-untyped-def]
    """How many atoms from ``position`` on fit into ``room``."""
    total, end = lengths[position], position + 1
    while end < stop and total + bodies[end] <= room:
        total += bodies[end]
        end += 1
    return end - position


@njit_helper
def _length(lengths, bodies, position, num_atoms):  # type: ignore[no-untyped-def]
    """Tokens of a piece of ``num_atoms`` atoms."""
    total = np.int64(lengths[position])
    for atom in range(position + 1, position + num_atoms):
        total += bodies[atom]
    return total
