"""Preflight checks of a job against the cluster, before it is submitted. Pure: the cluster is a value.

An error keeps the job from starting or from being requeued; a warning may cost work.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from gemfit.errors import did_you_mean
from gemfit.schemas.check import CheckResult, error, ok, warning
from gemfit.schemas.plan import Plan
from gemfit.schemas.site import Site
from gemfit_launch.slurm.cluster.cluster import Cluster, Node, Partition, megabytes
from gemfit_launch.slurm.durations import seconds
from gemfit_launch.slurm.sites.planned_site import site_of
from gemfit_launch.slurm.states import NodeUse

ABOUT = "cluster"
MARGIN_SECONDS = 60
"""Slurm checks time limits every 30 seconds, and signals up to a minute early or late."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """Step and save times of an earlier run, and its checkpoint size."""

    step_seconds: float
    save_seconds: float
    checkpoint_bytes: int

    @property
    def stop_seconds(self) -> float:
        """Worst case from a stop request until the checkpoint is saved."""
        return self.step_seconds + self.save_seconds


def examine(
    plan: Plan, cluster: Cluster, pace: Pace | None, *, resolves: Callable[[str], bool]
) -> list[CheckResult]:
    """All checks of this plan on this cluster; ``resolves`` looks up a host name."""
    site = site_of(plan)
    name = site.partition or cluster.default_partition
    if name is None:
        return [
            error(
                ABOUT, "partition", "the site names none, and the cluster has no default", "set `partition`"
            )
        ]
    partition = cluster.partitions.get(name)
    if partition is None:
        known = ", ".join(cluster.partitions)
        hint = did_you_mean(name, cluster.partitions) or f"; there are: {known}"
        return [error(ABOUT, "partition", f"{cluster.name} has no partition {name}{hint}")]
    nodes = cluster.nodes_of(name)
    return [
        _partition(partition),
        _enough(plan, partition, nodes),
        # Too few nodes at all are reported once, above.
        *_shape(site, min(plan.topology.nodes, len(nodes)), nodes),
        *_hosts(nodes, resolves, plan.topology.nodes),
        *_time(site, partition, pace),
        *_preemption(site, partition, cluster, pace),
    ]


def _partition(partition: Partition) -> CheckResult:
    if not partition.is_up:
        return error(
            ABOUT, "partition", f"{partition.name} is not up: jobs wait there until an administrator opens it"
        )
    return ok(ABOUT, "partition", partition.name)


def _enough(plan: Plan, partition: Partition, nodes: Sequence[Node]) -> CheckResult:
    wanted, usable = plan.topology.nodes, [node for node in nodes if node.accepts_jobs]
    if partition.max_nodes is not None and wanted > partition.max_nodes:
        return error(
            ABOUT,
            "nodes",
            f"{wanted} requested, and {partition.name} allows {partition.max_nodes} per job",
        )
    if wanted > len(nodes):
        return error(ABOUT, "nodes", f"{wanted} requested, and {partition.name} has {len(nodes)}")
    if wanted > len(usable):
        states = ", ".join(f"{node.name} {node.state.text}" for node in nodes if not node.accepts_jobs)
        found = f"{wanted} requested, and {len(usable)} of {partition.name} accept jobs ({states})"
        unclear = sum(node.state.accepts_jobs is NodeUse.UNKNOWN for node in nodes)
        if wanted <= len(usable) + unclear:
            return warning(ABOUT, "nodes", f"{found}; gemfit does not know all of these states")
        return error(ABOUT, "nodes", found)
    return ok(ABOUT, "nodes", f"{wanted} of {len(usable)} that accept jobs")


def _shape(site: Site, wanted: int, nodes: Sequence[Node]) -> Iterator[CheckResult]:
    """Requirements on each node; one that too few nodes meet is an error of its own."""
    for about, text, meets in _requirements(site):
        count = sum(meets(node) for node in nodes)
        if count >= wanted:
            yield ok(ABOUT, about, text)
        else:
            best = _best(about, nodes)
            yield error(
                ABOUT, about, f"{text}: {count} of {len(nodes)} nodes have that, {wanted} requested{best}"
            )


def _requirements(site: Site) -> Iterator[tuple[str, str, Callable[[Node], bool]]]:
    if site.gpus_per_node and site.gpu_kind is not None:
        kind, count = site.gpu_kind, site.gpus_per_node
        yield "GPUs", f"{count} of kind {kind} per node", lambda node: node.gpus.get(kind, 0) >= count
    elif site.gpus_per_node:
        yield "GPUs", f"{site.gpus_per_node} per node", lambda node: node.num_gpus >= site.gpus_per_node
    if (cpus := site.cpus_per_node) is not None:
        yield "CPUs", f"{cpus} per node", lambda node: node.cpus >= cpus
    if site.memory is not None and (size := megabytes(site.memory)) is not None:
        yield "memory", f"{site.memory} per node", lambda node: node.memory_megabytes >= size
    for feature in re.findall(r"[\w.-]+", site.constraint or "") if _is_plain(site.constraint) else []:
        yield "constraint", feature, lambda node, feature=feature: feature in node.features  # type: ignore[misc]


def _is_plain(constraint: str | None) -> bool:
    """Whether all features are required; alternatives are left to Slurm."""
    return constraint is not None and re.fullmatch(r"[\w.-]+([&,][\w.-]+)*", constraint) is not None


def _best(about: str, nodes: Sequence[Node]) -> str:
    """What the nodes have instead, as the end of a sentence."""
    match about:
        case "GPUs":
            kinds = {f"{count} {kind or 'GPUs'}" for node in nodes for kind, count in node.gpus.items()}
            return f"; nodes have {' or '.join(sorted(kinds)) or 'no GPU'}"
        case "CPUs":
            return f"; at most {max((node.cpus for node in nodes), default=0)}"
        case "memory":
            return f"; at most {max((node.memory_megabytes for node in nodes), default=0)}M"
        case _:
            features = sorted({feature for node in nodes for feature in node.features})
            return f"; features: {', '.join(features) or 'none'}"


def _hosts(nodes: Sequence[Node], resolves: Callable[[str], bool], wanted: int) -> Iterator[CheckResult]:
    """Ranks of several nodes rendezvous at the address of the first."""
    if wanted < 2:
        return
    lost = [node.name for node in nodes if not resolves(node.address)]
    if lost:
        yield error(
            ABOUT,
            "addresses",
            f"{', '.join(lost)}: the name does not resolve here, so ranks could not rendezvous",
        )
    else:
        yield ok(ABOUT, "addresses", f"those of {len(nodes)} nodes resolve")


def _time(site: Site, partition: Partition, pace: Pace | None) -> Iterator[CheckResult]:
    limit = seconds(site.time) if site.time is not None else partition.max_seconds
    if site.time is not None and limit is None:
        yield error(ABOUT, "time", f"{site.time} is not a time in the format of sbatch, such as 1-00:00:00")
        return
    if limit is None:
        yield ok(ABOUT, "time", "no limit")
        return
    longest = partition.max_seconds
    if longest is not None and limit > longest:
        yield error(ABOUT, "time", f"{site.time} is longer than {partition.name} allows ({longest} seconds)")
    elif site.signal_lead_seconds + MARGIN_SECONDS >= limit:
        yield error(
            ABOUT,
            "time",
            f"signal_lead_seconds is {site.signal_lead_seconds}, and the time limit only {limit} seconds",
        )
    else:
        yield ok(ABOUT, "time", f"{limit} seconds, signalled to save {site.signal_lead_seconds} before")
    if pace is not None and pace.stop_seconds + MARGIN_SECONDS > site.signal_lead_seconds:
        needed = round(pace.stop_seconds) + MARGIN_SECONDS
        yield error(
            ABOUT, "signal_lead_seconds", f"is {site.signal_lead_seconds}; a step and a save need {needed}"
        )


def _preemption(
    site: Site, partition: Partition, cluster: Cluster, pace: Pace | None
) -> Iterator[CheckResult]:
    if not partition.is_preemptible:
        return
    window = partition.grace_seconds + cluster.kill_wait_seconds
    text = f"{window} seconds from notice to kill (GraceTime {partition.grace_seconds})"
    if pace is None:
        yield ok(ABOUT, "preemption", f"{text}; --like RUN compares it with what a run took")
    elif pace.stop_seconds > window:
        yield warning(
            ABOUT,
            "preemption",
            f"{text}, but a step and a save take {pace.stop_seconds:.0f}: a preempted job goes back to "
            "its last checkpoint",
            "save more often (checkpoint.every_steps)",
        )
    else:
        yield ok(ABOUT, "preemption", f"{text}; a step and a save take {pace.stop_seconds:.0f}")
