"""Preflight checks of a job against the cluster, before it is submitted. Pure: the cluster is a value.

An error keeps the job from starting or from being requeued; a warning may cost work.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from gemfit.errors import did_you_mean
from gemfit.schemas.check import CheckResult, error, ok, warning
from gemfit.schemas.plan import Plan
from gemfit.schemas.site import Site
from gemfit_launch.planning.node_range import NodeRange
from gemfit_launch.slurm.cluster.cluster import Cluster, Node, Partition, named_partitions
from gemfit_launch.slurm.cluster.preflight_limits import ABOUT, Pace, check_preemption, check_time
from gemfit_launch.slurm.cluster.preflight_pack import check_pack_partition
from gemfit_launch.slurm.cluster.preflight_partition import check_admission, check_gpu_kinds
from gemfit_launch.slurm.cluster.scontrol_text import megabytes
from gemfit_launch.slurm.sites.planned_site import site_of
from gemfit_launch.slurm.states import NodeUse


def examine(
    plan: Plan, cluster: Cluster, pace: Pace | None, *, resolves: Callable[[str], bool]
) -> list[CheckResult]:
    """All checks of this plan on this cluster; ``resolves`` looks up a host name.

    Of several partitions each is checked, and named in the results: a job may start in any.
    """
    site = site_of(plan)
    names = named_partitions(site.partition, cluster.partitions)
    if not names:
        return [
            error(
                ABOUT, "partition", "the site names none, and the cluster has no default", "set `partition`"
            )
        ]
    results = []
    for name in names:
        place = f" ({name})" if len(names) > 1 else ""
        for result in _examine_in(name, plan, cluster, pace, resolves=resolves):
            results.append(result.model_copy(update={"name": f"{result.name}{place}"}))
    return [*results, *check_pack_partition(site, cluster)]


def _examine_in(
    name: str, plan: Plan, cluster: Cluster, pace: Pace | None, *, resolves: Callable[[str], bool]
) -> list[CheckResult]:
    """The checks of one partition."""
    site, partition = site_of(plan), cluster.partitions.get(name)
    if partition is None:
        known = ", ".join(cluster.partitions)
        hint = did_you_mean(name, cluster.partitions) or f"; there are: {known}"
        return [error(ABOUT, "partition", f"{cluster.name} has no partition {name}{hint}")]
    nodes = cluster.nodes_of(name)
    return [
        _partition(partition),
        _enough(plan, partition, nodes, cluster),
        # Too few nodes at all are reported once, above.
        *_shape(site, min(NodeRange.of(plan).smallest, len(nodes)), nodes),
        *_hosts(nodes, resolves, plan.topology.nodes),
        *_cpus(site, partition, cluster),
        *check_admission(site, NodeRange.of(plan), partition, cluster),
        *check_gpu_kinds(site, nodes),
        *check_time(site, partition, cluster, pace),
        *check_preemption(partition, cluster, pace),
    ]


def _partition(partition: Partition) -> CheckResult:
    if not partition.is_up:
        return error(
            ABOUT, "partition", f"{partition.name} is not up: jobs wait there until an administrator opens it"
        )
    return ok(ABOUT, "partition", partition.name)


def _enough(plan: Plan, partition: Partition, nodes: Sequence[Node], cluster: Cluster) -> CheckResult:
    asked, usable = NodeRange.of(plan), [node for node in nodes if node.accepts_jobs]
    wanted = asked.smallest
    if partition.max_nodes is not None and wanted > partition.max_nodes:
        return error(
            ABOUT,
            "nodes",
            f"{wanted} requested, and {partition.name} allows {partition.max_nodes} per job; "
            f"{cluster.refusal}",
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
    most = min(len(usable), partition.max_nodes or len(usable))
    if asked.largest > most:
        return warning(ABOUT, "nodes", f"{asked} requested, and a job gets at most {most} now")
    return ok(ABOUT, "nodes", f"{asked} of {len(usable)} that accept jobs")


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


def _cpus(site: Site, partition: Partition, cluster: Cluster) -> Iterator[CheckResult]:
    """Without a number of CPUs, Slurm gives a job one per node."""
    asks = site.cpus_per_node is not None or {"exclusive", "cpus-per-gpu"} & set(site.extra)
    gets = partition.has_whole_nodes or not cluster.allocates_cpus
    if asks or gets or (site.gpus_per_node and partition.has_cpus_per_gpu):
        return
    if site.gpus_per_node or site.ranks > 1:
        ranks = f"{site.ranks} GPUs" if site.gpus_per_node else f"{site.ranks} ranks"
        best = max((node.cpus for node in cluster.nodes_of(partition.name)), default=0)
        yield warning(
            ABOUT,
            "CPUs",
            f"the site names no number, so the {ranks} of a node share one CPU",
            f"set cpus_per_node (nodes have up to {best})",
        )
