"""What can end or stop a job on a real Slurm: each done to a run that trains, and what has to follow."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from realslurm import wait_until
from slurmruns import SlurmRun

SUSPENDED_SECONDS = 90
"""Longer than the `hang_seconds` of such a run, and than the gap that counts as a suspension."""
CONTROLLER_AWAY_SECONDS = 20


@dataclass(frozen=True, kw_only=True)
class Event:
    """How it is made to happen, and what has to follow."""

    happen: Callable[[SlurmRun], None]
    then: Literal["comes back", "stays away", "goes on"] = "comes back"
    may_lose: bool = False
    """Steps since the last checkpoint."""
    at_once: bool = False
    """After the first step, without waiting for a checkpoint."""
    site: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    recipe: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Other than usual, so that its pack is not built yet: the event happens to the packing job."""


def preempt(run: SlurmRun) -> None:
    nodes = ",".join(run.attempts[-1].start.nodes)
    urgent = ["-p", "high", "-N2", f"-w{nodes}", "--exclusive", "--output=/dev/null", "--wrap=sleep 1"]
    run.bench.cluster.call("sbatch", *urgent)


def preempt_packing(run: SlurmRun) -> None:
    """Take all nodes when the packing job runs."""
    cluster, pack = run.bench.cluster, run.pack_job
    assert pack is not None, "the data is packed already"
    wait_until(lambda: cluster.state(pack) == "RUNNING", 120, lambda: str(cluster.job(pack)))
    run.bench.preempt()
    wait_until(lambda: int(cluster.job(pack)["Restarts"]) == 1, 120, lambda: str(cluster.job(pack)))


def wait_for_the_limit(run: SlurmRun) -> None:
    """Nothing is done: the job was given three minutes."""


def stop(run: SlurmRun) -> None:
    run.bench.gemfit("stop", run.run.root.name)


def cancel(run: SlurmRun) -> None:
    run.bench.cluster.call("scancel", str(run.job))


def kill_rank(run: SlurmRun) -> None:
    run.kill(run.ranks(run.attempts[-1].start.nodes[1])[:1])


def kill_node(run: SlurmRun) -> None:
    run.kill(run.processes(run.attempts[-1].start.nodes[1]))


def take_memory(run: SlurmRun) -> None:
    """No further allocation of a rank succeeds."""
    rank = run.ranks(run.attempts[-1].start.nodes[1])[0]
    run.bench.cluster.call("prlimit", f"--pid={rank}", "--as=1000000")


def suspend(run: SlurmRun) -> None:
    run.bench.cluster.call("scontrol", "suspend", str(run.job))
    time.sleep(SUSPENDED_SECONDS)
    run.bench.cluster.call("scontrol", "resume", str(run.job))


def set_node_down(run: SlurmRun) -> None:
    node = run.attempts[-1].start.nodes[1]
    run.bench.cluster.call("scontrol", "update", f"nodename={node}", "state=down", "reason=planted")
    wait_until(lambda: run.state != "RUNNING", 60, run.explain)
    run.bench.cluster.call("scontrol", "update", f"nodename={node}", "state=resume")


def restart_controller(run: SlurmRun) -> None:
    """The controller is away while the job, which was asked to save, requeues itself."""
    cluster = run.bench.cluster
    cluster.call("scancel", "--batch", "--signal=USR1", str(run.job))
    cluster.kill_controller()
    time.sleep(CONTROLLER_AWAY_SECONDS)
    cluster.start_controller()


EVENTS: Mapping[str, Event] = {
    "preemption": Event(happen=preempt),
    "time limit": Event(happen=wait_for_the_limit, at_once=True, site={"time": "3"}),
    "gemfit stop": Event(happen=stop, then="stays away"),
    "scancel": Event(happen=cancel, then="stays away"),
    "SIGKILL of a rank": Event(happen=kill_rank, may_lose=True),
    "SIGKILL of a node": Event(happen=kill_node, may_lose=True),
}
"""Under each kind of preemption."""

SINGLE_EVENTS: Mapping[str, Event] = {
    "suspension": Event(happen=suspend, then="goes on", site={"hang_seconds": 60}),
    "preemption (CANCEL)": Event(happen=preempt, site={"partition": "lowcancel"}),
    "DefaultTime": Event(happen=wait_for_the_limit, at_once=True, site={"partition": "lowshort"}),
    "no memory for a rank": Event(happen=take_memory, may_lose=True),
    "node down": Event(happen=set_node_down, may_lose=True),
    "controller restarted": Event(happen=restart_controller),
    "preempted packing": Event(happen=preempt_packing, then="goes on", recipe={"data.seq_len": "128"}),
}
"""Once: the kind of preemption changes nothing, or is part of the event."""
