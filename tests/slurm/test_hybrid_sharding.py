"""HSDP on a real Slurm: sharded inside of each node, replicated over the nodes."""

from __future__ import annotations

import json
import re

import pytest

from slurmruns import Bench, SlurmRun, losses_by_step

pytestmark = [pytest.mark.slurm, pytest.mark.dist, pytest.mark.slow]


def train(bench: Bench, name: str, nodes: int, replicate: str) -> SlurmRun:
    """Eight steps on ``nodes`` nodes with two ranks each."""
    changes = {"strategy.kind": "fsdp2", "strategy.replicate": replicate, "batch.global_batch_size": "8"}
    run = bench.submit(name, steps=8, nodes=nodes, changes=changes)
    run.await_end()
    assert run.state == "COMPLETED", run.explain()
    return run


def test_a_model_that_is_replicated_over_nodes_has_the_losses_of_one_node(bench: Bench) -> None:
    run = train(bench, "hybrid", 2, "node")
    found = re.search(r"selftest (\{.*\})", run.run.log(1).read_text())
    assert found is not None, run.explain()
    engine = json.loads(found[1])["engine"]
    assert (engine["parameter_class"], engine["replicas"]) == ("DTensor", 2)
    alone = losses_by_step(train(bench, "sharded", 1, "1").steps)
    assert len(alone) == 8
    assert losses_by_step(run.steps) == pytest.approx(alone, rel=1e-6)
