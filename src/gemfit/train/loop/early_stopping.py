"""Early stopping: whether held-out losses have stopped falling.

The decision is a function of the losses by step. Every rank knows them, because an evaluation gives all
ranks the same figure; a resumed attempt reads them from the run's records, so nothing is saved for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from gemfit.schemas.metrics import EarlyStop, EvalRecord
from gemfit.schemas.metrics_history import read_records
from gemfit.schemas.recipe import EarlyStopping
from gemfit.train.collective import on_first_rank


class EarlyStops:
    """The held-out losses of a run so far, and what follows from them; without ``asked``, nothing does."""

    def __init__(self, asked: EarlyStopping | None) -> None:
        self._asked = asked
        self._losses: dict[int, float] = {}

    def add(self, step: int, loss: float) -> None:
        """Note an evaluation; one that was made again counts once."""
        self._losses[step] = loss

    def recall(self, metrics: Path, step: int) -> None:
        """Note what earlier attempts measured up to ``step``, as read by the first rank. Collective."""
        if self._asked is not None:
            self._losses = on_first_rank(lambda: recorded_losses(metrics, step))

    def lacks(self, step: int) -> bool:
        """Whether early stopping is asked for, and ``step`` was not evaluated."""
        return self._asked is not None and step not in self._losses

    @property
    def stop(self) -> EarlyStop | None:
        """Why the run ends here; ``None`` while it goes on."""
        return None if self._asked is None else judge(self._losses, self._asked)

    @property
    def reason(self) -> str:
        """The same for a person; empty while the run goes on."""
        stop = self.stop
        if stop is None:
            return ""
        least = f" by more than {stop.min_delta:g}" if stop.min_delta else ""
        return (
            f"stopped early: in {stop.patience} evaluations the held-out loss has not fallen{least} "
            f"below {stop.best_loss:.4f}, that of step {stop.best_step}"
        )


def judge(losses: Mapping[int, float], asked: EarlyStopping) -> EarlyStop | None:
    """Whether the newest ``patience`` losses are no improvement. ``losses``: by step.

    An improvement is lower than the improvement before it by more than ``min_delta``; NaN is none.
    """
    best_step, best_loss, waited = 0, math.inf, 0
    for step in sorted(losses):
        if losses[step] < best_loss - asked.min_delta:
            best_step, best_loss, waited = step, losses[step], 0
        else:
            waited += 1
    if waited < asked.patience:
        return None
    return EarlyStop(
        patience=asked.patience, min_delta=asked.min_delta, best_step=best_step, best_loss=best_loss
    )


def recorded_losses(metrics: Path, step: int) -> dict[int, float]:
    """Held-out losses up to ``step``, by step; of one that was done again the newest. None without a file."""
    if not metrics.is_file():
        return {}
    records = [record for record in read_records(metrics) if isinstance(record, EvalRecord)]
    return {record.step: record.loss for record in records if record.step <= step}
