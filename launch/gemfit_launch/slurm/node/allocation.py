"""Nodes of the job's allocation: on which the next attempt trains, which stay idle, which are at fault."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from gemfit.errors import UserError
from gemfit.schemas.plan import Plan
from gemfit_launch.planning.node_range import NodeRange, counted, rows_each
from gemfit_launch.slurm.cluster import requeue
from gemfit_launch.slurm.node.requeue_job import restart_count
from gemfit_launch.slurm.records.job_attempts import JobAttempt


@dataclass(frozen=True, slots=True)
class Allocation:
    """Nodes that Slurm has given to the job of this process."""

    nodes: tuple[str, ...]
    at_fault: tuple[str, ...] = ()
    """Those that have failed since Slurm gave them."""

    @classmethod
    def of_this_job(cls, attempts: Sequence[JobAttempt]) -> Allocation:
        """The nodes of this job, by its environment and the records of its attempts."""
        here = os.environ["SLURM_JOB_ID"], restart_count()
        failed = [
            attempt.end.node
            for attempt in attempts
            if (attempt.start.job, attempt.start.restarts) == here
            and attempt.end is not None
            and attempt.end.at_fault
            and attempt.end.node is not None
        ]
        nodes = requeue.host_names(os.environ["SLURM_JOB_NODELIST"])
        return cls(nodes, tuple(dict.fromkeys(failed)))

    def used_by(self, plan: Plan) -> tuple[str, ...]:
        """Nodes for the next attempt: as many as ``plan`` can use, without those at fault.

        Empty where too few are left. The batch script runs on the first node, which has to be among them.
        """
        sound = [node for node in self.nodes if node not in self.at_fault]
        counts = [count for count in plan.node_counts or (plan.topology.nodes,) if count <= len(sound)]
        return tuple(sound[: counts[-1]]) if counts and sound[0] == self.nodes[0] else ()


def check_size(plan: Plan, allocation: Allocation) -> None:
    """``UserError`` where Slurm has given another number of nodes than the job has asked for."""
    given = len(allocation.nodes)
    if plan.node_counts and given < plan.node_counts[0]:
        raise UserError(f"the run needs {plan.node_counts[0]} nodes or more, and the job has {given}")
    if not plan.node_counts and given != plan.topology.nodes:
        planned = counted(plan.topology.nodes, plan.topology.nodes)
        raise UserError(f"the run is planned for {planned}, and the job has {given}")


def describe_size(plan: Plan, idle: Sequence[str], at_fault: Sequence[str]) -> str:
    """How an attempt uses the nodes of the job, for its log."""
    batch, accumulation = plan.batch, plan.batch.gradient_accumulation_steps
    text = (
        f"{plan.topology.nodes} of {NodeRange.of(plan)} nodes: {rows_each(batch.slots // batch.data_ranks)} "
        f"for each rank, in {accumulation} gradient accumulation step{'s' if accumulation > 1 else ''}"
    )
    if batch.idle:
        text += f", {batch.idle} of {batch.slots} slots of each step are idle"
    failed = [node for node in idle if node in at_fault]
    spare = [node for node in idle if node not in at_fault]
    text += f"; {', '.join(failed)} failed before" if failed else ""
    return text + (f"; {', '.join(spare)} idle: no fewer rows for each rank with them" if spare else "")
