"""SIGKILL to a random process of a job on a real Slurm, again and again: all others end, and the run returns.

    python tests/slurm/kill.py [--minutes 10] [--seed 1]

The batch shell, srun, the supervisor of a node, accelerate, a rank, the packing task or its builder is killed
at a random moment; in some rounds the pack is removed before. Every process of that attempt has to end within
``PATIENCE_SECONDS``; what Slurm does not requeue is brought back by `gemfit resume`. In the end every loss,
those of steps taken again included, must have the bits of a run that was never killed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from random_kills import living, rarest, report
from realslurm import running_cluster
from slurmruns import START_SECONDS, Bench, SlurmRun

PATIENCE_SECONDS = 30.0
STEPS = 5000
KINDS = {
    "batch shell": re.compile(r"\S*bash \S*slurm_script"),
    "srun": re.compile(r"srun "),
    "supervisor": re.compile(r"\S*python\S* -P -m gemfit_launch\.slurm\.node\.node "),
    "accelerate": re.compile(r"\S*python\S* -m accelerate\.commands\.launch "),
    "rank": re.compile(r"\S*python\S* (-u )?-m gemfit\.train "),
    "packing task": re.compile(r"\S*python\S* -P -m gemfit_launch\.slurm\.node\.pack_job build "),
    "builder": re.compile(r"\S*python\S* -P -m gemfit\.data "),
}
PACK_SHARE = 0.3
"""Of the kills, those in a packing job: the pack is removed before."""
LONGEST_SECONDS = 25.0
"""From the start of a job to the kill."""


class Chase:
    """One run, and the rounds in which one of its processes was killed."""

    def __init__(self, bench: Bench, seed: int) -> None:
        self.bench, self.random = bench, random.Random(seed)
        self.kills: list[str] = []
        self.longest = 0.0
        self.problems: list[str] = []
        self.slurm_run = bench.submit("killed", steps=STEPS, nodes=1, every=2, max_restarts=100_000)

    def members(self) -> dict[int, str]:
        """The living processes of all jobs, by id, and what each is."""
        return living(f"GEMFIT_CACHE={self.bench.folder}/cache", KINDS)

    def bring_back(self) -> None:
        """Resume the run if its job is over, in some rounds with a pack to build."""
        run = self.slurm_run
        if run.state in ("RUNNING", "PENDING", "COMPLETING"):
            return
        if self.random.random() < PACK_SHARE:
            shutil.rmtree(self.bench.folder / "cache" / "packs", ignore_errors=True)
        answer = self.bench.gemfit("resume", run.run.root.name, "--json")
        made = json.loads(answer[answer.index("{") :])
        self.slurm_run = SlurmRun(self.bench, run.run, made["job"], made["pack_job"])

    def round(self) -> None:
        """Wait for a job, kill one of its processes, and see that the others end."""
        deadline = time.monotonic() + START_SECONDS
        while not self.members():
            assert time.monotonic() < deadline, self.slurm_run.explain()
            self.bring_back()
            time.sleep(0.5)
        time.sleep(self.random.uniform(0.0, LONGEST_SECONDS))
        found = self.members()
        kinds = sorted({kind for kind in found.values() if kind != "other"})
        if not kinds:
            return
        kind = rarest(kinds, self.kills, self.random)
        # The smallest id: srun has a child that only waits for its end.
        same = [pid for pid, other in found.items() if other == kind]
        victim = min(same) if kind == "srun" else self.random.choice(same)
        if kind != "batch shell":  # it may begin the next attempt on the same nodes
            found = {pid: other for pid, other in found.items() if other != "batch shell"}
        with suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
        self.kills.append(kind)
        killed = time.monotonic()
        while left := found.keys() & self.members().keys():
            if time.monotonic() - killed > PATIENCE_SECONDS:
                names = ", ".join(sorted(found[pid] for pid in left))
                self.problems.append(f"kill {len(self.kills)} of {kind}: {names} still alive")
                break
            time.sleep(0.1)
        self.longest = max(self.longest, time.monotonic() - killed)
        sys.stdout.write(f"{kind}: all ended after {time.monotonic() - killed:.1f} s\n")
        sys.stdout.flush()

    def finish(self) -> None:
        """Let the run go on for some steps, and stop it."""
        reached = len(self.slurm_run.steps)
        deadline = time.monotonic() + START_SECONDS
        while len(self.slurm_run.steps) < reached + 3:
            assert time.monotonic() < deadline, self.slurm_run.explain()
            self.bring_back()
            time.sleep(0.5)
        run = self.slurm_run
        self.bench.gemfit("stop", run.run.root.name)
        run.await_end()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, running_cluster(Path(folder) / "cluster") as cluster:
        bench = Bench.prepare(cluster, Path(folder))
        chase = Chase(bench, options.seed)
        deadline = time.monotonic() + 60 * options.minutes
        while time.monotonic() < deadline:
            chase.round()
        chase.finish()
        taken = chase.slurm_run.steps
        reached = max(record.step for record in taken)
        whole = bench.submit("whole", steps=STEPS, nodes=1, every=2)
        whole.await_step(reached)
        bench.gemfit("stop", "whole")
        whole.await_end()
        expected = {record.step: record.loss for record in whole.steps if record.step <= reached}
        return report(chase.kills, chase.longest, taken, expected, chase.problems)


if __name__ == "__main__":
    sys.exit(main())
