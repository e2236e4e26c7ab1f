"""What follows from how attempts ended: try again, avoid a node, or give up."""

from __future__ import annotations

from pathlib import Path

import pytest

from gemfit.rundir import RunDir
from gemfit.schemas.attempt_outcome import AttemptOutcome
from gemfit.schemas.plan import Plan
from gemfit_launch.slurm.records.job_attempts import (
    MAX_FRUITLESS_INTERRUPTIONS,
    AttemptEnd,
    AttemptFiles,
    AttemptStart,
    JobAttempt,
    NodeEnd,
    first_failure,
    give_up,
    newest_step,
    read_attempts,
)


def attempt(outcome: AttemptOutcome | None, *, start: int = 0, end: int = 0, job: str = "7") -> JobAttempt:
    began = AttemptStart(attempt=1, job=job, nodes=("n1",), step=start, time=0.0)
    return JobAttempt(began, AttemptEnd(attempt=1, outcome=outcome, step=end, time=1.0) if outcome else None)


def node_end(rank: int, *, status: int = 1, time: float = 1.0, at_fault: bool = False) -> NodeEnd:
    return NodeEnd(
        node=f"n{rank}",
        rank=rank,
        stage="training",
        status=status,
        reason="why",
        at_fault=at_fault,
        time=time,
    )


def test_a_job_may_crash_as_often_as_the_site_says() -> None:
    crashes = [attempt(AttemptOutcome.CRASHED)] * 3
    assert give_up(crashes, "7", max_restarts=3) is None
    assert "4 times in a row" in str(
        give_up([*crashes, attempt(AttemptOutcome.CRASHED)], "7", max_restarts=3)
    )


def test_a_new_checkpoint_makes_earlier_crashes_forgotten() -> None:
    crashes = [attempt(AttemptOutcome.CRASHED, start=10, end=10)] * 2
    assert (
        give_up([*crashes, attempt(AttemptOutcome.CRASHED, start=10, end=20), *crashes], "7", max_restarts=2)
        is None
    )


def test_crashes_of_an_earlier_job_do_not_count() -> None:
    assert (
        give_up(
            [attempt(AttemptOutcome.CRASHED, job="6")] * 5 + [attempt(AttemptOutcome.CRASHED)],
            "7",
            max_restarts=1,
        )
        is None
    )


def test_interruptions_are_no_crashes_but_do_not_go_on_for_ever() -> None:
    interrupted = [attempt(AttemptOutcome.INTERRUPTED)] * MAX_FRUITLESS_INTERRUPTIONS
    assert give_up(interrupted, "7", max_restarts=0) is None
    assert "interrupted" in str(
        give_up([*interrupted, attempt(AttemptOutcome.INTERRUPTED)], "7", max_restarts=0)
    )


def test_the_node_that_failed_first_is_blamed() -> None:
    ends = [node_end(0, time=5.0), node_end(1, time=4.0), node_end(2, status=0, time=1.0)]
    failed = first_failure(ends, ["n0", "n1", "n2"])
    assert failed is not None
    assert failed.node == "n1"


def test_a_node_whose_rank_was_killed_is_blamed_before_those_that_noticed_sooner() -> None:
    failed = first_failure([node_end(0, time=4.0), node_end(1, time=5.0, at_fault=True)], ["n0", "n1"])
    assert failed is not None
    assert failed.node == "n1"


def test_a_node_without_an_exit_record_is_at_fault() -> None:
    failed = first_failure([node_end(0)], ["n0", "n1"])
    assert failed is not None
    assert (failed.node, failed.at_fault) == ("n1", True)
    assert first_failure([], ["n0", "n1"]) is None


def test_attempts_are_read_back_in_order(tmp_path: Path, plan: Plan) -> None:
    run = RunDir.create(tmp_path / "run", plan)
    assert read_attempts(run) == []
    for number in (1, 2):
        files = AttemptFiles(run, run.begin_attempt())
        files.write(files.start, AttemptStart(attempt=number, job="7", nodes=("n1",), step=0, time=0.0))
    files.write(files.end, AttemptEnd(attempt=2, outcome=AttemptOutcome.STOPPED, step=3, time=1.0))
    files.write(files.node(1), node_end(1))
    files.write(files.node(0), node_end(0))
    first, second = read_attempts(run)
    assert first.end is None
    assert second.end is not None
    assert [end.rank for end in files.node_ends()] == [0, 1]


@pytest.mark.parametrize("names", [[], ["step-00000010"], ["step-00000010", "replaced-00000020"]])
def test_progress_is_read_off_the_names_of_checkpoints(tmp_path: Path, plan: Plan, names: list[str]) -> None:
    run = RunDir.create(tmp_path / "run", plan)
    for name in names:
        (run.checkpoints / name).mkdir()
    assert newest_step(run) == 10 * len(names)
