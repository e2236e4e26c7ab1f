"""What the files of an attempt say of its start and its end: start parameters, and the verdict."""

from __future__ import annotations

from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.base import Contract


class AttemptRecord(Contract):
    """Start parameters of an attempt that are not in the plan."""

    attempt: int
    plan_digest: str
    allowed_changes: tuple[str, ...] = ()
    """Keys of the training's identity that may differ from what a checkpoint was saved under."""
    idle_nodes: int = 0
    """Nodes that its Slurm job has, and on which it does not train."""
    began: float | None = None
    """In seconds since the Unix epoch, like `ended`."""
    ended: float | None = None
    """When its processes had ended; `None` before, and where the launcher was ended first."""


class EarlyStop(Contract):
    """Early stopping: the run ended before its last step, because its validation loss stopped falling."""

    patience: int
    """Of `EarlyStopping`, like `min_delta`."""
    min_delta: float
    best_step: int
    """Step of the last improvement by at least ``min_delta``."""
    best_loss: float


class Verdict(Contract):
    """How an attempt ended, as it states itself; an attempt without a verdict has crashed."""

    outcome: AttemptOutcome
    attempt: int
    step: int
    reason: str = ""
    early_stop: EarlyStop | None = None
    """Of a run that completed before its last step."""
