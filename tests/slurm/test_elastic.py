"""A run on a real Slurm that takes as many nodes as there are, and begins again after a crash of a rank."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator

import pytest

from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.metrics import LedgerRecord
from slurmruns import SITE, Bench, SlurmRun, losses_by_step

pytestmark = [pytest.mark.slurm, pytest.mark.dist, pytest.mark.slow]

STEPS = 100  # more than are done while Slurm looks for nodes
CALM = {"optim.learning_rate": "2e-4"}
"""Ranks add gradients in another order on each number of nodes; at a high rate that difference grows."""


class Others:
    """Jobs of one node each, more urgent than the run."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.jobs: list[int] = []

    def set_count(self, count: int) -> None:
        """Submit or cancel jobs, until so many run."""
        for job in self.jobs[count:]:
            self.bench.cluster.call("scancel", str(job))
        self.jobs = self.jobs[:count]
        while len(self.jobs) < count:
            self.jobs.append(self.bench.preempt(seconds=3600, nodes=1))


@pytest.fixture
def others(bench: Bench) -> Iterator[Others]:
    made = Others(bench)
    yield made
    made.set_count(0)


def ledger(run: SlurmRun) -> dict[int, list[int]]:
    """Rows of each step without idle slots; of one that was done twice, the later."""
    lines = run.run.ledger_file.read_text().splitlines()
    records = [LedgerRecord.model_validate_json(line) for line in lines]
    return {record.step: [row for row in record.rows if row >= 0] for record in records}


def test_preflight_says_when_a_job_would_start_on_each_number_of_nodes(bench: Bench) -> None:
    (bench.folder / "range.site.yaml").write_text(json.dumps(SITE | {"ranks_per_node": 1}))
    recipe = ["debug/cpu-tiny", "--data", "conversations.jsonl", "--set", "batch.global_batch_size=16"]
    found = json.loads(
        bench.gemfit("preflight", *recipe, "--site", "range.site.yaml", "--nodes", "1-4", "--json")
    )
    starts = [one["found"] for one in found if one["name"].startswith("start on ")]
    assert len(starts) == 4
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(;|$)", start) for start in starts), found
    idle = [start.partition("; ")[2] for start in starts]
    assert idle == ["", "", "2 of 18 slots of each step idle", ""], found


def test_a_run_on_what_the_queue_has_is_the_run_on_two_nodes(bench: Bench, others: Others) -> None:
    unbroken = bench.submit("unbroken", steps=STEPS, changes=CALM, ranks_per_node=1)
    assert unbroken.await_end() == "COMPLETED", unbroken.explain()

    run = bench.submit("elastic", steps=STEPS, nodes="1-4", changes=CALM, ranks_per_node=1)
    run.await_step(5)
    others.set_count(2)
    run.await_step(1, attempt=2)
    others.set_count(1)
    bench.cluster.call("scontrol", "requeue", str(run.job))
    run.await_step(1, attempt=3)
    restarts = bench.cluster.job(run.job)["Restarts"]
    os.kill(run.ranks(run.attempts[-1].start.nodes[1])[0], signal.SIGABRT)
    run.await_step(1, attempt=4)
    assert bench.cluster.job(run.job)["Restarts"] == restarts == "2", run.explain()
    others.set_count(3)
    assert run.await_end() == "COMPLETED", run.explain()

    assert [len(attempt.start.nodes) for attempt in run.attempts] == [4, 2, 3, 3, 1], run.explain()
    assert {attempt.start.job for attempt in run.attempts} == {str(run.job)}
    assert [attempt.end and attempt.end.outcome for attempt in run.attempts] == [
        AttemptOutcome.STOPPED,
        AttemptOutcome.STOPPED,
        AttemptOutcome.CRASHED,
        AttemptOutcome.STOPPED,
        AttemptOutcome.COMPLETED,
    ]
    assert ledger(run) == ledger(unbroken)
    assert losses_by_step(run.steps) == pytest.approx(losses_by_step(unbroken.steps), rel=1e-6)
