"""Attempts of a job on a range of nodes."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemfit.core.marked_answer import find_answers
from gemfit.errors import ExitCode, UserError
from gemfit.rundir import RunDir
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit_launch.planning.replan import on_nodes
from gemfit_launch.slurm.records.job_attempts import read_attempts
from launch.slurm_job.hooks import Calls, begin, end, fail, show


@pytest.fixture
def elastic(run: RunDir) -> RunDir:
    """A run of 16 rows in a batch on 2, 3 or 5 nodes of two ranks."""
    run.adopt(on_nodes(run.plan().model_copy(update={"node_counts": (2, 3, 5)}), 5))
    return run


def begun_on(
    run: RunDir, nodes: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> str:
    """The nodes that the next attempt uses of those of the job."""
    monkeypatch.setenv("SLURM_JOB_NODELIST", nodes)
    assert begin(run) == ExitCode.DONE
    return find_answers(capfd.readouterr().out)[-1].split()[-1]


@pytest.mark.parametrize(
    ("given", "used", "idle"),
    [
        ("n1,n2", "n1,n2", ()),
        ("n1,n2,n3", "n1,n2,n3", ()),
        ("n1,n2,n3,n4", "n1,n2,n3", ("n4",)),
        ("n1,n2,n3,n4,n5", "n1,n2,n3,n4,n5", ()),
    ],
)
def test_an_attempt_uses_as_many_nodes_as_the_batch_needs(
    given: str,
    used: str,
    idle: tuple[str, ...],
    elastic: RunDir,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert begun_on(elastic, given, monkeypatch, capfd) == used
    plan, start = elastic.plan(), read_attempts(elastic)[0].start
    assert plan.topology.nodes == len(start.nodes) == used.count("n")
    assert plan.batch.world_size == 2 * plan.topology.nodes
    assert (plan.batch.global_batch_size, plan.node_counts) == (16, (2, 3, 5))
    assert start.idle == idle
    assert elastic.attempt_record(1).idle_nodes == len(idle)
    assert f"num_processes: {plan.batch.world_size}\n" in elastic.accelerate_file.read_text()


def test_each_allocation_of_a_job_is_planned_anew_and_trains_the_same(
    elastic: RunDir, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    before = elastic.plan()
    for restarts, nodes in enumerate(["n1,n2,n3,n4,n5", "n3,n4", "n1,n3,n5"]):
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restarts))
        assert begun_on(elastic, nodes, monkeypatch, capfd) == nodes
        assert end(elastic, AttemptOutcome.STOPPED) == ExitCode.DONE
        assert elastic.plan().training_identity() == before.training_identity()
        assert elastic.plan().steps == before.steps
    assert [len(attempt.start.nodes) for attempt in read_attempts(elastic)] == [5, 2, 3]


def test_a_plan_of_one_rank_grows_into_ddp_again(
    run: RunDir, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    topology = run.plan().topology.model_copy(update={"nodes": 2, "ranks_per_node": 1})
    run.adopt(run.plan().model_copy(update={"node_counts": (1, 2), "topology": topology}))
    labels = []
    for nodes in ("n1", "n1,n2"):
        begun_on(run, nodes, monkeypatch, capfd)
        labels.append(run.plan().recipe.strategy.label)
    assert labels == ["single", "ddp"]


def test_too_few_nodes_for_the_range_end_the_job_with_a_verdict(
    elastic: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n1")
    with pytest.raises(UserError, match="needs 2 nodes or more, and the job has 1"):
        begin(elastic)


@pytest.mark.parametrize("killed", [False, True])
def test_a_node_at_fault_is_left_idle_where_the_others_are_enough(
    killed: bool,
    elastic: RunDir,
    calls: Calls,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    begun_on(elastic, "n1,n2,n3", monkeypatch, capfd)
    fail(elastic, "n2", 1, at_fault=True, killed=killed)
    assert end(elastic) == ExitCode.DONE
    assert find_answers(capfd.readouterr().out) == ["again"]
    assert begun_on(elastic, "n1,n2,n3", monkeypatch, capfd) == "n1,n3"
    assert read_attempts(elastic)[-1].start.idle == ("n2",)
    assert end(elastic, AttemptOutcome.STOPPED) == ExitCode.DONE
    assert calls() == ["requeue 7", "update JobId=7 ExcNodeList=n2"], "two of three nodes are enough"
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert begun_on(elastic, "n1,n2,n3", monkeypatch, capfd) == "n1,n2,n3", "a new allocation"


@pytest.mark.parametrize(("nodes", "rank"), [("n1,n2", 1), ("n1,n2,n3", 0)])
def test_a_node_at_fault_is_requeued_where_too_few_are_left_or_the_script_runs_on_it(
    nodes: str,
    rank: int,
    elastic: RunDir,
    calls: Calls,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    begun_on(elastic, nodes, monkeypatch, capfd)
    name = f"n{rank + 1}"
    fail(elastic, name, rank, at_fault=True)
    assert end(elastic) == ExitCode.DONE
    assert "again" not in find_answers(capfd.readouterr().out)
    assert calls() == ["requeue 7", f"update JobId=7 ExcNodeList={name}"]


@pytest.mark.parametrize(("state", "restarts"), [("COMPLETING", 1), ("PENDING", 0)])
def test_a_node_at_fault_is_also_excluded_where_slurm_has_requeued_the_job_itself(
    state: str,
    restarts: int,
    elastic: RunDir,
    calls: Calls,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    begun_on(elastic, "n1,n2,n3", monkeypatch, capfd)
    fail(elastic, "n2", 1, at_fault=True)
    assert end(elastic) == ExitCode.DONE
    begun_on(elastic, "n1,n2,n3", monkeypatch, capfd)
    show(tmp_path, state, restarts)
    assert end(elastic, AttemptOutcome.STOPPED) == ExitCode.DONE
    assert calls() == ["update JobId=7 ExcNodeList=n2"]
    assert "Slurm has requeued the job itself, without n2" in capfd.readouterr().err
