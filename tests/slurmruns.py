"""A tiny training run as a Slurm job, and what a test wants to know of it."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from gemfit.rundir import RunDir
from gemfit.schemas.attempt_record import Verdict
from gemfit.schemas.metrics import StepRecord
from gemfit_launch.runs.metrics_tail import Tail
from gemfit_launch.slurm.records.job_attempts import JobAttempt, read_attempts
from gemfit_launch.slurm.records.job_files import JobFiles
from realslurm import Cluster, wait_until

SAMPLE = Path(__file__).parents[1] / "examples" / "conversations.jsonl"
RECIPE = {
    "model.scratch.vocab_size": "512",
    "model.scratch.hidden_size": "48",
    "model.scratch.intermediate_size": "96",
    "model.scratch.num_attention_heads": "2",
    "model.scratch.head_dim": "24",
    "model.scratch.sliding_window": "16",
    "data.seq_len": "64",
    "optim.warmup_steps": "2",
    "batch.global_batch_size": "12",  # divides over 2, 3 and 4 ranks
    "batch.max_per_device_batch_size": "4",
    "length.num_epochs": "null",
    "evaluation.every_steps": "1000",
    "checkpoint.every_steps": "1000",
}
SITE = {
    "name": "test",
    "partition": "low",
    "gpus_per_node": 0,
    "ranks_per_node": 2,
    "cpus_per_node": 2,
    "signal_lead_seconds": 60,
    "max_restarts": 1,
    "env": {"OMP_NUM_THREADS": "1"},
}
BACK_IN_THE_QUEUE_SECONDS = 12
"""A requeued job waits five seconds on this cluster, and the scheduler looks every two."""
START_SECONDS = 240
"""Of four ranks on two busy cores, after a wait for the queue."""


@dataclass(frozen=True)
class Bench:
    """A folder with conversations, on a cluster."""

    cluster: Cluster
    folder: Path

    @classmethod
    def prepare(cls, cluster: Cluster, folder: Path) -> Bench:
        """Write the conversations, and pack them once for all runs."""
        bench = cls(cluster, folder)
        with SAMPLE.open() as lines:
            (folder / "conversations.jsonl").write_text("".join(itertools.islice(lines, 24)))
        bench.gemfit("pack", *recipe_arguments({"length.max_steps": "1"}))
        return bench

    def submit(
        self,
        name: str,
        *,
        steps: int,
        nodes: int | str = 2,
        every: int = 1000,
        changes: Mapping[str, str] = MappingProxyType({}),
        **site: object,
    ) -> SlurmRun:
        """A run of ``steps`` steps, saved ``every`` so many.

        ``changes`` replace what the recipe says, ``site`` what the site says.
        """
        place = self.folder / f"{name}.site.yaml"
        place.write_text(json.dumps(SITE | site))  # JSON is YAML
        recipe = recipe_arguments(
            {"length.max_steps": str(steps), "checkpoint.every_steps": str(every), **changes}
        )
        options = ["--site", str(place), "--nodes", str(nodes), "--run", name, "--json"]
        answer = json.loads(self.gemfit("submit", *recipe, *options))
        return SlurmRun(self, RunDir(self.folder / name), answer["job"], answer["pack_job"])

    def gemfit(self, *arguments: str) -> str:
        """Standard output of one command of the launcher on the login node."""
        done = subprocess.run(
            [sys.executable, "-m", "gemfit_launch.cli", *arguments],
            cwd=self.folder,
            env=self.cluster.environment | {"GEMFIT_CACHE": str(self.folder / "cache")},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, f"gemfit {' '.join(arguments)}\n{done.stdout}{done.stderr}"
        return done.stdout

    def preempt(self, seconds: int = 1, nodes: int = 4) -> int:
        """Submit a job that takes whole nodes from everybody else; its id."""
        urgent = ["-p", "high", f"-N{nodes}", "--exclusive", "--output=/dev/null", f"--wrap=sleep {seconds}"]
        return int(self.cluster.call("sbatch", "--parsable", *urgent))


@dataclass(frozen=True)
class SlurmRun:
    """One run, and the job that trains it."""

    bench: Bench
    run: RunDir
    job: int
    pack_job: int | None = None

    @property
    def steps(self) -> list[StepRecord]:
        """In the order of writing, over all attempts."""
        return [record for record in Tail(self.run.metrics_file).read() if isinstance(record, StepRecord)]

    @property
    def attempts(self) -> list[JobAttempt]:
        return read_attempts(self.run)

    @property
    def verdict(self) -> Verdict | None:
        return self.run.verdict()

    @property
    def state(self) -> str:
        return self.bench.cluster.state(self.job)

    @property
    def job_log(self) -> str:
        """What the batch shell said."""
        path = JobFiles(self.run).log("train", self.job)
        return path.read_text() if path.is_file() else ""

    def explain(self) -> str:
        """Job state and logs, for assertion messages."""
        logs = "\n".join(
            f"== {path.name}\n{path.read_text()[-3000:]}" for path in sorted(self.run.logs.glob("*.log"))
        )
        return f"job {self.job}: {self.bench.cluster.job(self.job)}\n{self.job_log}\n{logs}"

    def await_step(self, step: int, *, attempt: int = 1, seconds: float = START_SECONDS) -> None:
        """Return when ``attempt`` has done ``step``."""

        def reached() -> bool:
            return any(record.attempt == attempt and record.step >= step for record in self.steps)

        wait_until(reached, seconds, self.explain)

    def await_end(self, seconds: float = 2 * START_SECONDS) -> str:
        """The job's state once it is over for good."""
        over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED")
        wait_until(lambda: self.state in over, seconds, self.explain)
        return self.state

    def await_attempt_over(self, attempt: int, seconds: float = START_SECONDS) -> None:
        """Return when the books of ``attempt`` are closed: by itself, or by the next one."""

        def closed() -> bool:
            return any(a.end is not None for a in self.attempts if a.start.attempt == attempt)

        wait_until(closed, seconds, self.explain)

    def processes(self, node: str) -> list[int]:
        """Everything that runs for this job on a node, besides Slurm's own."""
        pids = [int(folder.name) for folder in Path("/proc").glob("[0-9]*")]
        return [pid for pid in pids if str(self.run.root) in _command(pid) and _node(pid) == node]

    def ranks(self, node: str) -> list[int]:
        """The processes on a node that train."""
        launched = re.compile(r"\S*python\S* (-u )?-m gemfit\.train ")
        return [pid for pid in self.processes(node) if launched.match(_command(pid))]

    def kill(self, pids: list[int]) -> None:
        assert pids, "there is nothing to kill"
        for pid in pids:
            with suppress(ProcessLookupError):  # it ended with its parent
                os.kill(pid, signal.SIGKILL)


def losses_by_step(steps: list[StepRecord]) -> dict[int, float]:
    """The loss of each step; of one that was done twice, the later."""
    return {record.step: record.loss for record in steps}


def recipe_arguments(changes: dict[str, str]) -> list[str]:
    settings = [part for key, value in (RECIPE | changes).items() for part in ("--set", f"{key}={value}")]
    return ["debug/cpu-tiny", "--data", "conversations.jsonl", *settings]


def _node(pid: int) -> str:
    """Where Slurm started a process; all nodes are this machine."""
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return ""
    return dict(variable.partition("=")[::2] for variable in variables).get("SLURMD_NODENAME", "")


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
    except OSError:
        return ""  # it ended between the listing and the look
