"""What each attempt of a job was and how it ended, in small files; and what follows from that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gemfit.core.atomic_file import write_atomic
from gemfit.rundir import RunDir
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.base import Contract

Stage = Literal["health", "training"]

STOP_BY_COMMAND, STOP_TO_REQUEUE = "stop", "requeue"
"""What the stop file says: `gemfit stop` ends the job, a signal sends it back into the queue."""

MAX_FRUITLESS_INTERRUPTIONS = 10
"""In a row without a new checkpoint: the time limit, or the time between preemptions, is too short."""


class AttemptStart(Contract):
    """An attempt that has begun on these nodes."""

    attempt: int
    job: str
    nodes: tuple[str, ...]
    """In the order of their machine ranks."""
    step: int
    """Of the newest checkpoint when it began."""
    time: float


class AttemptEnd(Contract):
    """How an attempt ended."""

    attempt: int
    outcome: AttemptOutcome
    step: int
    """Of the newest checkpoint when it ended."""
    reason: str = ""
    node: str | None = None
    """The node that failed first, of a crash."""
    at_fault: bool = False
    """The node itself failed, not what ran on it: the next attempt avoids it."""
    time: float


class NodeEnd(Contract):
    """How the launcher of one node ended."""

    node: str
    rank: int
    """The machine's, from 0."""
    stage: Stage
    status: int
    """0 where the attempt left a verdict."""
    reason: str = ""
    at_fault: bool = False
    time: float


@dataclass(frozen=True, slots=True)
class AttemptFiles:
    """Where the records and logs of one attempt lie."""

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
        """Its presence tells every node to dump the stacks of its ranks and end."""
        return self.folder / f"attempt-{self.attempt}.hang"

    def log(self, rank: int) -> Path:
        """What the ranks of a machine printed; that of machine 0 is the attempt's own log."""
        return (
            self.run.log(self.attempt)
            if rank == 0
            else self.run.logs / f"attempt-{self.attempt}.node-{rank}.log"
        )

    def write(self, path: Path, record: Contract) -> None:
        """Store a record, whole or not at all."""
        self.folder.mkdir(exist_ok=True)
        write_atomic(path, record.to_json())

    def node_ends(self) -> list[NodeEnd]:
        """Of the nodes that have ended, by machine rank."""
        found = self.folder.glob(f"attempt-{self.attempt}.node-*.json")
        return sorted(map(NodeEnd.read, found), key=lambda end: end.rank)


@dataclass(frozen=True, slots=True)
class JobAttempt:
    """One attempt; ``end`` is ``None`` while it runs, and where Slurm ended the whole job."""

    start: AttemptStart
    end: AttemptEnd | None


def read_attempts(run: RunDir) -> list[JobAttempt]:
    """Every attempt that was made as a Slurm job, oldest first."""
    found = []
    for number in range(1, run.attempt + 1):
        files = AttemptFiles(run, number)
        if files.start.is_file():
            end = AttemptEnd.read(files.end) if files.end.is_file() else None
            found.append(JobAttempt(AttemptStart.read(files.start), end))
    return found


def newest_step(run: RunDir) -> int:
    """Of the newest committed checkpoint, by name only; 0 before the first."""
    return max((int(path.name.rpartition("-")[2]) for path in run.committed()), default=0)


def give_up(attempts: Sequence[JobAttempt], job: str, *, max_restarts: int) -> str | None:
    """Why ``job`` must not be tried again, or ``None``.

    Counts the attempts of this job since the last one that left a new checkpoint.
    """
    crashes = interruptions = 0
    for attempt in reversed(attempts):
        if attempt.start.job != job or attempt.end is None or attempt.end.step > attempt.start.step:
            break
        crashes += attempt.end.outcome is AttemptOutcome.CRASHED
        interruptions += attempt.end.outcome is AttemptOutcome.INTERRUPTED
    if crashes > max_restarts:
        return f"crashed {crashes} times in a row without a new checkpoint (max_restarts is {max_restarts})"
    if interruptions > MAX_FRUITLESS_INTERRUPTIONS:
        return (
            f"interrupted {interruptions} times in a row before it could save a new checkpoint; "
            "give it more time, or save more often (checkpoint.every_steps)"
        )
    return None


def first_failure(ends: Sequence[NodeEnd], nodes: Sequence[str]) -> NodeEnd | None:
    """The node that an attempt without a verdict failed on.

    A node that has left no word was lost with all its processes; else it is the first that failed.
    """
    told = {end.rank for end in ends}
    lost = [rank for rank in range(len(nodes)) if rank not in told]
    failed = sorted((end for end in ends if end.status), key=lambda end: (not end.at_fault, end.time))
    if lost and ends:
        reason = "its processes vanished without a word"
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
