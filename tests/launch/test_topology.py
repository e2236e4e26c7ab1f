"""Ranks and machines from options and from what is plugged in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemfit.errors import UserError
from gemfit.schemas.plan import Topology
from gemfit.schemas.strategy import Ddp, Single
from gemfit_launch.planning.topology import Ranks, check_cpu_intended, check_gpus_present, choose_topology


def choose(ranks: Ranks, *, visible: int = 0) -> tuple[int, int, str]:
    topology = choose_topology(ranks, Ddp(), visible_gpus=visible)
    return topology.nodes, topology.ranks_per_node, topology.device


@pytest.mark.parametrize(
    ("ranks", "visible", "expected"),
    [
        (Ranks(), 0, (1, 1, "cpu")),
        (Ranks(), 4, (1, 4, "cuda")),
        (Ranks(nproc=2), 0, (1, 2, "cpu")),
        (Ranks(nproc=2), 4, (1, 2, "cuda")),
        (Ranks(device="cpu"), 4, (1, 1, "cpu")),
        (Ranks(nproc=16, device="cpu"), 0, (1, 16, "cpu")),
        (Ranks(gpus=1), 0, (1, 1, "cuda")),
        (Ranks(gpus=8), 0, (1, 8, "cuda")),
        (Ranks(gpus=12), 0, (1, 12, "cuda")),
        (Ranks(gpus=24), 0, (3, 8, "cuda")),
        (Ranks(gpus=64), 0, (8, 8, "cuda")),
        (Ranks(gpus=64, nodes=16), 0, (16, 4, "cuda")),
        (Ranks(gpus=16, nodes=1), 0, (1, 16, "cuda")),
    ],
)
def test_ranks_are_laid_over_machines(ranks: Ranks, visible: int, expected: tuple[int, int, str]) -> None:
    assert choose(ranks, visible=visible) == expected


@given(gpus=st.integers(1, 4096))
def test_every_gpu_gets_exactly_one_rank(gpus: int) -> None:
    nodes, per_node, device = choose(Ranks(gpus=gpus))
    assert nodes * per_node == gpus
    assert device == "cuda"


def test_strategy_single_takes_one_gpu_of_many() -> None:
    assert choose_topology(Ranks(), Single(), visible_gpus=8).world_size == 1


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        (Ranks(gpus=2, nproc=2), "give one of them"),
        (Ranks(gpus=2, device="cpu"), "contradict each other; use --nproc"),
        (Ranks(nodes=2), "needs --gpus"),
        (Ranks(gpus=10, nodes=4), "10 GPUs do not divide over 4 nodes"),
    ],
)
def test_contradictions_are_refused(ranks: Ranks, message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose(ranks)


def test_a_run_refuses_absent_gpus_with_the_way_out() -> None:
    with pytest.raises(UserError, match=r"4 GPUs are requested and 2 are visible.*--device cpu"):
        check_gpus_present(Topology(nodes=1, ranks_per_node=4, device="cuda"), visible_gpus=2)
    with pytest.raises(UserError, match=r"16 ranks are planned for 2 machines, and this is one; .* --nproc"):
        check_gpus_present(Topology(nodes=2, ranks_per_node=8, device="cuda"), visible_gpus=8)
    here = choose_topology(Ranks(nproc=16), Ddp(), visible_gpus=16)
    check_gpus_present(here, visible_gpus=16)
    check_gpus_present(Topology(nodes=1, ranks_per_node=2, device="cuda"), visible_gpus=2)
    check_gpus_present(Topology(nodes=1, ranks_per_node=4, device="cpu"), visible_gpus=0)


def test_a_run_does_not_use_cpus_unasked_where_there_seems_to_be_a_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cpus = Topology(nodes=1, ranks_per_node=1, device="cpu")
    signs = ["nvidia-smi does not answer within 20 s", "1 on the PCI bus"]
    monkeypatch.setattr("gemfit_launch.planning.topology.unused_gpu_signs", lambda: iter(signs))
    with pytest.raises(UserError, match=r"does not answer within 20 s; 1 on the PCI bus.*--device cpu"):
        check_cpu_intended(Ranks(), cpus)
    check_cpu_intended(Ranks(device="cpu"), cpus)
    check_cpu_intended(Ranks(), Topology(nodes=1, ranks_per_node=1, device="cuda"))
    monkeypatch.setattr("gemfit_launch.planning.topology.unused_gpu_signs", lambda: iter([]))
    check_cpu_intended(Ranks(nproc=2), cpus)
