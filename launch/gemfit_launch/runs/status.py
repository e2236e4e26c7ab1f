"""State and progress of a run, read from its folder."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Literal

from gemfit.rundir import RunDir
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.base import Contract
from gemfit.schemas.goodput import Goodput
from gemfit.schemas.metrics import EvalRecord, SlowRankRecord, StepRecord
from gemfit_launch.planning.request import Request
from gemfit_launch.runs.metrics_tail import recent_records, seconds_left

RunState = (
    Literal["new", "pending", "running", "stopping", "suspended", "unknown", "damaged"] | AttemptOutcome
)
"""Before and during an attempt, or the outcome of the last one; `unknown`: Slurm does not answer; `damaged`:
its files cannot be read."""
ACTIVE_STATES = ("pending", "running", "stopping", "suspended", "unknown")
"""States that change without a further command."""

RUNS = Path("runs")


def default_folder(request: Request) -> Path:
    """Run folder if `--run` is not given."""
    return RUNS / f"{request.name_for_folder}-{datetime.now():%Y%m%d-%H%M%S}"


class RunStatus(Contract):
    """One run at one moment."""

    run: str
    state: RunState
    attempt: int
    step: int
    """Optimizer steps done."""
    total_steps: int
    loss: float | None
    """Of the last step."""
    eval_loss: float | None
    """Of the last evaluation."""
    tokens_per_second: float | None
    seconds_left: float | None
    """`None` unless the run is running and its pace is known."""
    reason: str
    """Why its last attempt ended; empty while it is pending or active."""
    job: int | None = None
    """Its newest Slurm job."""
    waits_for: str = ""
    """Why that job is pending."""
    slow_ranks: tuple[str, ...] = ()
    """Of its last attempt, a sentence for each."""
    goodput: Goodput | None = None
    """Of a run that was named, once it has a record."""
    node_counts: tuple[int, ...] = ()
    """As `Plan.node_counts`."""
    nodes: tuple[str, ...] = ()
    """On which a running job trains."""
    idle_nodes: tuple[str, ...] = ()
    """Which it has without training on them."""


def read_status(
    run: RunDir,
    *,
    state: RunState | None = None,
    job: int | None = None,
    waits_for: str = "",
    reason: str = "",
    nodes: tuple[str, ...] = (),
    idle_nodes: tuple[str, ...] = (),
) -> RunStatus:
    """Progress of a run; ``state`` is that of its Slurm job, else read from the folder.

    ``reason`` is what Slurm reports of a job that ended without a verdict, ``nodes`` and ``idle_nodes`` are
    those of its attempt.
    """
    plan = run.plan()
    records, total = recent_records(run.metrics_file), plan.steps.total
    state = state or read_state(run)
    steps = [record for record in records if isinstance(record, StepRecord)]
    evaluations = [record for record in records if isinstance(record, EvalRecord)]
    # While a job is pending, the verdict is that of the attempt before.
    verdict = run.verdict() if state not in ACTIVE_STATES else None
    return RunStatus(
        run=str(run.root),
        state=state,
        attempt=run.attempt,
        step=steps[-1].step if steps else 0,
        total_steps=total,
        loss=steps[-1].loss if steps else None,
        eval_loss=evaluations[-1].loss if evaluations else None,
        tokens_per_second=steps[-1].tokens_per_second if steps else None,
        seconds_left=seconds_left(steps, total) if steps and state == "running" else None,
        reason=reason or (verdict.reason if verdict else ""),
        job=job,
        waits_for=waits_for,
        node_counts=plan.node_counts,
        nodes=nodes,
        idle_nodes=idle_nodes,
        slow_ranks=tuple(
            record.text
            for record in records
            if isinstance(record, SlowRankRecord) and record.attempt == run.attempt
        ),
    )


def damaged_status(run: RunDir, error: Exception) -> RunStatus:
    """Status of a run whose files cannot be read, with the reason: other runs are still shown."""
    return RunStatus(
        run=str(run.root),
        state="damaged",
        attempt=0,
        step=0,
        total_steps=0,
        loss=None,
        eval_loss=None,
        tokens_per_second=None,
        seconds_left=None,
        reason=str(error),
    )


def read_state(run: RunDir) -> RunState:
    """State from the folder: the lock shows whether it runs, the verdict how it ended."""
    if run.attempt == 0:
        return "new"
    if run.is_active:
        return "stopping" if run.stop_file.exists() else "running"
    verdict = run.verdict()
    return verdict.outcome if verdict else AttemptOutcome.CRASHED


def find_runs(folder: Path = RUNS) -> list[RunDir]:
    """The runs in a folder, by name; not opened, so that one that is refused hides no other."""
    return [RunDir(plan.parent) for plan in sorted(folder.glob("*/plan.json"))]
