"""How long a training step waits for a save, and how long a run takes to come back.

    python benchmarks/checkpoint_stall.py --model DIR|scratch:SIZE [--every 8] [--saves 2] [--json]

One process trains on short rows and saves: synchronously, asynchronously, and as HF ``Trainer`` does.
The three ways are forked from one parent and follow each other. The wait is that of the call that saves; what
is written in the background shows in the step after it. Trainer's files are then flushed to disk apart
from that, since gemfit's are flushed and digested before they count.

Coming back is measured from the start of a process that has imported everything to the beginning of its
first step, after step 10 and after step 10,000, the best of three. The checkpoint of step 10,000 says so,
but holds the weights of an early one.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from transformers import Trainer, TrainerCallback

from forked_ranks import assert_one_thread, start
from gemfit.core.atomic_file import write_atomic
from gemfit.errors import ExitCode
from gemfit.rundir import RunDir
from gemfit.schemas.plan import Plan
from gemfit.train.loop.trainer import PackedTrainer
from tiny_runs import TINY, Settings, make_plan, sample

LATE_STEPS = (10, 10_000)
FIRST_STEP = "first-step.json"
SCRATCH: dict[str, Settings] = {
    "tiny": TINY,
    "100m": {
        "model.scratch.hidden_size": 640,
        "model.scratch.intermediate_size": 2048,
        "model.scratch.num_hidden_layers": 18,
        "model.scratch.head_dim": 256,
    },
}


class Timed(PackedTrainer):
    """Writes when steps began and ended, and how long each save delayed the next step."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.times: dict[str, Any] = {"steps": [], "saves": [], "flushes": []}
        self.add_callback(_Clock(self.times, self.run.root / FIRST_STEP))

    def train(self, *args: Any, **kwargs: Any) -> Any:
        result = super().train(*args, **kwargs)
        self.times["parameters"] = sum(p.numel() for p in self.model.parameters())
        write_atomic(self.run.root / "times.json", json.dumps(self.times))
        return result

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        begun = time.perf_counter()
        self.save_one_way(model, trial)
        self.times["saves"].append(time.perf_counter() - begun)

    def save_one_way(self, model: Any, trial: Any) -> None:
        """As gemfit does."""
        super()._save_checkpoint(model, trial)


class AsTrainer(Timed):
    """Saves as ``transformers.Trainer`` does, and flushes what it wrote, timed apart."""

    def save_one_way(self, model: Any, trial: Any) -> None:
        Trainer._save_checkpoint(self, model, trial)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        begun = time.perf_counter()
        for path in (self.run.root / f"checkpoint-{self.state.global_step}").iterdir():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
        self.times["flushes"].append(time.perf_counter() - begun)


class _Clock(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
    def __init__(self, times: dict[str, Any], first: Path) -> None:
        self.times, self.first = times, first

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self.times["steps"]:
            # Read by the parent: this clock is the same for all processes of a machine.
            found = {"step": state.global_step + 1, "at": time.monotonic()}
            write_atomic(self.first, json.dumps(found))
        self.begun = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.times["steps"].append(time.perf_counter() - self.begun)


def saved_at(step: int) -> type[Timed]:
    """A trainer whose first save says that it is after ``step`` steps."""

    class SavedAt(Timed):
        def save_one_way(self, model: Any, trial: Any) -> None:
            self.state.global_step = step
            super().save_one_way(model, trial)

    return SavedAt


def carry_out(run: RunDir, trainer: type[Timed], *, stop_at: int) -> dict[str, Any]:
    """One attempt with ``trainer``, and what it measured."""
    attempt = start(run, stop_at=stop_at, trainer=trainer)
    if (code := attempt.wait(timeout_seconds=1800)) is not ExitCode.STOPPED:
        sys.exit(f"{run.root.name} ended with {code.name}:\n{attempt.log()[-4000:]}")
    times: dict[str, Any] = json.loads((run.root / "times.json").read_text())
    return times


def stall(root: Path, plan: Callable[..., Plan], *, every: int, saves: int) -> dict[str, Any]:
    """Seconds that a step waits, for each way to save."""
    ways: dict[str, tuple[bool, type[Timed]]] = {
        "synchronous": (False, Timed),
        "asynchronous": (True, Timed),
        "Trainer's own": (True, AsTrainer),
    }
    found = {}
    for name, (asynchronous, trainer) in ways.items():
        settings = {"checkpoint__asynchronous": asynchronous, "checkpoint__every_steps": every}
        run = RunDir.create(root / name, plan(**settings))
        times = carry_out(run, trainer, stop_at=every * saves + 1)
        after = times["steps"][every::every]
        others = [seconds for place, seconds in enumerate(times["steps"]) if place % every and place > 0]
        found[name] = {
            "wait_seconds": times["saves"][:saves],
            "flush_seconds": times["flushes"][:saves],
            "step_seconds": statistics.median(others),
            "step_after_a_save_seconds": after,
            "parameters": times["parameters"],
            "saved_bytes": _bytes_of_newest(run),
        }
        print(f"{name}: done", file=sys.stderr)
    return found


def come_back(root: Path, plan: Callable[..., Plan]) -> dict[str, list[float]]:
    """Seconds from a fork to the first step, by the step of the checkpoint; in turn, three times."""
    runs = {
        step: RunDir.create(root / f"at-{step}", plan(checkpoint__every_steps=10**6)) for step in LATE_STEPS
    }
    for step, run in runs.items():
        carry_out(run, saved_at(step), stop_at=1)
    found: dict[str, list[float]] = {str(step): [] for step in LATE_STEPS}
    for _ in range(3):
        for step, run in runs.items():
            found[str(step)].append(seconds_to_resume(run, step))
    return found


def seconds_to_resume(run: RunDir, step: int) -> float:
    """From the fork to the beginning of the step after ``step``; the attempt is killed there."""
    (run.root / FIRST_STEP).unlink()
    begun = time.monotonic()
    attempt = start(run, trainer=Timed)
    while not (run.root / FIRST_STEP).exists():
        if attempt.ended:
            sys.exit(f"{run.root.name} did not resume:\n{attempt.log()[-4000:]}")
        time.sleep(0.001)
    attempt.kill()
    first = json.loads((run.root / FIRST_STEP).read_text())
    if first["step"] != step + 1:
        sys.exit(f"{run.root.name} began with step {first['step']}")
    return float(first["at"] - begun)


def _bytes_of_newest(run: RunDir) -> int:
    folders = [*run.committed(), *run.root.glob("checkpoint-*")]
    newest = max(folders, key=lambda folder: folder.stat().st_mtime)
    return sum(path.stat().st_size for path in newest.iterdir())


def model_settings(model: str) -> Settings:
    """What a recipe says about this model."""
    kind, _, size = model.partition(":")
    if kind == "scratch":
        return SCRATCH[size]
    return {"model.scratch": "null", "model.id": str(Path(model).resolve())}


def report(found: dict[str, Any]) -> None:
    """A table in Markdown, and the ratios."""
    ways = found["stall"]
    print("| save | waits, s | flush apart, s | step, s | step after a save, s | GB |")
    print("|---|---|---|---|---|---|")
    for name, way in ways.items():
        flush = f"{statistics.median(way['flush_seconds']):.2f}" if way["flush_seconds"] else ""
        waits, after = (statistics.median(way[key]) for key in ("wait_seconds", "step_after_a_save_seconds"))
        size = way["saved_bytes"] / 1e9
        print(f"| {name} | {waits:.2f} | {flush} | {way['step_seconds']:.2f} | {after:.2f} | {size:.2f} |")
    waits = {name: statistics.median(way["wait_seconds"]) for name, way in ways.items()}
    for name in ("synchronous", "Trainer's own"):
        print(f"{name} / asynchronous: {waits[name] / waits['asynchronous']:.1f}")
    early, late = (min(found["come_back"][str(step)]) for step in LATE_STEPS)
    print(
        f"to the first step again: {early:.2f} s at step 10, {late:.2f} s at step 10,000: {late / early:.2f}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--model", default="scratch:tiny", help=f"folder, or scratch: and {', '.join(SCRATCH)}"
    )
    parser.add_argument("--every", type=int, default=8, help="steps between saves")
    parser.add_argument("--saves", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where runs are written: on the disk to be measured")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        root = Path(folder)
        data, model = sample(root), model_settings(arguments.model)

        def plan(**settings: Any) -> Plan:
            small = {"length__max_steps": 20_000, "batch__global_batch_size": 1, "checkpoint__keep": 1}
            return make_plan(data, "single", 1, model=model, **(small | settings))

        plan()
        assert_one_thread()
        found = {
            "stall": stall(root, plan, every=arguments.every, saves=arguments.saves),
            "come_back": come_back(root, plan),
        }
    print(json.dumps(found, indent=2)) if arguments.json else report(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
