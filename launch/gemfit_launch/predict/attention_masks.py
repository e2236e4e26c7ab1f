"""Attention masks of whole rows: which attention needs them, and from which size on a plan is refused."""

from __future__ import annotations

DENSE_MASKS = ("eager", "sdpa")
"""Attention with a number for each pair of tokens of a row, in two masks: full and sliding layers."""
LARGEST_MASK = 2**33
"""Numbers of a mask, of one byte or more each: 8 GiB, of two rows of 65,536 tokens."""


def is_too_large(attention: str, rows: int, seq_len: int) -> bool:
    """Whether masks of ``rows`` rows of ``seq_len`` tokens are larger than a plan allows."""
    return attention in DENSE_MASKS and rows * seq_len**2 > LARGEST_MASK
