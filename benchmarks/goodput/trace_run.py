"""A run under the trace, and one without it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accounting import DoneEvent, DoneStep, account
from cluster_events import carry_out, repair
from event_trace import PlannedEvent, trace_end
from sides import Side

from realslurm import Cluster, wait_until

SAMPLE_SECONDS = 0.5
REPAIR_SECONDS = 12.0
"""After an event: nodes that were lost come back."""
PATIENCE_SECONDS = 300.0


def train_under(cluster: Cluster, side: Side, trace: Sequence[PlannedEvent], out: Path) -> None:
    """Submit, let the events happen at their times, end the job, and write all that was recorded."""
    job = side.submit()
    events = []
    with sampled_states(cluster, job) as states:
        wait_until(lambda: cluster.state(job) == "RUNNING", PATIENCE_SECONDS)
        began = time.time()
        for event in trace:
            _sleep_until(began + event.at)
            wait_until(lambda: cluster.state(job) == "RUNNING", PATIENCE_SECONDS)
            late = max(0.0, time.time() - began - event.at)
            events.append(DoneEvent(event.kind, carry_out(cluster, job, event), late))
            print(
                f"{side.name}: {time.time() - began:5.0f} s: {event.kind}, {len(side.steps())} steps",
                flush=True,
            )
            time.sleep(REPAIR_SECONDS)
            repair(cluster)
        _sleep_until(began + trace_end(trace))
        ended = time.time()
    cluster.call("scancel", str(job))
    _await_end(cluster, job)
    steps = [one for one in side.steps() if one.time <= ended]
    found = account(steps, [*states, (ended, "")], events).as_dict()
    found |= {"events": [asdict(one) for one in events], "states": states}
    out.write_text(json.dumps(found | {"steps": [asdict(one) for one in steps]}))


def train_unbroken(cluster: Cluster, side: Side, steps: int, out: Path) -> None:
    """Submit, and end the job after so many steps."""
    job = side.submit()

    def reached() -> bool:
        assert cluster.state(job) in ("PENDING", "RUNNING"), f"job {job} is {cluster.state(job)}"
        return max((one.step for one in side.steps()), default=0) >= steps

    wait_until(reached, PATIENCE_SECONDS + 5.0 * steps)
    cluster.call("scancel", str(job))
    _await_end(cluster, job)
    out.write_text(json.dumps({"steps": [asdict(one) for one in side.steps()]}))


@contextmanager
def sampled_states(cluster: Cluster, job: int) -> Iterator[list[tuple[float, str]]]:
    """Times and states of a job, as the controller shows them while the block lasts."""
    states: list[tuple[float, str]] = []
    over = threading.Event()

    def sample() -> None:
        while not over.wait(SAMPLE_SECONDS):
            shown = cluster.call("squeue", "-h", "-j", str(job), "-o", "%T", check=False)
            states.append((time.time(), shown.strip()))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield states
    finally:
        over.set()
        thread.join()


def read_steps(found: dict[str, Any]) -> list[DoneStep]:
    """The steps that a run has written."""
    return [DoneStep(**line) for line in found["steps"]]


def _await_end(cluster: Cluster, job: int) -> None:
    wait_until(lambda: cluster.state(job) == "CANCELLED", PATIENCE_SECONDS)


def _sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.time()))
