"""A rank of a machine with several sockets runs on the cores next to its GPU."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from gemfit.train.distributed import numa_binding
from gemfit.train.distributed.numa_binding import bind_to_gpu

NODES = {"0": "0-3,8-11", "1": "4-7,12-15"}


@pytest.fixture
def bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[set[int]]:
    """Two sockets of 8 cores, GPU 0 at the first and GPU 1 at the second; what the process is bound to."""
    for number, cores in NODES.items():
        node = tmp_path / f"devices/system/node/node{number}"
        node.mkdir(parents=True)
        (node / "cpulist").write_text(cores + "\n")
        gpu = tmp_path / f"bus/pci/devices/0000:{int(number) + 0x1A:02x}:00.0"
        gpu.mkdir(parents=True)
        (gpu / "numa_node").write_text(number + "\n")
    monkeypatch.setattr(numa_binding, "SYSFS", tmp_path)
    monkeypatch.setattr(
        torch.cuda,
        "get_device_properties",
        lambda index: SimpleNamespace(pci_domain_id=0, pci_bus_id=0x1A + index, pci_device_id=0),
    )
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    calls: list[set[int]] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cores: calls.append(set(cores)))
    return calls


@pytest.mark.parametrize(
    ("local_rank", "cores"), [(0, {0, 1, 2, 3, 8, 9, 10, 11}), (1, {4, 5, 6, 7, 12, 13, 14, 15})]
)
def test_a_rank_runs_next_to_its_gpu(local_rank: int, cores: set[int], bound: list[set[int]]) -> None:
    bind_to_gpu(local_rank, 2)
    assert bound == [cores]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({0, 1, 5, 6}, [{5, 6}]),  # a share of both sockets
        ({4, 5}, []),  # srun has bound it already
        ({0, 1}, []),  # the job has only cores of the other socket
        ({0, 1, 2, 3, 4}, []),  # one core for the rank, in place of half of five
    ],
)
def test_only_cores_that_it_has_are_taken(
    given: set[int], expected: list[set[int]], bound: list[set[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: given)
    bind_to_gpu(1, 2)
    assert bound == expected


@pytest.mark.parametrize("said", ["-1\n", "", None])
def test_a_machine_that_does_not_say_where_a_gpu_is_changes_nothing(
    said: str | None, bound: list[set[int]]
) -> None:
    file = numa_binding.SYSFS / "bus/pci/devices/0000:1b:00.0/numa_node"
    if said is None:
        file.unlink()
    else:
        file.write_text(said)
    bind_to_gpu(1, 2)
    assert bound == []


def test_a_node_without_a_list_of_cores_changes_nothing(bound: list[set[int]]) -> None:
    (numa_binding.SYSFS / "devices/system/node/node1/cpulist").unlink()
    bind_to_gpu(1, 2)
    assert bound == []


def test_ranks_whose_gpus_are_all_at_one_socket_keep_all_cores(bound: list[set[int]]) -> None:
    (numa_binding.SYSFS / "bus/pci/devices/0000:1a:00.0/numa_node").write_text("1")
    bind_to_gpu(0, 2)
    bind_to_gpu(1, 2)
    assert bound == []


def test_missing_gpus_are_not_asked_for(bound: list[set[int]]) -> None:
    bind_to_gpu(2, 3)
    assert bound == []
