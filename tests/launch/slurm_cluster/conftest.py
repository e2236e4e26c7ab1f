"""A cluster as scontrol shows it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gemfit_launch.slurm.cluster.cluster import (
    Cluster,
    parse_partition,
)
from launch.slurm_cluster.preflight_cases import PARTITION, REQUEUE, cpu_node, gpu_node


@pytest.fixture
def cluster() -> Cluster:
    """Four GPU nodes whose jobs may be preempted, and two without a GPU."""
    gpu = parse_partition(PARTITION, REQUEUE)
    cpu = replace(gpu, name="cpu", is_default=False, preemption="off", max_nodes=None, max_seconds=None)
    nodes = (*map(gpu_node, ("g1", "g2", "g3", "g4")), cpu_node("c1"), cpu_node("c2"))
    return Cluster(
        settings={"ClusterName": "big", "KillWait": "30 sec"},
        partitions={"gpu": gpu, "cpu": cpu},
        nodes=nodes,
    )
