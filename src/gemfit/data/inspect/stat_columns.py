"""Columns for the statistics and plots of a pack."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class StatColumns:
    """Arrays for statistics and plots."""

    lengths: NDArray[np.int32]
    """(conversations,): tokens of each packed conversation, counted once."""
    fill: dict[str, NDArray[np.float64]]
    """By split: (rows,), from 0 to 1."""
    documents: dict[str, NDArray[np.int64]]
    """By split: (rows,), chunks in each."""
    repeated: NDArray[np.int64]
    """(sources,): repeated tokens in rows."""
