"""Values that have to be finite before weights are changed or saved: loss and gradient norm."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

from gemfit.data.inspect.pack_files import open_pack_files
from gemfit.data.inspect.row_documents import places_of_rows
from gemfit.data.pack.shuffle import EMPTY
from gemfit.train.checkpoint.finite_state import RESUME_LOWER

SHOWN_ROWS = 8


def check_finite(value: float, what: str, named: str = "") -> None:
    """``FloatingPointError`` for a value that is not finite; ``named``: the rows that led to it."""
    if math.isfinite(value):
        return
    raise FloatingPointError(
        f"{what} is {value}{named}; {RESUME_LOWER}"
        + (", or begin a new run without these conversations" if named else "")
    )


def is_finite_norm(norm: float) -> bool:
    """Whether a gradient norm is finite; DeepSpeed writes -1 for one that is not."""
    return math.isfinite(norm) and norm >= 0


def check_grad_norm(norm: float, step: int, named: str) -> None:
    """The same as ``check_finite`` for the gradient norm of ``step``."""
    check_finite(norm if norm >= 0 else math.nan, f"the gradient norm of step {step}", named)


def name_rows(rows: Iterable[int], folder: Path) -> str:
    """The ``rows`` of the pack in ``folder`` and the conversations in them, for an error message."""
    real = [int(row) for row in rows if row != EMPTY]
    if not real:
        return ""
    places = places_of_rows(open_pack_files(folder), real[:SHOWN_ROWS])
    shown = "; ".join(f"row {row}: {', '.join(found)}" for row, found in places.items())
    more = f"; and {len(real) - SHOWN_ROWS} more rows" if len(real) > SHOWN_ROWS else ""
    return f" ({shown}{more}; see `gemfit data inspect RUN --row ROW`)"
