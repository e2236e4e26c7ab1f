"""A run on two nodes is preempted by an urgent job and comes back: on a real Slurm, in some two minutes.

``python tests/slurm/demo.py``; Slurm is installed with apt-get when it is missing.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from realslurm import NoSlurm, running_cluster
from slurmruns import Bench, losses_by_step

STEPS = 100  # some ten seconds: enough for an urgent job to come in between


def main() -> int:
    """Start a cluster, submit, preempt, and tell what happens."""
    try:
        with tempfile.TemporaryDirectory() as folder, running_cluster(Path(folder) / "cluster") as cluster:
            say(f"a Slurm of four nodes is up: {cluster.call('sinfo', '--version').strip()}")
            bench = Bench.prepare(cluster, Path(folder))
            show(bench)
    except NoSlurm as reason:
        sys.stderr.write(f"error: {reason}\n")
        return 2
    return 0


def show(bench: Bench) -> None:
    """The story of one run."""
    run = bench.submit("demo", steps=STEPS, ranks_per_node=1)
    say(f"submitted: job {run.job} trains {STEPS} steps on 2 nodes")
    run.await_step(10)
    say("step 10 is done; an urgent job now takes all four nodes")
    urgent = bench.preempt(seconds=5)
    run.await_attempt_over(1)
    say(bench.cluster.call("squeue", "--format=%i %P %j %T %r").strip(), f"(job {urgent} is the urgent one)")
    run.await_step(1, attempt=2)
    say("the same job is back:")
    say(bench.gemfit("status", "demo").strip())
    run.await_end()
    say("what the job wrote:", run.job_log.strip())
    once, twice = len(losses_by_step(run.steps)), len(run.steps) - STEPS
    say(f"{once} steps in {len(run.attempts)} attempts of job {run.job}; {twice} of them done twice")


def say(*lines: str) -> None:
    """Print, at once, whatever stdout is."""
    sys.stdout.write("\n".join(lines) + "\n\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
