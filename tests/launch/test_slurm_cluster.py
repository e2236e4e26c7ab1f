"""What scontrol says, as values; a first site from it; and what a preflight makes of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gemfit.config.overrides import build
from gemfit.config.yaml_source import parse
from gemfit.schemas.check import CheckResult
from gemfit.schemas.plan import Plan, Topology
from gemfit.schemas.site import Site
from gemfit_launch.planning.request import Request
from gemfit_launch.planning.resolve import resolve_plan
from gemfit_launch.planning.topology import ranks_at
from gemfit_launch.slurm.cluster.cluster import (
    Cluster,
    Node,
    Partition,
    parse_node,
    parse_partition,
)
from gemfit_launch.slurm.cluster.generate_site import first_site
from gemfit_launch.slurm.cluster.preflight import examine
from gemfit_launch.slurm.cluster.preflight_limits import Pace
from gemfit_launch.slurm.cluster.preflight_local import predicted_pace
from gemfit_launch.slurm.cluster.scontrol_text import megabytes, pairs, parse_gpus
from gemfit_launch.slurm.states import parse_node_state

NODE = (
    "NodeName=g1 Arch=x86_64 CPUAlloc=0 CPUEfctv=62 CPUTot=64 AvailableFeatures=h100,nvlink "
    "Gres=gpu:h100:8(S:0-1),nvme:1 NodeAddr=10.0.0.1 NodeHostName=g1 OS=Linux 6.1 #1 SMP Debian "
    "RealMemory=1000000 State=MIXED+PLANNED Partitions=gpu,all Reason=it's odd [root@2026-01-01]"
)
PARTITION = (
    "PartitionName=gpu AllowAccounts=ALL Default=YES QoS=N/A GraceTime=120 MaxNodes=4 "
    "MaxTime=2-00:00:00 Nodes=g[1-4] PreemptMode=REQUEUE State=UP TotalNodes=4"
)


REQUEUE = {"PreemptMode": "REQUEUE"}


def gpu_node(name: str) -> Node:
    return replace(parse_node(NODE), name=name)


def cpu_node(name: str) -> Node:
    return replace(parse_node(NODE), name=name, gpus={}, features=(), partitions=("cpu",), cpus=32)


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


def test_a_node_is_read_with_kinds_of_gpus_features_and_usable_cpus() -> None:
    node = parse_node(NODE)
    assert (node.cpus, node.memory_megabytes, node.gpus) == (62, 1_000_000, {"h100": 8})
    assert (node.features, node.partitions) == (("h100", "nvlink"), ("gpu", "all"))
    assert node.accepts_jobs


def test_a_partition_is_read_with_its_limits() -> None:
    partition = parse_partition(PARTITION, REQUEUE)
    assert (partition.max_nodes, partition.max_seconds, partition.grace_seconds) == (4, 172_800, 120)
    assert partition.is_default
    assert (partition.default_seconds, partition.preemption) == (None, "requeue")
    assert parse_partition(PARTITION, {"PreemptMode": "OFF"}).preemption == "off"


def test_values_with_blanks_stay_whole() -> None:
    assert pairs(NODE)["OS"] == "Linux 6.1 #1 SMP Debian"
    assert pairs(NODE)["Reason"] == "it's odd [root@2026-01-01]"


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [
        (("gpu:2",), {"": 2}),
        (("gpu:a100:4(S:0)", "gpu:h100:8"), {"a100": 4, "h100": 8}),
        (("gpu:h100:no_consume:8", "gpu:no_consume:2"), {"h100": 8, "": 2}),
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


@pytest.mark.parametrize(("save", "state"), [(10.0, "ok"), (200.0, "warning")])
def test_notice_before_preemption_is_compared_with_a_step_and_a_save(
    save: float, state: str, plan: Plan, cluster: Cluster
) -> None:
    pace = Pace(step_seconds=5.0, save_seconds=save, checkpoint_bytes=1)
    results = examine(planned(plan), cluster, pace, resolves=lambda host: True)
    found = {result.name: result for result in results}
    assert found["preemption"].state == state
    assert "150 seconds" in found["preemption"].found


def test_a_save_of_27b_is_predicted_from_the_disk_of_the_site(plan: Plan, cluster: Cluster) -> None:
    def pace(**site: Any) -> Pace | None:
        recipe = Request(name="gemma3/27b").recipe()
        made = planned(plan, gpus_per_node=8, **site)
        topology = Topology(nodes=8, ranks_per_node=8, device="cuda")
        return predicted_pace(resolve_plan(recipe, topology, site=made.site))

    assert pace(gpu_kind="h100") is None, "the disk is unknown"
    found = pace(gpu_kind="h100", disk_gb_per_second=1.0)
    assert found is not None
    assert found.save_seconds == pytest.approx(324.2, abs=0.2)
    late = errors(examine(planned(plan, time="1-0"), cluster, found, resolves=lambda host: True))
    assert [name for name, _ in late] == ["signal_lead_seconds"]
    assert late[0][1].endswith("(predicted)")


def test_a_signal_that_comes_too_late_to_save_is_an_error(plan: Plan, cluster: Cluster) -> None:
    pace = Pace(step_seconds=100.0, save_seconds=200.0, checkpoint_bytes=1)
    found = errors(examine(planned(plan, time="1-0"), cluster, pace, resolves=lambda host: True))
    assert found == [("signal_lead_seconds", "is 300; a step and a save need 360")]


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("REQUEUE", "requeue"),
        ("CANCEL", "cancel"),
        ("GANG,SUSPEND", "suspend"),
        ("OFF", "off"),
        ("GANG", "off"),
    ],
)
def test_the_kind_of_preemption_is_read(mode: str, kind: str) -> None:
    line = PARTITION.replace("PreemptMode=REQUEUE", f"PreemptMode={mode}")
    assert parse_partition(line, REQUEUE).preemption == kind


@pytest.mark.parametrize(
    ("settings", "mode", "state", "words"),
    [
        ({}, "cancel", "warning", "does not come back"),
        ({}, "suspend", "ok", "is suspended without notice"),
        ({"PreemptType": "preempt/qos"}, "cancel", "ok", "the QOS decides"),
    ],
)
def test_each_kind_of_preemption_is_described(
    settings: dict[str, str], mode: Any, state: str, words: str, plan: Plan, cluster: Cluster
) -> None:
    gpu = replace(cluster.partitions["gpu"], preemption=mode)
    changed = replace(cluster, settings=cluster.settings | settings, partitions={"gpu": gpu})
    results = examine(planned(plan, cpus_per_node=8), changed, None, resolves=lambda host: True)
    (found,) = [result for result in results if result.name == "preemption"]
    assert (found.state, words in found.found) == (state, True)
    assert {"cancel": "PreemptMode=CANCEL", "suspend": "suspended"}[mode] in first_site(
        replace(changed, settings=cluster.settings), None
    )


def test_a_job_without_a_time_gets_the_default_time_of_its_partition(plan: Plan, cluster: Cluster) -> None:
    gpu = replace(cluster.partitions["gpu"], default_seconds=180, max_seconds=None)
    short = replace(cluster, partitions={"gpu": gpu})
    found = errors(examine(planned(plan), short, None, resolves=lambda host: True))
    assert found == [
        (
            "time",
            "signal_lead_seconds is 300, and the time limit only 180 seconds "
            "(`time` is not set: DefaultTime of gpu)",
        )
    ]
    assert "\ntime: 1-00:00:00 " in first_site(short, None)
    assert errors(examine(planned(plan, time="1-0"), short, None, resolves=lambda host: True)) == []


@pytest.mark.parametrize("time", ["0", "UNLIMITED"])
def test_no_limit_is_longer_than_a_partition_that_has_one(time: str, plan: Plan, cluster: Cluster) -> None:
    found = errors(examine(planned(plan, time=time), cluster, None, resolves=lambda host: True))
    assert found == [
        (
            "time",
            f"{time} is longer than gpu allows (172800 seconds); "
            "Slurm takes such a job, which then waits for ever (EnforcePartLimits=NO)",
        )
    ]


def test_the_first_site_of_a_short_partition_passes_preflight(plan: Plan, cluster: Cluster) -> None:
    gpu = replace(cluster.partitions["gpu"], max_seconds=300)
    short = replace(cluster, partitions={"gpu": gpu})
    site = build(Site, parse(f"name: x\n{first_site(short, None)}", "first"))
    assert site.signal_lead_seconds == 100
    made = plan.model_copy(update={"site": site, "topology": ranks_at(site, 2)})
    assert errors(examine(made, short, None, resolves=lambda host: True)) == []


def test_memory_that_slurm_keeps_for_the_system_is_not_offered() -> None:
    assert parse_node(f"{NODE} MemSpecLimit=500").memory_megabytes == 999_500


def test_whole_gpus_come_before_mig_slices(cluster: Cluster) -> None:
    node = replace(cluster.nodes[0], gpus={"h100": 2, "1g.10gb": 7})
    text = first_site(replace(cluster, nodes=(node,)), "gpu")
    assert "gpus_per_node: 2\ngpu_kind: h100\n" in text
    assert "# MIG slices are not used: 7 1g.10gb\n" in text
    only = first_site(replace(cluster, nodes=(replace(node, gpus={"1g.10gb": 7}),)), "gpu")
    assert "gpus_per_node: 1\ngpu_kind: 1g.10gb\n" in only


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


@pytest.mark.parametrize(
    ("site", "words"),
    [
        ({"pack_partition": "cpuu"}, "did you mean 'cpu'"),
        ({"pack_partition": "cpu", "time": "1-0"}, "longer than cpu allows (3600 seconds)"),
        ({"pack_partition": "down"}, "is not up"),
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


def test_cpus_per_gpu_and_whole_nodes_of_a_partition_are_read() -> None:
    line = f"{PARTITION} JobDefaults=DefCpuPerGPU=8 OverSubscribe=EXCLUSIVE"
    assert parse_partition(line).has_cpus_per_gpu
    assert parse_partition(line).has_whole_nodes
    assert not parse_partition(f"{PARTITION} JobDefaults=(null) OverSubscribe=NO").has_whole_nodes
    assert parse_partition(f"{PARTITION} DefaultTime=00:03:00").default_seconds == 180


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
