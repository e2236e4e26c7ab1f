"""Events on a real Slurm: each done to a job of either side, from outside of it."""

from __future__ import annotations

import os
import re
import signal
import time
from contextlib import suppress
from pathlib import Path

from event_trace import PlannedEvent

from realslurm import NODES, Cluster, wait_until

PARTITION = "lowgrace"
GRACE_SECONDS = {"preemption": 15, "short preemption": 0}
RANKS_SECONDS = 60.0


def carry_out(cluster: Cluster, job: int, event: PlannedEvent) -> float:
    """Do it to a job that runs; the time when it began, in seconds since the Unix epoch."""
    nodes = nodes_of(cluster, job)
    if event.kind in GRACE_SECONDS:
        grace = f"GraceTime={GRACE_SECONDS[event.kind]}"
        cluster.call("scontrol", "update", f"PartitionName={PARTITION}", grace)
        urgent = ["-p", "high", f"-N{len(nodes)}", f"-w{','.join(nodes)}", "--exclusive"]
        began = time.time()
        cluster.call("sbatch", *urgent, "--output=/dev/null", "--wrap=sleep 1")
        return began
    victim = nodes[event.node]
    if event.kind == "killed rank":
        wait_until(lambda: _ranks(cluster, job, victim), RANKS_SECONDS)
        began = time.time()
        _signal(_ranks(cluster, job, victim)[:1], signal.SIGKILL)
        return began
    return take_down(cluster, job, nodes if event.kind == "reclaim" else [victim])


def take_down(cluster: Cluster, job: int, nodes: list[str]) -> float:
    """Kill the job on its nodes with all of Slurm there, as a loss of power does, and tell the controller.

    Stopped first, so that nothing on them can act on what the controller does before they are killed.
    """
    daemons = [cluster.processes.pop(node) for node in nodes]
    tasks = [pid for node in nodes for pid in job_processes(cluster, job, node)]
    lost = [daemon.pid for daemon in daemons] + _step_daemons(tasks) + tasks
    began = time.time()
    _signal(lost, signal.SIGSTOP)
    cluster.call("scontrol", "update", f"nodename={','.join(nodes)}", "state=down", "reason=lost")
    _signal(lost, signal.SIGKILL)
    for daemon in daemons:
        daemon.wait()
    return began


def repair(cluster: Cluster) -> None:
    """Bring back the nodes that were taken down: their daemon registers with the controller."""
    for node in (f"n{number}" for number in range(1, NODES + 1)):
        if node not in cluster.processes:
            cluster.start_node(node)


def nodes_of(cluster: Cluster, job: int) -> list[str]:
    """Names of the nodes of a job that runs."""
    return cluster.call("scontrol", "show", "hostnames", cluster.job(job)["NodeList"]).split()


def job_processes(cluster: Cluster, job: int, node: str) -> list[int]:
    """What runs for a job on a node: all nodes are this machine, so the environment tells, or a parent's.

    Ranks of gemfit have no variables of Slurm.
    """
    wanted = {f"SLURM_JOB_ID={job}", f"SLURMD_NODENAME={node}", f"SLURM_CONF={cluster.conf}"}
    parents = {pid: _parent(pid) for pid in map(int, _process_ids())}
    found = {pid for pid in parents if wanted <= _environment(pid)}
    while children := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= children
    return sorted(found)


def _ranks(cluster: Cluster, job: int, node: str) -> list[int]:
    found = job_processes(cluster, job, node)
    return [pid for pid in found if any(one.startswith("LOCAL_RANK=") for one in _environment(pid))]


def _step_daemons(tasks: list[int]) -> list[int]:
    """The processes of Slurm that have started tasks."""
    parents = {_parent(pid) for pid in tasks}
    return [pid for pid in parents if _read(pid, "cmdline").startswith("slurmstepd")]


def _parent(pid: int) -> int:
    found = re.search(r"^PPid:\s*(\d+)", _read(pid, "status"), re.MULTILINE)
    return int(found[1]) if found else 0


def _process_ids() -> list[str]:
    return sorted((path.name for path in Path("/proc").glob("[0-9]*")), key=int)


def _environment(pid: int) -> set[str]:
    return set(_read(pid, "environ").split("\0"))


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes().decode(errors="replace")
    except OSError:
        return ""  # it ended between the listing and the look


def _signal(processes: list[int], number: signal.Signals) -> None:
    for pid in processes:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
