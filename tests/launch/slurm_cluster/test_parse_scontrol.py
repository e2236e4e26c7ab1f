"""Nodes and partitions from the output of scontrol."""

from __future__ import annotations

import pytest

from gemfit_launch.slurm.cluster.cluster import (
    parse_node,
    parse_partition,
)
from gemfit_launch.slurm.cluster.scontrol_text import is_mig, megabytes, pairs, parse_gpus
from launch.slurm_cluster.preflight_cases import NODE, PARTITION, REQUEUE


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
        (("gpu",), {"": 1}),
        (("gpu(S:0)",), {"": 1}),
        (("gpu:h100",), {"h100": 1}),
        (("gpu:h100:0", "gpu:0"), {}),
        (("gpu:h100:4(S:0)", "gpu:h100:4(S:1)", "gpu:1g.10gb:7(S:0-1)"), {"h100": 8, "1g.10gb": 7}),
        (("gres/gpu:2", "gpumem:80", "shard:8"), {}),
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


def test_memory_that_slurm_keeps_for_the_system_is_not_offered() -> None:
    assert parse_node(f"{NODE} MemSpecLimit=500").memory_megabytes == 999_500
    assert parse_node(f"{NODE} MemSpecLimit=2000000").memory_megabytes == 0


@pytest.mark.parametrize(
    "kind",
    [
        "1g.10gb",
        "a100_3g.20gb",
        "nvidia_h100_80gb_hbm3_1g.10gb",
        "1c.3g.40gb",
        "1g.10gb+me",
        "MIG-1g5gb",
        "2G_10GB",
    ],
)
def test_mig_slices_are_known_in_the_ways_that_sites_write_them(kind: str) -> None:
    assert is_mig(kind)
    assert not any(map(is_mig, ("h100", "a100_80gb", "rtx-5090g", "gh200_144g", "nvidia_a100-sxm4-80gb", "")))


def test_cpus_per_gpu_and_whole_nodes_of_a_partition_are_read() -> None:
    line = f"{PARTITION} JobDefaults=DefCpuPerGPU=8 OverSubscribe=EXCLUSIVE"
    assert parse_partition(line).has_cpus_per_gpu
    assert parse_partition(line).has_whole_nodes
    assert not parse_partition(f"{PARTITION} JobDefaults=(null) OverSubscribe=NO").has_whole_nodes
    assert parse_partition(f"{PARTITION} DefaultTime=00:03:00").default_seconds == 180
