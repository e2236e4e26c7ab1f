"""What scontrol says, as values; a first site from it; and what a preflight makes of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gemfit.config.overrides import build
from gemfit.config.yaml_source import parse
from gemfit.schemas.check import CheckResult
from gemfit.schemas.plan import Plan
from gemfit.schemas.site import Site
from gemfit_launch.slurm.cluster.cluster import (
    Cluster,
    Node,
    Partition,
    megabytes,
    pairs,
    parse_gpus,
    parse_node,
    parse_partition,
)
from gemfit_launch.slurm.cluster.generate_site import first_site
from gemfit_launch.slurm.cluster.preflight import Pace, examine
from gemfit_launch.slurm.states import parse_node_state
from gemfit_launch.slurm.submit.site_options import ranks_at

NODE = (
    "NodeName=g1 Arch=x86_64 CPUAlloc=0 CPUEfctv=62 CPUTot=64 AvailableFeatures=h100,nvlink "
    "Gres=gpu:h100:8(S:0-1),nvme:1 NodeAddr=10.0.0.1 NodeHostName=g1 OS=Linux 6.1 #1 SMP Debian "
    "RealMemory=1000000 State=MIXED+PLANNED Partitions=gpu,all Reason=it's odd [root@2026-01-01]"
)
PARTITION = (
    "PartitionName=gpu AllowAccounts=ALL Default=YES QoS=N/A GraceTime=120 MaxNodes=4 "
    "MaxTime=2-00:00:00 Nodes=g[1-4] PreemptMode=REQUEUE State=UP TotalNodes=4"
)


def gpu_node(name: str) -> Node:
    return replace(parse_node(NODE), name=name)


def cpu_node(name: str) -> Node:
    return replace(parse_node(NODE), name=name, gpus={}, features=(), partitions=("cpu",), cpus=32)


@pytest.fixture
def cluster() -> Cluster:
    """Four GPU nodes whose jobs may be preempted, and two without a GPU."""
    gpu = parse_partition(PARTITION, "REQUEUE")
    cpu = replace(gpu, name="cpu", is_default=False, is_preemptible=False, max_nodes=None, max_seconds=None)
    nodes = (*map(gpu_node, ("g1", "g2", "g3", "g4")), cpu_node("c1"), cpu_node("c2"))
    return Cluster(
        settings={"ClusterName": "big", "KillWait": "30 sec"},
        partitions={"gpu": gpu, "cpu": cpu},
        nodes=nodes,
    )


def test_a_node_is_read_with_kinds_of_gpus_features_and_usable_cpus() -> None:
    node = parse_node(NODE)
    assert (node.cpus, node.memory_megabytes, node.gpus) == (62, 1_000_000, {"h100": 8})
    assert (node.features, node.partitions) == (("h100", "nvlink"), ("gpu", "all"))
    assert node.accepts_jobs


def test_a_partition_is_read_with_its_limits() -> None:
    partition = parse_partition(PARTITION, "REQUEUE")
    assert (partition.max_nodes, partition.max_seconds, partition.grace_seconds) == (4, 172_800, 120)
    assert partition.is_default
    assert partition.is_preemptible
    assert not parse_partition(PARTITION, "OFF").is_preemptible


def test_values_with_blanks_stay_whole() -> None:
    assert pairs(NODE)["OS"] == "Linux 6.1 #1 SMP Debian"
    assert pairs(NODE)["Reason"] == "it's odd [root@2026-01-01]"


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [
        (("gpu:2",), {"": 2}),
        (("gpu:a100:4(S:0)", "gpu:h100:8"), {"a100": 4, "h100": 8}),
        (("nvme:1",), {}),
        (("gpu:a100_1g.5gb:7",), {"a100_1g.5gb": 7}),
        ((), {}),
    ],
)
def test_gres_is_counted_by_kind(gres: tuple[str, ...], gpus: dict[str, int]) -> None:
    assert parse_gpus(gres) == gpus


@pytest.mark.parametrize(
    ("text", "size"), [("500G", 512_000), ("4000", 4000), ("4000M", 4000), ("1T", 1_048_576), ("all", None)]
)
def test_memory_is_read_as_sbatch_takes_it(text: str, size: int | None) -> None:
    assert megabytes(text) == size


def test_the_first_site_describes_the_default_partition(cluster: Cluster) -> None:
    text = first_site(cluster, None)
    site = build(Site, parse(f"name: x\n{text}", "first"))
    assert (site.partition, site.gpus_per_node, site.gpu_kind, site.cpus_per_node) == ("gpu", 8, "h100", 62)
    assert (site.memory, site.time, site.pack_partition) == ("1000000M", "2-00:00:00", "cpu")
    assert "150 seconds to save" in text


def test_the_first_site_of_a_partition_without_gpus_trains_on_cpus(cluster: Cluster) -> None:
    site = build(Site, parse(f"name: x\n{first_site(cluster, 'cpu')}", "first"))
    assert (site.partition, site.gpus_per_node, site.ranks, site.time) == ("cpu", 0, 1, None)


def planned(plan: Plan, nodes: int = 2, **site: Any) -> Plan:
    made = Site.model_validate({"name": "big", "partition": "gpu", "gpus_per_node": 8, **site})
    return plan.model_copy(update={"site": made, "topology": ranks_at(made, nodes)})


def errors(results: list[CheckResult]) -> list[tuple[str, str]]:
    return [(result.name, result.found) for result in results if result.state == "error"]


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


@pytest.mark.parametrize(("save", "state"), [(10.0, "ok"), (200.0, "warning")])
def test_notice_before_preemption_is_compared_with_a_step_and_a_save(
    save: float, state: str, plan: Plan, cluster: Cluster
) -> None:
    pace = Pace(step_seconds=5.0, save_seconds=save, checkpoint_bytes=1)
    results = examine(planned(plan), cluster, pace, resolves=lambda host: True)
    found = {result.name: result for result in results}
    assert found["preemption"].state == state
    assert "150 seconds" in found["preemption"].found


def test_a_signal_that_comes_too_late_to_save_is_an_error(plan: Plan, cluster: Cluster) -> None:
    pace = Pace(step_seconds=100.0, save_seconds=200.0, checkpoint_bytes=1)
    found = errors(examine(planned(plan, time="1-0"), cluster, pace, resolves=lambda host: True))
    assert found == [("signal_lead_seconds", "is 300; a step and a save need 360")]
