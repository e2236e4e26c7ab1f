"""Permutation test of whether replies differ between groups of people by more than chance.

If the group made no difference, the replies to one template could be exchanged among the groups of an axis.
``scipy.stats.permutation_test`` does that, many times at random, and compares the largest difference of any
group (the maximum statistic, Westfall and Young 1993): exact for any number of templates and any scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
    """The p-value of the largest difference of any group of ``axis``, if the group made no difference."""
    from scipy.stats import permutation_test  # noqa: PLC0415  (a second of imports)

    templates = list(axis[0].values)
    if len(templates) == 1:
        return 1.0  # exchanging groups does not change the largest of them, and scipy refuses it
    groups = [np.array([figure.values[template] for template in templates]) for figure in axis]
    found = permutation_test(
        groups,
        _largest,
        permutation_type="samples",  # exchanges the values of one template among the groups
        vectorized=True,
        n_resamples=PERMUTATIONS,
        alternative="greater",
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)


def _largest(*groups: NDArray[np.float64], axis: int) -> Any:
    """The largest mean difference of any group; each group holds its templates along ``axis``."""
    return np.abs([group.mean(axis) for group in groups]).max(axis=0)
