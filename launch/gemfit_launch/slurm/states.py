"""Job states and node states of Slurm 22.05 to 26.05, with what each means for a run. Pure.

The names are those of `job_state_string()` and `node_state_string_complete()` in Slurm's source: base states
and flags. `squeue` prints one word per job; `--json` and `sacct` print several, joined by commas.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from gemfit.schemas.attempt_outcome import AttemptOutcome

JobPhase = Literal["pending", "running", "suspended", "ended", "unknown"]
"""`pending`: no process runs, and one may start. `ended`: none runs, and none starts by itself.
`unknown`: the state is not in the table, so the job counts neither as running nor as ended."""

WORDS = re.compile(r"[A-Z][A-Z_]*|\?")


@dataclass(frozen=True, slots=True)
class JobState:
    """A state as Slurm writes it, and its meaning."""

    text: str
    phase: JobPhase
    meaning: str = ""
    """For users; empty where the phase says it all."""
    outcome: AttemptOutcome | None = None
    """Outcome of a run whose job has ended in this state and whose last attempt has left no verdict."""


class NodeUse(StrEnum):
    """Whether a node accepts jobs, now or after its current one."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class NodeState:
    """A state as Slurm writes it, such as `IDLE+CLOUD+POWERED_DOWN`."""

    text: str
    accepts_jobs: NodeUse


_HELD = "held; `scontrol release JOB`"
_INTERRUPTED = AttemptOutcome.INTERRUPTED

# In the order in which Slurm chooses one word for a job with several: flags before base states.
_JOB_STATES = (
    JobState("COMPLETING", "running", "its processes are ending"),
    JobState("STAGE_OUT", "running", "its files are copied out of the burst buffer"),
    JobState("CONFIGURING", "pending", "its nodes are booting"),
    JobState("POWER_UP_NODE", "pending", "its nodes are being powered up"),
    JobState("RESIZING", "running"),
    JobState("REQUEUED", "pending", "it was requeued"),
    JobState("REQUEUE_FED", "pending", "it was requeued by the federation"),
    JobState("REQUEUE_HOLD", "pending", f"requeued and {_HELD}"),
    JobState("SPECIAL_EXIT", "pending", f"requeued after an exit status of RequeueExitHold, and {_HELD}"),
    JobState("STOPPED", "suspended", "its processes got SIGSTOP and keep their nodes"),
    JobState("REVOKED", "unknown", "another cluster of the federation has started it: `squeue --federation`"),
    JobState("RESV_DEL_HOLD", "pending", f"its reservation was deleted; {_HELD}"),
    JobState("SIGNALING", "running", "a signal is on its way to its processes"),
    JobState("EXPEDITING", "pending", "it is requeued ahead of others (`--requeue=expedite`)"),
    JobState("PENDING", "pending"),
    JobState("RUNNING", "running"),
    JobState("SUSPENDED", "suspended"),
    JobState("COMPLETED", "ended"),
    JobState("CANCELLED", "ended", "the job was cancelled", AttemptOutcome.CANCELLED),
    JobState("FAILED", "ended", "the job ended with an error", AttemptOutcome.CRASHED),
    JobState("TIMEOUT", "ended", "the job reached its time limit before it could save", _INTERRUPTED),
    JobState("NODE_FAIL", "ended", "a node of the job failed, and Slurm did not requeue it", _INTERRUPTED),
    JobState("PREEMPTED", "ended", "the job was preempted, and Slurm did not requeue it", _INTERRUPTED),
    JobState("BOOT_FAIL", "ended", "a node of the job did not boot", _INTERRUPTED),
    JobState("DEADLINE", "ended", "the job reached its deadline", _INTERRUPTED),
    JobState("OUT_OF_MEMORY", "ended", "the job was killed: its memory ran out", AttemptOutcome.CRASHED),
)
_COMPANIONS = ("LAUNCH_FAILED", "RECONFIG_FAIL", "UPDATE_DB", "GETENV_FAILED")
"""Flags that Slurm writes only next to a base state, which decides."""
_JOB_ORDER = {state.text: order for order, state in enumerate(_JOB_STATES)}

_NODE_STATES = {
    # Base states. A node is UNKNOWN until it registers with a controller that was restarted.
    **dict.fromkeys(("IDLE", "ALLOCATED", "MIXED"), NodeUse.YES),
    **dict.fromkeys(("DOWN", "ERROR", "FUTURE", "UNKNOWN"), NodeUse.NO),
    # Flags, and what sinfo makes of them: busy, or booked for some time.
    **dict.fromkeys(("COMPLETING", "COMP", "PLANNED", "RESERVED", "PERFCTRS", "BLOCKED"), NodeUse.YES),
    **dict.fromkeys(("MAINT", "MAINTENANCE", "RESUME", "UNDRAIN"), NodeUse.YES),
    **dict.fromkeys(("REBOOT", "REBOOT_REQUESTED", "REBOOT_ISSUED", "REBOOT_CANCELED"), NodeUse.YES),
    "CANCEL_REBOOT": NodeUse.YES,
    # Slurm powers these up for a job. A node that will be powered down is powered up again afterwards.
    **dict.fromkeys(("CLOUD", "DYNAMIC_NORM", "DYNAMIC_FUTURE"), NodeUse.YES),
    **dict.fromkeys(("POWER_UP", "POWER_DOWN", "POWER_DRAIN"), NodeUse.YES),
    **dict.fromkeys(("POWERED_DOWN", "POWERING_DOWN", "POWERING_UP"), NodeUse.YES),
    # Out of service. No slurmd runs on EXTERNAL nodes, so no batch script does.
    **dict.fromkeys(("DRAIN", "DRAINED", "DRAINING", "FAIL", "FAILING"), NodeUse.NO),
    **dict.fromkeys(("NOT_RESPONDING", "NO_RESPOND", "INVALID", "INVALID_REG", "INVAL"), NodeUse.NO),
    "EXTERNAL": NodeUse.NO,
}


_SILENT = {"NOT_RESPONDING", "NO_RESPOND"}
_POWERED = {"POWER_UP", "POWERING_UP", "POWERED_DOWN", "POWERING_DOWN", "REBOOT_ISSUED"}
"""While a node boots or is switched off, nobody expects it to respond."""


def parse_job_state(text: str) -> JobState:
    """The state of a job, as ``RUNNING``, ``PENDING,REQUEUED`` or ``CANCELLED by 1000``.

    With a word that is not in the table the phase is unknown, and the text stays as Slurm wrote it.
    """
    words = [word for word in WORDS.findall(text.partition(" by ")[0]) if word not in _COMPANIONS]
    if not words or any(word not in _JOB_ORDER for word in words):
        return JobState(text, "unknown", "gemfit does not know this state")
    return _JOB_STATES[min(_JOB_ORDER[word] for word in words)]


def parse_node_state(text: str) -> NodeState:
    """The state of a node, as ``IDLE``, ``MIXED+CLOUD`` or ``DOWN*``; a marker such as ``*`` is ignored."""
    words = set(WORDS.findall(text))
    words -= _SILENT if words & _POWERED else set()
    uses = {_NODE_STATES.get(word, NodeUse.UNKNOWN) for word in words} or {NodeUse.UNKNOWN}
    worst = next(use for use in (NodeUse.NO, NodeUse.UNKNOWN, NodeUse.YES) if use in uses)
    return NodeState(text, worst)
