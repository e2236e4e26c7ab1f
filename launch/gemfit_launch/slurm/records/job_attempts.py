"""Start and end records of the attempts of a job, and the decision to give up."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from gemfit.core.atomic_file import write_atomic
from gemfit.errors import UserError
from gemfit.rundir import RunDir
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.base import Contract

R = TypeVar("R", bound=Contract)
Stage = Literal["health", "training"]

logger = logging.getLogger(__name__)

STOP_BY_COMMAND, STOP_TO_REQUEUE = "stop", "requeue"
"""Contents of the stop file: `gemfit stop` ends the job, a signal requeues it."""

MAX_FRUITLESS_INTERRUPTIONS = 10
"""In a row without a new checkpoint: the time limit, or the time between preemptions, is too short."""

MAX_FRUITLESS_STOPS = 10
"""In a row, each within `FRUITLESS_STEPS` of its start: an attempt costs more time than it trains."""
FRUITLESS_STEPS = 2
LIMIT_REACHED = "reached its time limit before it could save"


class AttemptStart(Contract):
    """Start of an attempt on these nodes."""

    attempt: int
    job: str
    nodes: tuple[str, ...]
    """In the order of their machine ranks."""
    idle: tuple[str, ...] = ()
    """Nodes that the job has, and on which the attempt does not train."""
    restarts: int = 0
    """How often Slurm had requeued the job: attempts with the same number ran in one allocation."""
    step: int
    """Of the newest checkpoint when it began."""
    time: float


class AttemptEnd(Contract):
    """Outcome of an attempt."""

    attempt: int
    outcome: AttemptOutcome
    step: int
    """Of the newest checkpoint when it ended."""
    reason: str = ""
    node: str | None = None
    """The node that failed first, of a crash."""
    at_fault: bool = False
    """Whether the node itself failed, not what ran on it: the next attempt excludes it."""
    slow: tuple[str, ...] = ()
    """Nodes that were slower than the others, where the site avoids these."""
    time: float


class NodeEnd(Contract):
    """Exit record of one node."""

    node: str
    rank: int
    """The machine's, from 0."""
    stage: Stage
    status: int
    """0 where the attempt left a verdict."""
    reason: str = ""
    at_fault: bool = False
    time: float

    @property
    def can_train_again(self) -> bool:
        """Whether only ranks ended: the node passed its check, and its supervisor has written this record."""
        return self.stage == "training" and self.status > 0


@dataclass(frozen=True, slots=True)
class AttemptFiles:
    """Paths of the records and logs of one attempt."""

    run: RunDir
    attempt: int

    @property
    def folder(self) -> Path:
        return self.run.root / "slurm"

    @property
    def start(self) -> Path:
        return self.folder / f"attempt-{self.attempt}.start.json"

    @property
    def end(self) -> Path:
        return self.folder / f"attempt-{self.attempt}.end.json"

    def node(self, rank: int) -> Path:
        return self.folder / f"attempt-{self.attempt}.node-{rank}.json"

    @property
    def hang(self) -> Path:
        """Its presence makes every node dump the stacks of its ranks and end."""
        return self.folder / f"attempt-{self.attempt}.hang"

    @property
    def limit(self) -> Path:
        """Its presence says that the job was requeued at its time limit, before the attempt had saved."""
        return self.folder / f"attempt-{self.attempt}.limit"

    def log(self, rank: int) -> Path:
        """Output of the ranks of a machine; that of machine 0 is the attempt's log."""
        return (
            self.run.log(self.attempt)
            if rank == 0
            else self.run.logs / f"attempt-{self.attempt}.node-{rank}.log"
        )

    def write(self, path: Path, record: Contract) -> None:
        """Write a record atomically."""
        self.folder.mkdir(exist_ok=True)
        write_atomic(path, record.to_json())

    def node_ends(self) -> list[NodeEnd]:
        """Exit records of the nodes that have ended, by machine rank."""
        paths = self.folder.glob(f"attempt-{self.attempt}.node-*.json")
        found = [end for path in paths if (end := read_sound(NodeEnd, path)) is not None]
        return sorted(found, key=lambda end: end.rank)


@dataclass(frozen=True, slots=True)
class JobAttempt:
    """One attempt; ``end`` is ``None`` while it runs, and where Slurm ended the whole job."""

    start: AttemptStart
    end: AttemptEnd | None


def read_attempts(run: RunDir) -> list[JobAttempt]:
    """Every attempt of a Slurm job, oldest first."""
    found = []
    for number in range(1, run.attempt + 1):
        files = AttemptFiles(run, number)
        if (start := read_sound(AttemptStart, files.start)) is not None:
            found.append(JobAttempt(start, read_sound(AttemptEnd, files.end)))
    return found


def newest_start(run: RunDir) -> AttemptStart | None:
    """The start record of the newest attempt; ``None`` before the first."""
    return read_sound(AttemptStart, AttemptFiles(run, run.attempt).start)


def read_sound(kind: type[R], path: Path) -> R | None:
    """The record at ``path``; ``None`` without one, or with a warning for a damaged one.

    The records count crashes and name nodes; a run must not end because one of them was cut.
    """
    if not path.is_file():
        return None
    try:
        return kind.read(path)
    except UserError as error:
        logger.warning("%s; this record is skipped", error)
        return None


def newest_step(run: RunDir) -> int:
    """Step of the newest committed checkpoint, by name only; 0 before the first."""
    return max((int(path.name.rpartition("-")[2]) for path in run.committed()), default=0)


def give_up(attempts: Sequence[JobAttempt], job: str, *, max_restarts: int) -> str | None:
    """Why ``job`` must not be requeued, or ``None``.

    Counts the attempts of this job since the last one that committed a checkpoint.
    """
    crashes = fruitless(attempts, job, AttemptOutcome.CRASHED)
    interruptions = fruitless(attempts, job, AttemptOutcome.INTERRUPTED)
    if crashes > max_restarts:
        return f"crashed {crashes} times in a row without a new checkpoint (max_restarts is {max_restarts})"
    if interruptions > MAX_FRUITLESS_INTERRUPTIONS:
        return (
            f"interrupted {interruptions} times in a row before it could save a new checkpoint; "
            "give it more time, or save more often (checkpoint.every_steps)"
        )
    if (stops := fruitless_stops(attempts, job)) > MAX_FRUITLESS_STOPS:
        return describe_stops(stops)
    return None


def fruitless(attempts: Sequence[JobAttempt], job: str, outcome: AttemptOutcome) -> int:
    """Number of attempts of ``job`` with this outcome since the last one that committed a checkpoint."""
    count = 0
    for attempt in reversed(attempts):
        if attempt.start.job != job or attempt.end is None or attempt.end.step > attempt.start.step:
            break
        count += attempt.end.outcome is outcome
    return count


def fruitless_stops(attempts: Sequence[JobAttempt], job: str) -> int:
    """Number of attempts of ``job``, the newest in a row, that were stopped within few steps of the start."""
    count = 0
    for attempt in reversed(attempts):
        end = attempt.end
        if attempt.start.job != job or end is None or end.outcome is not AttemptOutcome.STOPPED:
            break
        if end.step - attempt.start.step > FRUITLESS_STEPS:
            break
        count += 1
    return count


def describe_stops(count: int) -> str:
    """The reason of a warning or verdict about fruitless stops."""
    return (
        f"stopped {count} times in a row within {FRUITLESS_STEPS} steps of the start; give the job more time "
        "(`time` of the site, else the partition's DefaultTime), or lower signal_lead_seconds"
    )


def first_failure(ends: Sequence[NodeEnd], nodes: Sequence[str]) -> NodeEnd | None:
    """The node on which an attempt without a verdict failed.

    A node without an exit record was lost with all its processes; else the first that failed.
    """
    recorded = {end.rank for end in ends}
    lost = [rank for rank in range(len(nodes)) if rank not in recorded]
    failed = sorted((end for end in ends if end.status), key=lambda end: (not end.at_fault, end.time))
    if lost and ends:
        reason = "its processes ended without an exit record"
        time = min(end.time for end in ends)
        return NodeEnd(
            node=nodes[lost[0]],
            rank=lost[0],
            stage="training",
            status=-9,
            reason=reason,
            at_fault=True,
            time=time,
        )
    return failed[0] if failed else None
