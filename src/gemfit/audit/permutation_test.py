"""Whether groups of people get other replies than chance alone would give them.

If the group made no difference, the replies to one template could be exchanged among the groups of an axis.
So they are, many times at random, and the largest difference of any group is counted (a permutation test
with the maximum statistic, Westfall and Young 1993): exact for any number of templates and any scores.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gemfit.audit.suite import Figure

PERMUTATIONS = 10_000


def axes_of(figures: Sequence[Figure]) -> list[list[Figure]]:
    """Figures that compare the groups of one axis by one measure, together."""
    found: dict[str, list[Figure]] = {}
    for figure in figures:
        if figure.measure.better == "zero":
            found.setdefault(figure.measure.name.partition(":")[0], []).append(figure)
    return list(found.values())


def p_value(axis: Sequence[Figure], seed: int) -> float:
    """How likely chance alone makes a group of ``axis`` differ as much as the one that differs most."""
    templates = list(axis[0].values)
    table = np.array([[figure.values[template] for figure in axis] for template in templates])
    # Rounding must not make an exchange of equal replies look smaller.
    reached = _largest(table[None])[0] * (1 - 1e-9)
    rng = np.random.default_rng(seed)
    drawn = rng.permuted(np.broadcast_to(table, (PERMUTATIONS, *table.shape)), axis=2)
    return float((1 + np.count_nonzero(_largest(drawn) >= reached)) / (1 + PERMUTATIONS))


def _largest(tables: NDArray[np.float64]) -> NDArray[np.float64]:
    """The largest mean difference of any group: (tables, templates, groups) -> (tables,)."""
    largest: NDArray[np.float64] = np.abs(tables.mean(axis=1)).max(axis=1)
    return largest
