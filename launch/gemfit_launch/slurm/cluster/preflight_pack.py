"""Preflight check of the job that packs the data. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from gemfit.errors import did_you_mean
from gemfit.schemas.check import CheckResult, error, ok
from gemfit.schemas.site import Site
from gemfit_launch.slurm.cluster.cluster import Cluster, named_partitions
from gemfit_launch.slurm.cluster.job_limit import job_limit
from gemfit_launch.slurm.cluster.preflight_limits import ABOUT
from gemfit_launch.slurm.states import NodeUse


def check_pack_partition(site: Site, cluster: Cluster) -> Iterator[CheckResult]:
    """The partitions in which a job without a GPU packs the data first."""
    if site.pack_partition is None:
        return
    for name in named_partitions(site.pack_partition, cluster.partitions):
        fault = _fault(name, site, cluster)
        yield error(ABOUT, "pack_partition", fault) if fault else ok(ABOUT, "pack_partition", name)


def _fault(name: str, site: Site, cluster: Cluster) -> str:
    """Why a packing job would not run there; empty where it would."""
    partition = cluster.partitions.get(name)
    if partition is None:
        return f"{cluster.name} has no partition {name}{did_you_mean(name, cluster.partitions)}"
    if not partition.is_up:
        return f"{name} is not up, so the data would not be packed"
    if not any(node.state.accepts_jobs is not NodeUse.NO for node in cluster.nodes_of(name)):
        return f"no node of {name} accepts jobs, so no data would be packed"
    limit, longest = job_limit(site, partition), partition.max_seconds
    if longest is not None and (limit.seconds is None or limit.seconds > longest):
        return f"{site.time or limit.source} is longer than {name} allows ({longest} seconds)"
    return ""
