"""Requeue control inside a job: its nodes, its state, excluding a node, requeueing."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Literal

from gemfit.core.network_interface import resolves
from gemfit.errors import UserError
from gemfit_launch.slurm.cluster.cluster import parse_node
from gemfit_launch.slurm.commands import NoAnswerError, SlurmError, call
from gemfit_launch.slurm.durations import seconds
from gemfit_launch.slurm.states import parse_job_state

PATIENCE_SECONDS = 300.0
RETRY_SECONDS = 5.0
UNREACHABLE = re.compile(
    r"unable to contact|connect|communication|standby|temporarily|authentication|munge", re.IGNORECASE
)
"""In what a command prints that has not reached the controller, which may be starting, or munge."""

RequeueDecision = Literal["requeue", "cancelled", "queued"]


def scontrol(*arguments: str) -> str:
    """Output of one scontrol command; a failure is a ``UserError`` with Slurm's message.

    Retries for some minutes while the controller does not answer: a job must not be lost because Slurm is
    being restarted.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return call(["scontrol", *arguments])
        except SlurmError as error:
            if not may_pass(error) or time.monotonic() > deadline:
                raise
        time.sleep(RETRY_SECONDS)


def may_pass(error: SlurmError) -> bool:
    """Whether asking again may help: Slurm is busy or being restarted."""
    return isinstance(error, NoAnswerError) or UNREACHABLE.search(str(error)) is not None


def host_names(nodelist: str) -> tuple[str, ...]:
    """Host names of ``n[1-3]``, in the order of the tasks; none is a ``SlurmError``.

    A wrapper of scontrol may print lines before and after them, which no entry of the list can become.
    """
    printed = scontrol("show", "hostnames", nodelist)
    entry = "".join(map(_host_part, re.split(r"(\[[^]]*\]|,)", nodelist)))
    names = tuple(line for line in map(str.strip, printed.split("\n")) if re.fullmatch(entry, line))
    if not names:
        raise SlurmError(f"scontrol show hostnames {nodelist}: printed no names: {printed.strip()[-200:]}")
    return names


def _host_part(part: str) -> str:
    """Regular expression of a part of a list of hosts: a group in brackets, a comma, or plain text."""
    if part.startswith("["):  # coordinates, on some machines, have letters too
        return "[0-9]+" if re.fullmatch(r"[\[\]0-9,-]+", part) else "[0-9A-Za-z]+"
    return "|" if part == "," else re.escape(part)


def address(node: str) -> str:
    """An address of ``node`` that resolves here: its NodeAddr, else its name."""
    candidates = [field(scontrol("show", "node", node, "--oneliner"), "NodeAddr"), node]
    for candidate in candidates:
        if candidate and resolves(candidate):
            return candidate
    raise UserError(f"node {node}: neither {' nor '.join(filter(None, candidates))} resolves to an address")


def show_job(job: str) -> str:
    """`scontrol show job` from the line after the job name, which may contain any text.

    Output without the state of the job is a ``SlurmError``: it could be one that was cancelled.
    """
    printed = scontrol("show", "job", job)
    shown = re.sub(r"\A(?:.*\n)*?JobId=.*\n", "", printed)
    if not field(shown, "JobState"):
        raise SlurmError(f"scontrol show job {job}: printed no state but: {printed.strip()[-200:]}")
    return shown


def requeue_decision(shown: str, restarts: int) -> RequeueDecision:
    """Whether a job that has stopped is to be requeued, from `scontrol show job`. Pure.

    A requeue would bring back a cancelled job as well. While processes end, the state of every job is
    COMPLETING: one that Slurm has requeued itself shows more restarts than ``restarts``, one that ran out of
    time has reached its limit, one that was preempted ended at its PreemptTime, and any other was cancelled.
    """
    state = field(shown, "JobState")
    if parse_job_state(state).phase == "pending" or int(field(shown, "Restarts") or 0) > restarts:
        return "queued"
    if state == "COMPLETING":
        limit, ran = seconds(field(shown, "TimeLimit")), seconds(field(shown, "RunTime"))
        out_of_time = limit is not None and ran is not None and ran >= limit
        preempted = field(shown, "PreemptTime") == field(shown, "EndTime") != ""
        return "requeue" if out_of_time or preempted else "cancelled"
    return "cancelled" if state == "CANCELLED" else "requeue"


def is_preempted(shown: str) -> bool:
    """Whether the job is being preempted, from `scontrol show job`. Pure."""
    return field(shown, "PreemptTime") not in ("", "None", "N/A", "Unknown")


def keeps_nodes(shown: str, restarts: int) -> bool:
    """Whether the job can begin another attempt on its nodes, from `scontrol show job`. Pure.

    Not one that is cancelled, has been requeued or is being preempted.
    """
    is_running = field(shown, "JobState") == "RUNNING" and not is_preempted(shown)
    return is_running and requeue_decision(shown, restarts) == "requeue"


def requeue(job: str, restarts: int) -> RequeueDecision:
    """Requeue ``job``; returns ``queued`` or ``cancelled`` if one of them has happened in the meantime.

    An answer may be lost after the requeue has taken place, so the state of the job decides what follows.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            call(["scontrol", "requeue", job])
            return "requeue"
        except SlurmError as error:
            if "pending execution" in str(error):
                return "queued"
            if not may_pass(error) or time.monotonic() > deadline:
                raise
        time.sleep(RETRY_SECONDS)
        if (decision := requeue_decision(show_job(job), restarts)) != "requeue":
            return decision


def set_excluded(job: str, nodes: Sequence[str]) -> None:
    """Make ``nodes`` the excluded nodes of ``job``, which has just been requeued."""
    scontrol("update", f"JobId={job}", f"ExcNodeList={','.join(dict.fromkeys(nodes))}")


def excluded(shown: str) -> tuple[str, ...]:
    """The excluded nodes of a job, from `scontrol show job`."""
    nodes = field(shown, "ExcNodeList")
    return () if nodes in ("", "(null)") else host_names(nodes)


def field(text: str, name: str) -> str:
    """The value of the first ``name=value`` in output of scontrol; empty without one."""
    found = re.search(rf"(?:^|\s){name}=(\S*)", text)
    return found[1] if found else ""


def usable_nodes(partition: str) -> set[str]:
    """Names of the nodes that accept jobs, of one partition or several with commas between them."""
    # --all: a partition may be hidden from users.
    shown = scontrol("show", "nodes", "--all", "--oneliner").splitlines()
    nodes = [parse_node(line) for line in shown if "NodeName=" in line]
    asked = {*partition.split(",")}
    return {node.name for node in nodes if asked & {*node.partitions} and node.accepts_jobs}
