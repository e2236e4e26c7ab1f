"""Values that have to be finite before weights are changed or saved: loss and gradient norm."""

from __future__ import annotations

import math
from collections.abc import Iterable

from gemfit.data.pack.shuffle import EMPTY

SHOWN_ROWS = 8


def check_finite(value: float, what: str, rows: Iterable[int] = ()) -> None:
    """``FloatingPointError`` for a value that is not finite; ``rows`` of the pack led to it."""
    if math.isfinite(value):
        return
    raise FloatingPointError(
        f"{what} is {value}{_name(rows)}; the last checkpoint is unchanged: resume from it with a lower "
        "learning rate (--set optim.learning_rate=… --allow-changed optim.learning_rate)"
    )


def check_grad_norm(norm: float, step: int, rows: Iterable[int]) -> None:
    """The same for the gradient norm of ``step``; DeepSpeed writes -1 for one that is not finite."""
    check_finite(norm if norm >= 0 else math.nan, f"the gradient norm of step {step}", rows)


def _name(rows: Iterable[int]) -> str:
    real = [int(row) for row in rows if row != EMPTY]
    if not real:
        return ""
    more = f" and {len(real) - SHOWN_ROWS} more" if len(real) > SHOWN_ROWS else ""
    return f" (rows {', '.join(map(str, real[:SHOWN_ROWS]))}{more}; see `gemfit data inspect RUN --row ROW`)"
