"""A first site from what scontrol shows of a cluster."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gemfit.config.overrides import build
from gemfit.config.yaml_source import parse
from gemfit.schemas.plan import Plan
from gemfit.schemas.site import Site
from gemfit_launch.planning.topology import ranks_at
from gemfit_launch.slurm.cluster.cluster import (
    Cluster,
)
from gemfit_launch.slurm.cluster.generate_site import first_site
from gemfit_launch.slurm.cluster.preflight import examine
from launch.slurm_cluster.preflight_cases import errors


def test_the_first_site_describes_the_default_partition(cluster: Cluster) -> None:
    text = first_site(cluster, None)
    site = build(Site, parse(f"name: x\n{text}", "first"))
    assert (site.partition, site.gpus_per_node, site.gpu_kind, site.cpus_per_node) == ("gpu", 8, "h100", 62)
    assert (site.memory, site.time, site.pack_partition) == ("1000000M", "2-00:00:00", "cpu")
    assert "150 seconds to save" in text


def test_the_first_site_of_a_partition_without_gpus_trains_on_cpus(cluster: Cluster) -> None:
    site = build(Site, parse(f"name: x\n{first_site(cluster, 'cpu')}", "first"))
    assert (site.partition, site.gpus_per_node, site.ranks, site.time) == ("cpu", 0, 1, None)


def test_the_first_site_of_a_short_partition_passes_preflight(plan: Plan, cluster: Cluster) -> None:
    gpu = replace(cluster.partitions["gpu"], max_seconds=300)
    short = replace(cluster, partitions={"gpu": gpu})
    site = build(Site, parse(f"name: x\n{first_site(short, None)}", "first"))
    assert site.signal_lead_seconds == 100
    made = plan.model_copy(update={"site": site, "topology": ranks_at(site, 2)})
    assert errors(examine(made, short, None, resolves=lambda host: True)) == []


@pytest.mark.parametrize(
    "name", ["0123", "1e3", "1_000", "null", "true", "2080", "gpu", "3.10", "yes", "2024-01"]
)
def test_names_that_yaml_would_read_as_something_else_arrive(name: str, cluster: Cluster) -> None:
    gpu = replace(cluster.partitions["gpu"], name=name)
    node = replace(cluster.nodes[0], partitions=(name,), gpus={name: 4})
    text = first_site(replace(cluster, partitions={name: gpu}, nodes=(node,)), None)
    site = build(Site, parse(f"name: x\n{text}", "first"))
    assert (site.partition, site.gpu_kind) == (name, name)


def test_memory_that_the_cluster_does_not_know_is_not_asked_for(cluster: Cluster) -> None:
    text = first_site(replace(cluster, nodes=(replace(cluster.nodes[0], memory_megabytes=1),)), "gpu")
    assert build(Site, parse(f"name: x\n{text}", "first")).memory is None


def test_whole_gpus_come_before_mig_slices(cluster: Cluster) -> None:
    node = replace(cluster.nodes[0], gpus={"h100": 2, "1g.10gb": 7})
    text = first_site(replace(cluster, nodes=(node,)), "gpu")
    assert "gpus_per_node: 2\ngpu_kind: h100\n" in text
    assert "# MIG slices are not used: 7 1g.10gb\n" in text
    only = first_site(replace(cluster, nodes=(replace(node, gpus={"1g.10gb": 7}),)), "gpu")
    assert "gpus_per_node: 1\ngpu_kind: 1g.10gb\n" in only
