"""Symbols of a text before any merge, compiled."""

from __future__ import annotations

import numpy as np

from gemfit.data.compiled import njit, njit_helper
from gemfit.data.tokenize.bpe.pair_table import CHARACTER, NONE, find_rank


@njit
def initial_symbols(  # type: ignore[no-untyped-def]
    text, start, stop, pairs, merged, ascii_ranks, ascii, byte_ids, symbols, ranks
):
    """Symbols before any merge, one per character or per byte of it, and the ranks of pairs; how many."""
    count, position, after_ascii = 0, start, False
    while position < stop:
        first = np.int64(text[position])
        if first < 128 and ascii[first] != NONE:
            symbols[count] = ascii[first]
            if count:
                ranks[count - 1] = (
                    ascii_ranks[text[position - 1], first]
                    if after_ascii
                    else find_rank(pairs, symbols[count - 1], symbols[count])
                )
            after_ascii = True
            count += 1
            position += 1
            continue
        after_ascii = False
        width = _width(first, stop - position)
        begin = count
        rank = find_rank(pairs, CHARACTER, _code_point(text, position, width))
        if rank != NONE:
            symbols[count] = merged[rank]
            count += 1
        else:
            for byte in text[position : position + width]:
                symbols[count] = byte_ids[byte]
                count += 1
        for number in range(max(begin, 1), count):
            ranks[number - 1] = find_rank(pairs, symbols[number - 1], symbols[number])
        position += width
    ranks[count - 1] = NONE
    return count


@njit_helper
def _width(first, most):  # type: ignore[no-untyped-def]
    """Bytes of the UTF-8 character that begins with this byte, at most ``most``."""
    return min(most, 1 if first < 0xC0 else (2 if first < 0xE0 else (3 if first < 0xF0 else 4)))


@njit_helper
def _code_point(text, position, width):  # type: ignore[no-untyped-def]
    """The code point of the UTF-8 character at ``position``."""
    code = np.int64(text[position])
    if width > 1:
        code &= 0xFF >> (width + 1)
    for byte in text[position + 1 : position + width]:
        code = code << 6 | np.int64(byte) & 0x3F
    return code
