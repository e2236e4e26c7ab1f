"""What checks, telemetry and callbacks see of the trainer, and what ``main.py`` wires into it.

Neither side imports the other: both import this file, and ``main.py`` is the only place that knows both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from gemfit.rundir import RunDir
from gemfit.schemas.metrics import StartPart
from gemfit.schemas.plan import Plan
from gemfit.train.sequence_group import SequenceGroup


class TrainerView(Protocol):
    """A trainer whose engine is prepared, as read by self-test, attention checks and telemetry."""

    run: RunDir
    plan: Plan
    attempt: int
    pad_id: int
    sequence: SequenceGroup
    args: Any
    """``transformers.TrainingArguments``: the device is taken from it."""
    accelerator: Any
    model_wrapped: Any
    """The model as the engine wraps it: DDP, FSDP2 or DeepSpeed."""

    def compute_loss(self, model: Any, inputs: Any) -> Any:
        """The share of this batch in the loss of the step, times the number of ranks: ()."""

    def take_step_loss(self) -> float:
        """The sum of ``compute_loss`` since the last call; sets it back to zero."""


class SelfTestError(RuntimeError):
    """The prepared model is not what the plan says, or computes wrongly: every attempt would find it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainerHooks:
    """What a trainer calls without importing it."""

    callbacks: Sequence[Callable[[Any], Any]] = ()
    """Classes of callbacks, in order; each is made with the trainer."""
    self_test: Callable[[TrainerView], None]
    """Called once the weights are loaded, before the first step; raises where something is wrong."""
    mark_start: Callable[[StartPart], None] = lambda part: None
    """Called when a part of the start ends; see ``StartRecord``."""
    on_commit: Sequence[Callable[[int], None]] = ()
    """Each is called on rank 0 with the step of each committed checkpoint, from the thread that wrote it."""
