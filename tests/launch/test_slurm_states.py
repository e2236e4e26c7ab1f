"""Job and node states of Slurm, and reasons why a job is pending."""

from __future__ import annotations

import pytest

from gemfit_launch.slurm.cluster.pending_reason import explain
from gemfit_launch.slurm.states import NodeUse, parse_job_state, parse_node_state

# job_state_string() of Slurm 22.05 to 26.05.
JOB_STATES = {
    "pending": "PENDING CONFIGURING REQUEUED REQUEUE_FED REQUEUE_HOLD SPECIAL_EXIT RESV_DEL_HOLD EXPEDITING",
    "running": "RUNNING COMPLETING RESIZING SIGNALING STAGE_OUT",
    "suspended": "SUSPENDED STOPPED",
    "ended": "COMPLETED CANCELLED FAILED TIMEOUT NODE_FAIL PREEMPTED BOOT_FAIL DEADLINE OUT_OF_MEMORY",
    "unknown": "REVOKED ? HIBERNATING",
}


@pytest.mark.parametrize(
    ("phase", "text"), [(phase, word) for phase, words in JOB_STATES.items() for word in words.split()]
)
def test_every_job_state_has_a_phase(phase: str, text: str) -> None:
    state = parse_job_state(text)
    assert (state.phase, state.text) == (phase, text)


@pytest.mark.parametrize(
    ("text", "phase"),
    [
        ("RUNNING,COMPLETING", "running"),
        ("PENDING,REQUEUE_HOLD", "pending"),
        ("RUNNING,CONFIGURING,POWER_UP_NODE", "pending"),
        ("FAILED,LAUNCH_FAILED", "ended"),
        ("CANCELLED by 1000", "ended"),
        ("RUNNING,NEWFLAG", "unknown"),
        ("LAUNCH_FAILED", "unknown"),
        ("", "unknown"),
    ],
)
def test_several_words_are_read_as_slurm_ranks_them(text: str, phase: str) -> None:
    assert parse_job_state(text).phase == phase


@pytest.mark.parametrize(
    "text",
    [
        *("IDLE", "ALLOCATED", "MIXED+PLANNED", "IDLE+COMPLETING", "IDLE+RESERVED", "MIXED+MAINTENANCE"),
        *(
            "IDLE+CLOUD+POWERED_DOWN",
            "IDLE+CLOUD+POWERING_DOWN",
            "MIXED+CLOUD+POWERING_UP",
            "IDLE+POWER_DRAIN",
        ),
        *("ALLOCATED+CLOUD+NOT_RESPONDING+POWERING_UP", "IDLE+CLOUD+NOT_RESPONDING+POWERING_DOWN"),
        *("IDLE+NOT_RESPONDING+REBOOT_ISSUED", "MIXED+CLOUD+NO_RESPOND+POWER_UP"),
        *("IDLE+DYNAMIC_NORM", "IDLE+REBOOT_REQUESTED", "ALLOCATED+BLOCKED", "IDLE~", "ALLOCATED#", "IDLE%"),
    ],
)
def test_nodes_that_are_busy_booked_or_powered_down_accept_jobs(text: str) -> None:
    assert parse_node_state(text).accepts_jobs is NodeUse.YES


@pytest.mark.parametrize(
    "text",
    [
        *("DOWN", "DOWN*", "DOWN+CLOUD+NOT_RESPONDING", "IDLE+DRAIN", "MIXED+DRAIN+LEASED", "FAIL", "FUTURE"),
        *("IDLE+NOT_RESPONDING", "DOWN+CLOUD+NOT_RESPONDING+POWERING_UP", "IDLE+DRAIN+POWERED_DOWN"),
        *("UNKNOWN+NOT_RESPONDING", "IDLE+INVALID_REG", "INVAL", "IDLE+EXTERNAL", "ERROR", "DRAINING@"),
    ],
)
def test_nodes_that_are_out_of_service_accept_none(text: str) -> None:
    assert parse_node_state(text).accepts_jobs is NodeUse.NO


@pytest.mark.parametrize("text", ["IDLE+LEASED", "ASLEEP", ""])
def test_a_node_state_that_is_not_in_the_table_is_unknown_and_kept_as_written(text: str) -> None:
    state = parse_node_state(text)
    assert (state.accepts_jobs, state.text) == (NodeUse.UNKNOWN, text)


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("QOSMaxGRESPerJob", "it never starts: more GPUs than the QOS allows per job"),
        ("QOSMaxWallDurationPerJobLimit", "it never starts: more time than the QOS allows per job"),
        ("QOSGrpGRES", "all jobs of the QOS together have as many GPUs as it allows; one that alone asks"),
        ("QOSGrpJobsLimit", "all jobs of the QOS together have as many jobs as it allows"),
        ("MaxGRESPerAccount", "the jobs of the account have as many GPUs as the QOS allows"),
        ("QOSMaxNodePerUserLimit", "you have as many nodes as the QOS allows"),
        ("QOSMaxGRESPerUser", "you have as many GPUs as the QOS allows"),
        ("AssocMaxJobsLimit", "you have as many jobs as the account allows"),
        ("AssocGrpGRESMinutes", "the account has used up its minutes of GPUs"),
        ("QOSMinGRES", "it never starts: the QOS asks for more GPUs"),
        ("BadConstraints", "it never starts: no node meets the constraints"),
        ("launch failed requeued held", "held because it could not be started"),
        ("job_requeued_in_held_state", "held after a requeue"),
        ("ReqNodeNotAvail, UnavailableNodes:n3", "down or reserved"),
        (
            "Job's account not permitted to use this partition (closed allows elsewhere not lab)",
            "it never starts: the partition does not accept this account",
        ),
        (
            "Job's QOS not permitted to use this partition (closed allows a,b not c)",
            "it never starts: the partition does not accept this QOS",
        ),
    ],
)
def test_a_reason_is_explained(reason: str, words: str) -> None:
    assert explain(reason).startswith(f"{reason}: ")
    assert words in explain(reason)


def test_a_reason_that_is_not_known_stays_as_it_is() -> None:
    assert explain("SomethingNew") == "SomethingNew"
