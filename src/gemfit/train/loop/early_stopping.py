"""Early stopping: end a run when the validation loss has stopped improving.

The decision is a function of the losses by step. Every rank has them, because an evaluation gives all
ranks the same loss; a resumed attempt reads them from the run's metrics, so no state is saved for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from gemfit.schemas.attempt_record import EarlyStop
from gemfit.schemas.metrics import EvalRecord
from gemfit.schemas.metrics_history import read_records
from gemfit.schemas.recipe_training import EarlyStopping
from gemfit.train.collective import on_first_rank


class EarlyStoppingMonitor:
    """The validation losses of a run so far, and whether they end it; without ``settings``, never."""

    def __init__(self, settings: EarlyStopping | None) -> None:
        self._settings = settings
        self._losses: dict[int, float] = {}

    def add(self, step: int, loss: float) -> None:
        """Add an evaluation; a repeated one counts once."""
        self._losses[step] = loss

    def load(self, metrics: Path, step: int) -> None:
        """Load the losses of earlier attempts up to ``step``, as read by the first rank. Collective."""
        if self._settings is not None:
            self._losses = on_first_rank(lambda: recorded_losses(metrics, step))

    def lacks(self, step: int) -> bool:
        """Whether early stopping is on, and ``step`` was not evaluated."""
        return self._settings is not None and step not in self._losses

    @property
    def stop(self) -> EarlyStop | None:
        """Why the run ends here; ``None`` while it continues."""
        return None if self._settings is None else judge(self._losses, self._settings)

    @property
    def reason(self) -> str:
        """The same as text; empty while the run continues."""
        stop = self.stop
        if stop is None:
            return ""
        least = f" by more than {stop.min_delta:g}" if stop.min_delta else ""
        return (
            f"stopped early: in {stop.patience} evaluations the validation loss has not fallen{least} "
            f"below {stop.best_loss:.4f}, that of step {stop.best_step}"
        )


def judge(losses: Mapping[int, float], settings: EarlyStopping) -> EarlyStop | None:
    """The early stop, if none of the newest ``patience`` losses (by step) is an improvement.

    An improvement is lower than the previous improvement by more than ``min_delta``; NaN never is.
    """
    best_step, best_loss, waited = 0, math.inf, 0
    for step in sorted(losses):
        if losses[step] < best_loss - settings.min_delta:
            best_step, best_loss, waited = step, losses[step], 0
        else:
            waited += 1
    if waited < settings.patience:
        return None
    return EarlyStop(
        patience=settings.patience, min_delta=settings.min_delta, best_step=best_step, best_loss=best_loss
    )


def recorded_losses(metrics: Path, step: int) -> dict[int, float]:
    """Validation losses up to ``step``, by step, the newest of repeated ones; empty without a file."""
    if not metrics.is_file():
        return {}
    records = [record for record in read_records(metrics) if isinstance(record, EvalRecord)]
    return {record.step: record.loss for record in records if record.step <= step}
