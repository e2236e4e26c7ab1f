"""Preflight checks of what a partition admits and of kinds of GPUs. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gemfit.schemas.check import CheckResult, error, warning
from gemfit.schemas.site import Site
from gemfit_launch.planning.node_range import NodeRange
from gemfit_launch.slurm.cluster.cluster import Admission, Cluster, Node, Partition
from gemfit_launch.slurm.cluster.preflight_limits import ABOUT
from gemfit_launch.slurm.cluster.scontrol_text import is_mig, megabytes


def check_admission(
    site: Site, nodes: NodeRange, partition: Partition, cluster: Cluster
) -> Iterator[CheckResult]:
    """Limits per job and node of the partition, and the accounts and QOS that it accepts."""
    for about, found in _refusals(site, nodes, partition):
        yield error(ABOUT, about, f"{found}; {cluster.refusal}")


def _refusals(site: Site, nodes: NodeRange, partition: Partition) -> Iterator[tuple[str, str]]:
    name = partition.name
    if nodes.largest < partition.min_nodes:
        yield "nodes", f"{nodes} requested, and {name} takes jobs of {partition.min_nodes} nodes or more"
    cpus, most = site.cpus_per_node, partition.max_cpus_per_node
    if cpus is not None and most is not None and cpus > most:
        yield "CPUs", f"{cpus} per node, and {name} allows {most} (MaxCPUsPerNode)"
    memory, most = megabytes(site.memory or ""), partition.max_memory_per_node
    if memory is not None and most is not None and memory > most:
        yield "memory", f"{site.memory} per node, and {name} allows {most}M (MaxMemPerNode)"
    for about, wanted, admission in (
        ("account", site.account, partition.accounts),
        ("qos", site.qos, partition.qos),
    ):
        if wanted is not None and not admission.admits(wanted):
            yield about, f"{name} does not accept {wanted}{_others(admission)}"


def _others(admission: Admission) -> str:
    return f"; it accepts {', '.join(admission.allowed)}" if admission.allowed is not None else ""


def check_gpu_kinds(site: Site, nodes: Sequence[Node]) -> Iterator[CheckResult]:
    """Slices of a GPU, and nodes of a partition with different GPUs."""
    if not site.gpus_per_node:
        return
    if site.gpu_kind is not None:
        if is_mig(site.gpu_kind) and site.gpus_per_node > 1:
            yield error(
                ABOUT,
                "GPUs",
                f"{site.gpus_per_node} MIG slices ({site.gpu_kind}): NCCL joins no two slices of one GPU",
                "set gpus_per_node to 1, or name whole GPUs",
            )
        return
    kinds = sorted({kind for node in nodes for kind in node.gpus if kind})
    if any(map(is_mig, kinds)):
        yield warning(
            ABOUT, "GPUs", f"a job may get MIG slices: kinds are {', '.join(kinds)}", "set gpu_kind"
        )
    elif len(kinds) > 1:
        yield warning(ABOUT, "GPUs", f"a job may get GPUs of any kind: {', '.join(kinds)}", "set gpu_kind")
