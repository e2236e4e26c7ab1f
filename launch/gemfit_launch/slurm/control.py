"""What a running job asks of Slurm about itself: its nodes, its state, and to be tried again."""

from __future__ import annotations

import re
import socket

from gemfit.errors import UserError
from gemfit_launch.slurm.client import call


def scontrol(*arguments: str) -> str:
    """The output of one command; its refusal is a ``UserError`` with Slurm's own words."""
    return call(["scontrol", *arguments])


def host_names(nodelist: str) -> tuple[str, ...]:
    """``n[1-3]`` as single names, in the order of the tasks."""
    return tuple(scontrol("show", "hostnames", nodelist).split())


def address(node: str) -> str:
    """An address of ``node`` that resolves here: as Slurm reaches it, else its name."""
    candidates = [field(scontrol("show", "node", node, "--oneliner"), "NodeAddr"), node]
    for candidate in candidates:
        if candidate and _resolves(candidate):
            return candidate
    raise UserError(f"node {node}: neither {' nor '.join(filter(None, candidates))} resolves to an address")


def job_state(job: str) -> str:
    """Such as ``RUNNING`` or ``CANCELLED``."""
    return field(scontrol("show", "job", job, "--oneliner"), "JobState")


def requeue(job: str, *, avoid: str | None) -> None:
    """Send ``job`` back into the queue, to nodes other than ``avoid`` from now on."""
    excluded = field(scontrol("show", "job", job, "--oneliner"), "ExcNodeList") if avoid else ""
    scontrol("requeue", job)
    if avoid:
        nodes = ",".join([*([excluded] if excluded not in ("", "(null)") else []), avoid])
        scontrol("update", f"JobId={job}", f"ExcNodeList={nodes}")


def field(text: str, name: str) -> str:
    """The value of ``name=value`` in what scontrol shows; empty without one."""
    found = re.search(rf"(?:^|\s){name}=(\S*)", text)
    return found[1] if found else ""


def usable_nodes(partition: str) -> set[str]:
    """Names of the nodes of a partition that take jobs."""
    names = set()
    for line in scontrol("show", "nodes", "--oneliner").splitlines():
        if partition in field(line, "Partitions").split(",") and not re.search(
            r"DOWN|DRAIN|FAIL", field(line, "State")
        ):
            names.add(field(line, "NodeName"))
    return names


def _resolves(name: str) -> bool:
    try:
        return bool(socket.getaddrinfo(name, None))
    except OSError:
        return False
