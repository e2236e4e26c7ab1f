"""SIGKILL to all ranks of a run, again and again, at random moments: does it always come back.

    python tests/checkpoints/kill.py [--kills 200] [--strategy fsdp2] [--seed 1] [--json]

Two ranks train a tiny Gemma 3 and save every two steps. One kill in four falls into start-up or resuming, the
others within the next dozen records. After each, what may be resumed is determined here by
reading every file, apart from the code under test; the next attempt must go on from there. In the
end every loss, those of steps taken again included, must have the bits of a run that was never killed.
A step is lost when it is in the metrics and not in the checkpoint that is resumed: at most
`checkpoint.max_lost_steps` of them (here one interval), or twice the interval with --unbounded.
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import re
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import xxhash

sys.path.insert(0, str(Path(__file__).parents[1]))

from forked_ranks import Attempt, assert_one_thread, start
from gemfit.errors import ExitCode
from gemfit.rundir import RunDir
from gemfit.schemas.plan import Plan
from tiny_runs import make_plan, sample, steps_of

INTERVAL = 2
STARTUP_SHARE = 0.25
MOST_STEPS = 12
LIMIT_SECONDS = 120.0
RESUMED = re.compile(r"resumed at step (\d+) from (\S+)")


@dataclass(frozen=True, slots=True)
class Kill:
    """One kill, and what the next attempt made of it."""

    phase: str
    """`starting`, `training` or `saving`: where it fell."""
    reached: int
    """The last step in the metrics."""
    resumed: int
    """The step of the checkpoint that the next attempt went on from; 0 without one."""


class Chase:
    """One run and its kills."""

    def __init__(self, run: RunDir, seed: int) -> None:
        self.run, self.random = run, random.Random(seed)
        self.startup_seconds = 2.0
        self.kills: list[Kill] = []
        self.bad: list[str] = []
        """Names of folders that must not be resumed from, after the last kill."""
        self.resumes = 0
        self.retired: set[Path] = set()

    def strike(self) -> None:
        """Start an attempt, kill it, and check what the one after it will have to do."""
        attempt = start(self.run)
        self._wait_for_the_moment(attempt)
        attempt.kill()
        self.check_resumed(attempt)
        trained = any(record.attempt == attempt.attempt for record in steps_of(self.run))
        phase = "saving" if self._was_saving(attempt) else "training" if trained else "starting"
        self.kills.append(Kill(phase, self.reached, newest_whole(self.run)))
        self.bad = bad_folders(self.run)

    def finish(self, step: int) -> None:
        """One attempt that is not killed, to ``step``."""
        attempt = start(self.run, stop_at=step)
        if (code := attempt.wait()) is not ExitCode.STOPPED:
            sys.exit(f"the last attempt ended with {code.name}:\n{attempt.log()[-4000:]}")
        self.check_resumed(attempt)

    def check_resumed(self, attempt: Attempt) -> None:
        """Stop unless ``attempt`` went on from the step that was found after the kill before it."""
        found = RESUMED.search(attempt.log())
        expected = self.kills[-1].resumed if self.kills else 0
        if found is None:
            first = next((r.step for r in steps_of(self.run) if r.attempt == attempt.attempt), None)
            if first is not None and (first, expected) != (1, 0):
                sys.exit(f"attempt {attempt.attempt} began with step {first}, {expected} is saved")
            return
        if (step := int(found[1])) != expected:
            sys.exit(f"attempt {attempt.attempt} resumed at {step}, but the newest whole one is {expected}")
        if unnamed := [name for name in self.bad if name not in attempt.log()]:
            sys.exit(f"attempt {attempt.attempt} passed over {unnamed} and does not say so:\n{attempt.log()}")
        self.resumes += 1

    @property
    def reached(self) -> int:
        records = steps_of(self.run)
        return max((record.step for record in records), default=0)

    def _wait_for_the_moment(self, attempt: Attempt) -> None:
        if self.random.random() < STARTUP_SHARE:
            time.sleep(self.random.uniform(0, self.startup_seconds))
            return
        begun = time.monotonic()
        self._wait_for_records(attempt, 1)
        self.startup_seconds, begun = time.monotonic() - begun, time.monotonic()
        # By records and not by seconds, since the machine may be busy; then by a part of a step.
        more = self.random.randrange(MOST_STEPS)
        self._wait_for_records(attempt, more)
        time.sleep(self.random.uniform(0, (time.monotonic() - begun) / max(more, 1)))

    def _wait_for_records(self, attempt: Attempt, count: int) -> None:
        """Until there are ``count`` more lines of metrics; each step and each commit writes one."""
        wanted, begun = self._records() + count, time.monotonic()
        while self._records() < wanted:
            if attempt.ended or time.monotonic() - begun > LIMIT_SECONDS:
                sys.exit(f"attempt {attempt.attempt} does not go on:\n{attempt.log()[-4000:]}")
            time.sleep(0.002)

    def _was_saving(self, attempt: Attempt) -> bool:
        """Whether a save, or the removal of what it replaces, was cut short."""
        staged = self.run.checkpoints.glob(f".staging-*-{attempt.attempt}")
        # Taken apart: attempts before this one may have left some too, until the next save begins.
        retired = set(self.run.checkpoints.glob(".retired-*"))
        cut_short, self.retired = retired - self.retired, retired
        return bool(cut_short) or any(staged)

    def _records(self) -> int:
        return self.run.metrics_file.read_bytes().count(b"\n") if self.run.metrics_file.exists() else 0


def bad_folders(run: RunDir) -> list[str]:
    """Names of everything that looks like a checkpoint and is not whole."""
    staged = [path.name for path in run.checkpoints.glob(".staging-*")]
    return staged + [folder.name for folder in run.committed() if whole(folder) is None]


def newest_whole(run: RunDir) -> int:
    """The step to resume from, by reading every file of every checkpoint; 0 where none is whole."""
    manifests = [manifest for folder in run.committed() if (manifest := whole(folder)) is not None]
    newest = max(manifests, key=lambda m: (m["attempt"], m["step"]), default={"step": 0})
    return int(newest["step"])


def whole(folder: Path) -> dict[str, Any] | None:
    """The manifest of a folder in which it and every file that it names is as it was written."""
    path, digest = folder / "manifest.json", folder / "manifest.xxh3"
    if not path.exists() or not digest.exists() or _xxh3(path) != digest.read_text():
        return None
    manifest: dict[str, Any] = json.loads(path.read_bytes())
    files = [(folder / file["path"], file["xxh3"]) for file in manifest["files"]]
    return manifest if all(file.exists() and _xxh3(file) == xxh3 for file, xxh3 in files) else None


def _xxh3(path: Path) -> str:
    return str(xxhash.xxh3_128_hexdigest(path.read_bytes()))


def refuse_other_losses(run: RunDir, reference: RunDir) -> int:
    """Stop unless each step, as often as it was taken, has the loss and rows of ``reference``."""
    expected = {r.step: (r.loss, r.rows_digest) for r in steps_of(reference)}
    records = steps_of(run)
    for record in records:
        if (record.loss, record.rows_digest) != expected[record.step]:
            sys.exit(f"step {record.step} of attempt {record.attempt} is not that of the reference")
    if {record.step for record in records} != expected.keys():
        sys.exit("some steps were never taken")
    return len(records)


def chase(root: Path, plan: Plan, *, kills: int, seed: int) -> dict[str, Any]:
    """Kill ``kills`` times, let the run end, and compare it with one that was never killed."""
    chase = Chase(RunDir.create(root / "killed", plan), seed)
    for number in range(1, kills + 1):
        chase.strike()
        print(f"\r{number}/{kills}, step {chase.reached} ", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    last = chase.reached + INTERVAL
    chase.finish(last)
    reference = Chase(RunDir.create(root / "reference", plan), seed)
    reference.finish(last)
    taken = refuse_other_losses(chase.run, reference.run)
    lost = [kill.reached - kill.resumed for kill in chase.kills]
    return {
        "kills": kills,
        "phases": dict(collections.Counter(kill.phase for kill in chase.kills)),
        "attempts_that_went_on": chase.resumes,
        "steps": last,
        "steps_taken": taken,
        "kills_by_steps_lost": dict(sorted(collections.Counter(lost).items())),
        "each": [asdict(kill) for kill in chase.kills],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--strategy", default="fsdp2")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--synchronous", action="store_true", help="checkpoint.asynchronous: false")
    parser.add_argument("--unbounded", action="store_true", help="checkpoint.max_lost_steps: null")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        plan = make_plan(
            sample(root),
            arguments.strategy,
            ranks=2,
            length__max_steps=1_000_000,
            optim__schedule="constant_with_warmup",
            checkpoint__every_steps=INTERVAL,
            checkpoint__keep=2,
            checkpoint__asynchronous=not arguments.synchronous,
            checkpoint__max_lost_steps=None if arguments.synchronous or arguments.unbounded else INTERVAL,
        )
        assert_one_thread()
        found = chase(root, plan, kills=arguments.kills, seed=arguments.seed)
    each = found.pop("each")
    print(json.dumps(found | {"each": each} if arguments.json else found, indent=2))
    # Without a bound a save may be under way until the next one is due.
    intervals = 2 if arguments.unbounded else 1
    return 0 if max(found["kills_by_steps_lost"]) <= intervals * INTERVAL else 1


if __name__ == "__main__":
    sys.exit(main())
