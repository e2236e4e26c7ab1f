"""Preflight check of the job that packs the data. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from gemfit.errors import did_you_mean
from gemfit.schemas.check import CheckResult, error, ok
from gemfit.schemas.site import Site
from gemfit_launch.slurm.cluster.cluster import Cluster
from gemfit_launch.slurm.cluster.preflight_limits import ABOUT
from gemfit_launch.slurm.durations import seconds
from gemfit_launch.slurm.states import NodeUse


def check_pack_partition(site: Site, cluster: Cluster) -> Iterator[CheckResult]:
    """The partition in which a job without a GPU packs the data first."""
    if site.pack_partition is None:
        return
    partition, about = cluster.partitions.get(site.pack_partition), "pack_partition"
    if partition is None:
        hint = did_you_mean(site.pack_partition, cluster.partitions)
        yield error(ABOUT, about, f"{cluster.name} has no partition {site.pack_partition}{hint}")
        return
    limit, longest = seconds(site.time or ""), partition.max_seconds
    if not partition.is_up:
        yield error(ABOUT, about, f"{partition.name} is not up, so the data would not be packed")
    elif not any(node.state.accepts_jobs is not NodeUse.NO for node in cluster.nodes_of(partition.name)):
        yield error(ABOUT, about, f"no node of {partition.name} accepts jobs, so no data would be packed")
    elif longest is not None and limit is not None and limit > longest:
        yield error(
            ABOUT,
            about,
            f"{site.time} is longer than {partition.name} allows ({longest} seconds)",
        )
    else:
        yield ok(ABOUT, about, partition.name)
