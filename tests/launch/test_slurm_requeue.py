"""Requeue decision from `scontrol show job`."""

from __future__ import annotations

from gemfit_launch.slurm.cluster.requeue import field, requeue_decision

SHOWN = """\
   JobState={state} Reason=None Dependency=(null)
   Requeue=1 Restarts={restarts} BatchFlag=1
   RunTime={ran} TimeLimit={limit} TimeMin=N/A
   StartTime=2026-11-24T08:04:08 EndTime=2026-11-24T08:04:14 Deadline=N/A
   PreemptEligibleTime=2026-11-24T08:04:08 PreemptTime={preempted}
"""


def shown(
    state: str,
    *,
    restarts: int = 0,
    ran: str = "00:01:20",
    limit: str = "UNLIMITED",
    preempted: str = "None",
) -> str:
    return SHOWN.format(state=state, restarts=restarts, ran=ran, limit=limit, preempted=preempted)


def test_a_job_that_runs_on_is_requeued() -> None:
    assert requeue_decision(shown("RUNNING"), restarts=0) == "requeue"


def test_a_cancelled_job_is_not() -> None:
    assert requeue_decision(shown("CANCELLED"), restarts=0) == "cancelled"
    assert requeue_decision(shown("COMPLETING"), restarts=0) == "cancelled"
    assert requeue_decision(shown("COMPLETING", ran="00:59:59", limit="01:00:00"), restarts=0) == "cancelled"


def test_a_job_that_ran_out_of_time_is_requeued() -> None:
    assert (
        requeue_decision(shown("COMPLETING", ran="1-00:00:09", limit="1-00:00:00"), restarts=0) == "requeue"
    )
    assert requeue_decision(shown("TIMEOUT"), restarts=0) == "requeue"


def test_a_preempted_job_is_requeued_where_slurm_would_end_it() -> None:
    assert requeue_decision(shown("COMPLETING", preempted="2026-11-24T08:04:14"), restarts=0) == "requeue"
    assert requeue_decision(shown("PREEMPTED"), restarts=0) == "requeue"


def test_a_job_that_is_cancelled_while_it_is_being_preempted_stays_away() -> None:
    assert requeue_decision(shown("COMPLETING", preempted="2026-11-24T08:04:11"), restarts=0) == "cancelled"


def test_a_job_that_slurm_has_requeued_is_left_alone() -> None:
    assert requeue_decision(shown("PENDING", restarts=1), restarts=0) == "queued"
    assert requeue_decision(shown("COMPLETING", restarts=3), restarts=2) == "queued"


def test_a_field_is_found_whole() -> None:
    text = "ReqNodeList=a NodeList=n[1-2] BatchHost=n1 Comment="
    assert field(text, "NodeList") == "n[1-2]"
    assert field(text, "Comment") == ""
    assert field(text, "Restarts") == ""
