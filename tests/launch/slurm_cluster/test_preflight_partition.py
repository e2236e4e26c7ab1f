"""Preflight checks of what a partition admits, of kinds of GPUs, and of the partition of the packing job."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gemfit.schemas.plan import Plan
from gemfit_launch.slurm.cluster.cluster import (
    Cluster,
    parse_partition,
)
from gemfit_launch.slurm.cluster.preflight import examine
from launch.slurm_cluster.preflight_cases import PARTITION, REQUEUE, errors, gpu_node, planned


@pytest.mark.parametrize(
    ("site", "words"),
    [
        ({"pack_partition": "cpuu"}, "did you mean 'cpu'"),
        ({"pack_partition": "cpu", "time": "1-0"}, "longer than cpu allows (3600 seconds)"),
        ({"pack_partition": "down"}, "is not up"),
        ({"pack_partition": "cpu,down", "time": "30"}, "down is not up"),
    ],
)
def test_the_partition_of_the_packing_job_is_checked(
    site: dict[str, Any], words: str, plan: Plan, cluster: Cluster
) -> None:
    cpu = replace(cluster.partitions["cpu"], max_seconds=3600)
    partitions = {**cluster.partitions, "cpu": cpu, "down": replace(cpu, name="down", is_up=False)}
    found = errors(
        examine(
            planned(plan, **site), replace(cluster, partitions=partitions), None, resolves=lambda host: True
        )
    )
    assert [name for name, _ in found] == ["pack_partition"]
    assert words in found[0][1]


def test_each_of_several_partitions_is_checked_and_named(plan: Plan, cluster: Cluster) -> None:
    short = replace(cluster.partitions["gpu"], name="short", max_seconds=3600)
    nodes = tuple(replace(node, partitions=(*node.partitions, "short")) for node in cluster.nodes)
    both = replace(cluster, partitions={**cluster.partitions, "short": short}, nodes=nodes)
    results = examine(planned(plan, partition="gpu,short"), both, None, resolves=lambda host: True)
    assert errors(results) == []
    names = [result.name for result in results]
    assert "time (gpu)" in names
    assert "time (short)" in names
    found = errors(
        examine(planned(plan, partition="gpu, short,x", time="1-0"), both, None, resolves=lambda h: True)
    )
    assert [name for name, _ in found] == ["time (short)", "partition (x)"]


ADMITTING = (
    f"{PARTITION} MinNodes=2 MaxCPUsPerNode=32 MaxMemPerNode=500000 AllowQos=normal,long DenyAccounts=guests"
)


@pytest.mark.parametrize(
    ("site", "nodes", "found"),
    [
        ({}, 2, None),
        ({}, 1, ("nodes", "1 requested, and gpu takes jobs of 2 nodes or more")),
        ({"cpus_per_node": 32}, 2, None),
        ({"cpus_per_node": 33}, 2, ("CPUs", "33 per node, and gpu allows 32 (MaxCPUsPerNode)")),
        ({"memory": "0"}, 2, None),
        ({"memory": "501G"}, 2, ("memory", "501G per node, and gpu allows 500000M (MaxMemPerNode)")),
        ({"qos": "Long", "account": "lab"}, 2, None),
        ({"qos": "debug"}, 2, ("qos", "gpu does not accept debug; it accepts normal, long")),
        ({"account": "Guests"}, 2, ("account", "gpu does not accept Guests")),
    ],
)
@pytest.mark.parametrize(
    ("enforced", "follows"),
    [
        ("NO", "Slurm takes such a job, which then waits for ever (EnforcePartLimits=NO)"),
        ("ALL", "sbatch refuses such a job"),
        ("ANY", "sbatch refuses such a job"),
    ],
)
def test_limits_of_a_partition_are_errors_with_what_follows(
    site: dict[str, str],
    nodes: int,
    found: tuple[str, str] | None,
    enforced: str,
    follows: str,
    plan: Plan,
    cluster: Cluster,
) -> None:
    settings = cluster.settings | {"EnforcePartLimits": enforced}
    partitions = cluster.partitions | {"gpu": parse_partition(ADMITTING, REQUEUE)}
    limited = replace(cluster, settings=settings, partitions=partitions)
    results = examine(planned(plan, nodes, **site), limited, None, resolves=lambda host: True)
    wanted = [] if found is None else [(found[0], f"{found[1]}; {follows}")]
    assert errors(results) == wanted


@pytest.mark.parametrize(
    ("gpus", "site", "state"),
    [
        ({"h100": 8}, {"gpu_kind": "h100"}, None),
        ({"h100": 8}, {}, None),
        ({"h100": 4, "a100": 4}, {}, "warning"),
        ({"h100": 4, "a100": 4}, {"gpu_kind": "a100", "gpus_per_node": 4}, None),
        ({"h100": 2, "1g.10gb": 7}, {"gpus_per_node": 2}, "warning"),
        ({"h100": 2, "1g.10gb": 7}, {"gpu_kind": "1g.10gb", "gpus_per_node": 7}, "error"),
        ({"h100": 2, "1g.10gb": 7}, {"gpu_kind": "1g.10gb", "gpus_per_node": 1}, None),
        ({"h100": 2, "1g.10gb": 7}, {"gpu_kind": "h100", "gpus_per_node": 2}, None),
    ],
)
def test_gpus_of_several_kinds_and_slices(
    gpus: dict[str, int], site: dict[str, Any], state: str | None, plan: Plan, cluster: Cluster
) -> None:
    mixed = replace(cluster, nodes=tuple(replace(gpu_node(f"g{n}"), gpus=gpus) for n in range(1, 5)))
    results = examine(planned(plan, 2, **site), mixed, None, resolves=lambda host: True)
    found = [result.state for result in results if result.name == "GPUs" and result.state != "ok"]
    assert found == ([] if state is None else [state])
