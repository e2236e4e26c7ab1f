"""Preflight checks of a plan against the nodes of its partition."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gemfit.schemas.plan import Plan
from gemfit_launch.slurm.cluster.cluster import (
    Cluster,
    Partition,
)
from gemfit_launch.slurm.cluster.preflight import examine
from gemfit_launch.slurm.states import parse_node_state
from launch.slurm_cluster.preflight_cases import errors, planned


@pytest.mark.parametrize(
    ("counts", "found"),
    [
        ((1, 2), None),
        ((2, 5), "a job gets at most"),  # more than there are: the smaller ones can start
        ((5, 6), "5 requested, and"),
    ],
)
def test_a_range_needs_its_smallest_number_of_nodes(
    counts: tuple[int, ...], found: str | None, plan: Plan, cluster: Cluster
) -> None:
    made = planned(plan, counts[-1]).model_copy(update={"node_counts": counts})
    results = examine(made, cluster, None, resolves=lambda name: True)
    (nodes,) = [result for result in results if result.name == "nodes"]
    assert nodes.state == ("ok" if found is None else "warning" if counts[0] == 2 else "error")
    assert found is None or found in nodes.found


def test_a_plan_that_fits_has_no_error(plan: Plan, cluster: Cluster) -> None:
    site: dict[str, Any] = {
        "gpu_kind": "h100",
        "cpus_per_node": 62,
        "memory": "900G",
        "time": "1-0",
        "constraint": "h100&nvlink",
    }
    results = examine(planned(plan, **site), cluster, None, resolves=lambda host: True)
    assert errors(results) == []
    assert len(results) >= 9


@pytest.mark.parametrize(
    ("nodes", "site", "about", "words"),
    [
        (2, {"partition": "gpuu"}, "partition", "did you mean 'gpu'"),
        (5, {}, "nodes", "allows 4 per job"),
        (3, {"partition": "cpu", "gpus_per_node": 0}, "nodes", "3 requested, and cpu has 2"),
        (2, {"gpu_kind": "a100"}, "GPUs", "nodes have 8 h100"),
        (2, {"gpus_per_node": 16}, "GPUs", "16 per node: 0 of 4"),
        (2, {"cpus_per_node": 64}, "CPUs", "at most 62"),
        (2, {"memory": "1T"}, "memory", "at most 1000000M"),
        (2, {"constraint": "h200"}, "constraint", "features: h100, nvlink"),
        (2, {"time": "3-00:00:00"}, "time", "longer than gpu allows"),
        (2, {"time": "5"}, "time", "the time limit only 300 seconds"),
        (2, {"time": "tomorrow"}, "time", "is not a time in the format of sbatch"),
    ],
)
def test_a_mistake_is_one_error_that_says_what_there_is(
    nodes: int, site: dict[str, Any], about: str, words: str, plan: Plan, cluster: Cluster
) -> None:
    found = errors(examine(planned(plan, nodes, **site), cluster, None, resolves=lambda host: True))
    assert [name for name, _ in found] == [about]
    assert words in found[0][1]


def test_names_without_an_address_are_an_error_only_where_nodes_must_meet(
    plan: Plan, cluster: Cluster
) -> None:
    for nodes, names in ((2, ["addresses"]), (1, [])):
        found = errors(examine(planned(plan, nodes), cluster, None, resolves=lambda host: False))
        assert [name for name, _ in found] == names


def test_alternatives_in_a_constraint_are_left_to_slurm(plan: Plan, cluster: Cluster) -> None:
    results = examine(planned(plan, constraint="h100|h200"), cluster, None, resolves=lambda host: True)
    assert "constraint" not in [result.name for result in results]


def test_a_partition_that_is_down_and_drained_nodes_are_reported(plan: Plan, cluster: Cluster) -> None:
    down: Partition = replace(cluster.partitions["gpu"], is_up=False)
    drained = tuple(replace(node, state=parse_node_state("IDLE+DRAIN")) for node in cluster.nodes[:3])
    ill = replace(cluster, partitions={"gpu": down}, nodes=(*drained, *cluster.nodes[3:]))
    found = dict(errors(examine(planned(plan), ill, None, resolves=lambda host: True)))
    assert "not up" in found["partition"]
    assert "1 of gpu accept jobs (g1 IDLE+DRAIN" in found["nodes"]


def test_nodes_in_a_state_that_is_not_in_the_table_are_a_warning(plan: Plan, cluster: Cluster) -> None:
    strange = tuple(replace(node, state=parse_node_state("IDLE+LEASED")) for node in cluster.nodes)
    results = examine(planned(plan), replace(cluster, nodes=strange), None, resolves=lambda host: True)
    (found,) = [result for result in results if result.name == "nodes"]
    assert found.state == "warning"
    assert "g1 IDLE+LEASED" in found.found


@pytest.mark.parametrize(
    ("site", "partition", "settings", "state"),
    [
        ({}, {}, {}, "warning"),
        ({"cpus_per_node": 8}, {}, {}, "ok"),
        ({"extra": {"exclusive": ""}}, {}, {}, None),
        ({"extra": {"cpus-per-gpu": "8"}}, {}, {}, None),
        ({}, {"has_whole_nodes": True}, {}, None),
        ({}, {"has_cpus_per_gpu": True}, {}, None),
        ({}, {}, {"SelectType": "select/linear"}, None),
    ],
)
def test_a_gpu_job_that_would_get_one_cpu_is_a_warning(
    site: dict[str, Any],
    partition: dict[str, Any],
    settings: dict[str, str],
    state: str | None,
    plan: Plan,
    cluster: Cluster,
) -> None:
    gpu = replace(cluster.partitions["gpu"], **partition)
    changed = replace(cluster, settings=cluster.settings | settings, partitions={"gpu": gpu})
    results = examine(planned(plan, **site), changed, None, resolves=lambda host: True)
    assert [result.state for result in results if result.name == "CPUs"] == ([] if state is None else [state])
