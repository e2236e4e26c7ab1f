"""Everything that can end or stop a job, on a real Slurm, under each kind of preemption: a table.

``python tests/slurm/matrix.py [--events preemption …] [--out FILE]``; some 25 minutes on two cores.
The cases of both grace times run side by side, each on two of the four nodes. Ends with status 1 when
something is not as it must be.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from realslurm import Cluster, running_cluster
from slurm_events import EVENTS, SINGLE_EVENTS, Event
from slurmruns import BACK_IN_THE_QUEUE_SECONDS, Bench, SlurmRun

PARTITIONS = {0: "low", 15: "lowgrace"}
SIGNAL = {"on": "SlurmctldParameters=preempt_send_user_signal", "off": ""}
EVERY_STEPS = 10
"""Between checkpoints. A kill costs at most twice as many: a save may have been under way."""
HEAD = """\
| GraceTime | user signal | what happened | attempt 1 | at step | saved | lost | then |
|---|---|---|---|---|---|---|---|
"""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row: what is done to a run that has done some steps."""

    grace: int
    signal: str
    event: str

    @property
    def what(self) -> Event:
        return {**EVENTS, **SINGLE_EVENTS}[self.event]

    @property
    def name(self) -> str:
        return f"{self.event.replace(' ', '-')}-{self.grace}-{self.signal}"


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of it."""

    case: Case
    how: str
    reached: int
    """The last step of attempt 1."""
    saved: int
    then: str
    problems: tuple[str, ...]

    @property
    def row(self) -> str:
        case, lost = self.case, self.reached - self.saved
        cells = (case.grace, case.signal, case.event, self.how, self.reached, self.saved, lost, self.then)
        return f"| {' | '.join(map(str, cells))} |\n"


def carry_out(bench: Bench, case: Case) -> Result:
    """Train, let it happen, and see what comes back."""
    event = case.what
    site: dict[str, Any] = {
        "partition": PARTITIONS[case.grace],
        "ranks_per_node": 1,
        "cpus_per_node": 4,  # whole nodes: the cases side by side must not disturb each other
        **event.site,
    }
    run = bench.submit(case.name, steps=100_000, every=EVERY_STEPS, changes=event.recipe, **site)
    if not event.recipe:
        run.await_step(1 if event.at_once else EVERY_STEPS + 3)
    event.happen(run)
    if event.then == "goes on":
        run.await_step(max([EVERY_STEPS, *(record.step for record in run.steps)]) + 3, seconds=240)
    else:
        run.await_attempt_over(1, seconds=240)
    if event.then == "comes back":
        run.await_step(1, attempt=2, seconds=240)
    elif event.then == "stays away":
        time.sleep(BACK_IN_THE_QUEUE_SECONDS)
    result = judge(run, case)
    bench.cluster.call("scancel", str(run.job), check=False)
    run.await_end()
    return result


def judge(run: SlurmRun, case: Case) -> Result:
    """Compare with what must have happened."""
    event, (first, *later) = case.what, run.attempts
    reached = max(record.step for record in run.steps if record.attempt == 1)
    problems = []
    if bool(later) != (event.then == "comes back"):
        problems.append("came back" if later else "did not come back")
    if event.then == "goes on":
        how = first.end.outcome if first.end else "not ended"
        return Result(
            case=case, how=how, reached=reached, saved=reached, then="goes on", problems=tuple(problems)
        )
    how = first.end.outcome if first.end else "no record"
    saved = later[0].start.step if later else first.end.step if first.end else 0
    then = f"attempt 2 under the same id, from step {saved}" if later else f"ends: {run.state.lower()}"
    if later and "requeued, without" in run.job_log:
        then += f", {run.job_log.rpartition(': requeued, ')[2].splitlines()[0]}"
    if reached - saved > (2 * EVERY_STEPS if event.may_lose else 0):
        problems.append(f"lost {reached - saved} steps")
    return Result(case=case, how=how, reached=reached, saved=saved, then=then, problems=tuple(problems))


def run_matrix(cluster: Cluster, bench: Bench, signals: Sequence[str], events: Sequence[str]) -> list[Result]:
    """All cases, those of both grace times side by side."""
    results = []
    rows = [
        (signal, [Case(grace=grace, signal=signal, event=event) for grace in PARTITIONS])
        for signal, event in itertools.product(signals, [name for name in EVENTS if name in events])
    ]
    single = [Case(grace=0, signal="off", event=name) for name in SINGLE_EVENTS if name in events]
    for signal, cases in [*rows, *(("off", [case]) for case in single)]:
        cluster.set_parameters(SIGNAL[signal])
        with ThreadPoolExecutor() as pool:
            found = list(pool.map(lambda case: carry_out(bench, case), cases))
        for result in found:
            sys.stdout.write(result.row + "".join(f"  PROBLEM: {text}\n" for text in result.problems))
            sys.stdout.flush()
        results += found
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    names = [*EVENTS, *SINGLE_EVENTS]
    parser.add_argument("--events", nargs="+", choices=names, default=names)
    parser.add_argument("--user-signal", nargs="+", choices=SIGNAL, default=list(SIGNAL))
    parser.add_argument("--out", type=Path, help="write the table into this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, running_cluster(Path(folder) / "cluster") as cluster:
        bench = Bench.prepare(cluster, Path(folder))
        version = cluster.call("sinfo", "--version").strip()
        results = run_matrix(cluster, bench, arguments.user_signal, arguments.events)
    table = HEAD + "".join(result.row for result in results)
    if arguments.out:
        arguments.out.write_text(INTRODUCTION.format(version=version, cores=os.cpu_count()) + table)
    return int(any(result.problems for result in results))


INTRODUCTION = """\
# What happens to a job on a real Slurm

Made by `make slurm-matrix` ({version}, {cores} cores, 2 nodes x 1 rank, a checkpoint every 10 steps,
KillWait 10 s). `user signal` is SlurmctldParameters=preempt_send_user_signal. `at step` is the last step
of attempt 1, `saved` where the run can go on, `lost` what is done twice. A node that was killed is avoided
by the next attempt.

"""


if __name__ == "__main__":
    sys.exit(main())
