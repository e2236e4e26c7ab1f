"""Sequence parallelism by all-to-all over heads (Ulysses): the degrees that the heads of a model allow."""

from __future__ import annotations

import math


def fitting_degrees(num_heads: int) -> list[int]:
    """The degrees with which each rank gets equally many of ``num_heads`` query heads."""
    return [degree for degree in range(1, num_heads + 1) if num_heads % degree == 0]


def key_value_repeats(num_key_value_heads: int, degree: int) -> int:
    """How often each key/value head is sent, so that they divide by ``degree``; 1 where they do already."""
    return degree // math.gcd(num_key_value_heads, degree)


def heads_problem(degree: int, num_heads: int) -> str | None:
    """Why a model of ``num_heads`` query heads cannot use ``degree``; ``None`` if it can."""
    if num_heads % degree == 0:
        return None
    fitting = ", ".join(map(str, fitting_degrees(num_heads)))
    return (
        f"strategy.sequence_parallel is {degree}, and the model's {num_heads} query heads do not divide by "
        f"it; use {fitting}"
    )
