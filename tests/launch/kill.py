"""SIGKILL to a random process of `gemfit run`, again and again: all others end, and the run comes back.

    python tests/launch/kill.py [--minutes 10] [--seed 1] [--strategy fsdp2]

The launcher, the builder of the pack, accelerate or one of two ranks is killed at a random moment of packing,
start-up or training; in some rounds the pack is removed before. Afterwards no process of the round may be
alive after ``PATIENCE_SECONDS``, and the next command has to continue the run. In the end every loss, those
of steps taken again included, must have the bits of a run that was never killed.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from gemfit.errors import ExitCode
from gemfit.rundir import RunDir
from random_kills import living, rarest, report
from slurmruns import RECIPE, SAMPLE
from tiny_runs import steps_of

PATIENCE_SECONDS = 30.0
MARK = "KILL_ROUND"
"""Variable that tells the processes of one round from all others."""
STEPS = 2000
RANKS = ("--nproc", "2", "--device", "cpu")
KINDS = {
    "rank": re.compile(r"\S*python\S* (-u )?-m gemfit\.train "),
    "accelerate": re.compile(r"\S*python\S* -m accelerate\.commands\.launch "),
    "builder": re.compile(r"\S*python\S* -P -m gemfit\.data "),
    "launcher": re.compile(r"\S*python\S* -m gemfit_launch\.cli "),
}
PACK_SHARE = 0.25
"""Of the rounds, those whose pack is removed before."""
START_SHARE = 0.5
"""Of the kills, those at a moment of packing and start-up."""
TRAINING_SECONDS = 3.0


class Chase:
    """One run, and the rounds in which one of its processes was killed."""

    def __init__(self, folder: Path, strategy: str, seed: int) -> None:
        self.folder, self.strategy, self.random = folder, strategy, random.Random(seed)
        self.kills: list[str] = []
        self.longest = 0.0
        self.start_seconds = 20.0
        self.problems: list[str] = []

    def command(self, name: str) -> list[str]:
        """Begin the run, or continue it."""
        if (self.folder / name / "plan.json").is_file():
            return ["resume", name, *RANKS]
        changes = {"length.max_steps": str(STEPS), "checkpoint.every_steps": "2"}
        settings = [f"--set={key}={value}" for key, value in (RECIPE | changes).items()]
        start = ["run", "debug/cpu-tiny", "--data", "talks.jsonl", "--strategy", self.strategy]
        return [*start, *RANKS, *settings, "--run", name]

    def start(self, *arguments: str) -> tuple[subprocess.Popen[bytes], str]:
        """Start gemfit with a mark that all its descendants inherit."""
        mark = uuid.uuid4().hex
        with (self.folder / "output").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "gemfit_launch.cli", *arguments],
                cwd=self.folder,
                env=os.environ | {"GEMFIT_CACHE": str(self.folder / "cache"), MARK: mark},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return process, mark

    def round(self, name: str) -> None:
        """Start, kill a process at some moment, and see that nothing stays."""
        if self.random.random() < PACK_SHARE:
            shutil.rmtree(self.folder / "cache" / "packs", ignore_errors=True)
        process, mark = self.start(*self.command(name))
        self.wait(process, RunDir(self.folder / name))
        found = members(mark)
        kinds = sorted({kind for kind in found.values() if kind != "other"})
        if process.poll() is None and kinds:
            kind = rarest(kinds, self.kills, self.random)
            kill(self.random.choice([pid for pid, other in found.items() if other == kind]))
            self.kills.append(kind)
        killed = time.monotonic()
        while left := members(mark, process):
            if time.monotonic() - killed > PATIENCE_SECONDS:
                names = ", ".join(sorted(left.values()))
                self.problems.append(f"kill {len(self.kills)} of {self.kills[-1]}: {names} still alive")
                for pid in left:
                    kill(pid)
            time.sleep(0.1)
        seconds = time.monotonic() - killed
        self.longest = max(self.longest, seconds)
        sys.stdout.write(f"{self.kills[-1] if self.kills else 'none'}: all ended after {seconds:.1f} s\n")
        sys.stdout.flush()

    def wait(self, process: subprocess.Popen[bytes], run: RunDir) -> None:
        """Let a random part of the start-up pass, or the start-up and a random part of the training."""
        if self.random.random() < START_SHARE:
            time.sleep(self.random.uniform(0.2, self.start_seconds))
            return
        before, began = len(steps_of(run)), time.monotonic()
        while process.poll() is None and len(steps_of(run)) == before:
            time.sleep(0.1)
        self.start_seconds = time.monotonic() - began
        time.sleep(self.random.uniform(0.0, TRAINING_SECONDS))

    def finish(self, name: str, *arguments: str) -> None:
        """One attempt that nobody kills."""
        process, _ = self.start(*arguments)
        if process.wait() != ExitCode.STOPPED:
            self.problems.append(f"gemfit {arguments[0]} {name} ends with status {process.returncode}")


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def members(mark: str, process: subprocess.Popen[bytes] | None = None) -> dict[int, str]:
    """The living processes of a round, by id, and what each is."""
    if process is not None:
        process.poll()
    return living(f"{MARK}={mark}", KINDS)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--strategy", default="fsdp2", choices=("ddp", "fsdp2", "zero2", "zero3"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        chase = Chase(Path(folder), options.strategy, options.seed)
        with SAMPLE.open() as lines:
            (chase.folder / "talks.jsonl").write_text("".join(itertools.islice(lines, 24)))
        began = time.monotonic()
        deadline = began + 60 * options.minutes
        while time.monotonic() < deadline:
            chase.round("run")
        return finish(chase)


def finish(chase: Chase) -> int:
    """Let the run and one that nobody kills reach the same step, and compare them."""
    run = RunDir(chase.folder / "run")
    reached = max((record.step for record in steps_of(run)), default=0)
    chase.finish("run", *chase.command("run"), "--stop-at", str(reached + 2))
    chase.finish("whole", *chase.command("whole"), "--stop-at", str(reached + 2))
    whole = {record.step: record.loss for record in steps_of(RunDir(chase.folder / "whole"))}
    return report(chase.kills, chase.longest, steps_of(run), whole, chase.problems)


if __name__ == "__main__":
    sys.exit(main())
