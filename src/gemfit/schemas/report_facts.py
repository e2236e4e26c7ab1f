"""Facts of a run that only the launcher has; passed to the report as JSON."""

from __future__ import annotations

from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.base import Contract


class Ending(Contract):
    """Outcome of one attempt of a Slurm job."""

    attempt: int
    outcome: AttemptOutcome
    reason: str = ""
    nodes: tuple[str, ...] = ()


class RunFacts(Contract):
    """State, peak FLOPs of the GPU, and predicted memory of one run."""

    state: str | None = None
    """As `gemfit status` has it."""
    gpu: str | None = None
    peak_flops: float | None = None
    """Of one GPU, in FLOPs per second."""
    flops_per_token: float | None = None
    """Forward and backward, without recomputed activations."""
    no_mfu: str = ""
    """Why one of the three is unknown."""
    gpu_bytes: int | None = None
    """Predicted: the most that one rank holds on its GPU."""
    host_bytes: int | None = None
    """Predicted: what one rank holds in host memory."""
    price: float | None = None
    """Of one GPU-hour."""
    endings: tuple[Ending, ...] = ()
