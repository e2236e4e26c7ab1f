"""What pushing beside the training costs its steps, with a Hub that works, fails or stalls.

    python benchmarks/hub_push_beside.py [--rounds 2] [--every 40] [--pace 0.2] [--folder DIR] [--json]

One run, in this process, with one thread. It saves every ``--every`` steps, and each save is pushed to
another Hub on this machine: one that works, one that answers every upload with 500, one that takes the
connection and never answers, and none at all, in an order that turns from round to round. While a push
is under way, its process is held (SIGSTOP) during every other step: a step beside it is compared with its
neighbour without it, so that whatever else the machine does falls on both. Under no Hub nothing is held, and
the same ratio shows what is left of that.

Then the same once more with ``--pace`` seconds in each step in which the processor is free, as it is
while a GPU computes. Without them training and pushing want the same cores: that is the worst case.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

os.environ |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
sys.path.append(str(Path(__file__).parents[1] / "tests"))

import numpy as np
from checkpoint_runs import make_plan, sample, steps_of
from transformers import TrainerCallback

from gemfit.errors import ExitCode
from gemfit.rundir import RunDir
from gemfit.schemas.plan import Plan
from gemfit.train import main as training
from gemfit.train.loop.trainer import PackedTrainer
from gemfit.upload.background_uploader import Pusher
from gemfit.upload.spool import Spool
from hub.repos import Fault
from hub.server import HubServer

FOR_EVER = 10**9
KINDS = ("no hub", "works", "fails", "stalls")
MODEL = {
    "model.scratch.vocab_size": 2048,
    "model.scratch.hidden_size": 128,
    "model.scratch.intermediate_size": 512,
}
UPLOADS = "/storage/"


class Turns:
    """Stands in for the pusher of a run: each save goes to the Hub whose turn it is."""

    def __init__(self, run: RunDir, plan: Plan, servers: dict[str, HubServer], every: int) -> None:
        self.run, self.plan, self.servers, self.every = run, plan, servers, every
        self.pusher: Pusher | None = None
        self.processor_seconds: dict[str, float] = defaultdict(float)
        self.kind = KINDS[0]
        self.used = _children()
        self.beside: dict[int, bool] = {}
        """Steps with a push under way, or of no Hub, and whether the process was free to run."""

    def begin(self) -> None:
        """Nothing waits in a new run."""

    def committed(self, step: int) -> None:
        self.end_turn()
        self.kind = kind_of(step, self.every)
        if self.kind in self.servers:
            os.environ |= self.servers[self.kind].environment
            self.pusher = Pusher(self.run, self.plan)
            self.pusher.committed(step)

    def hold(self, step: int) -> None:
        """Before ``step``: stop the process that pushes, or let it go on; the order turns pair by pair."""
        held = step % 4 in (0, 1)
        if self.pusher is None or _signal(self.pusher, signal.SIGSTOP if held else signal.SIGCONT):
            self.beside[step] = not held

    def end_turn(self) -> None:
        if self.pusher is not None:
            _signal(self.pusher, signal.SIGCONT)
            self.pusher.finish(0)
        used = _children()
        self.processor_seconds[self.kind] += used - self.used
        self.used, self.pusher = used, None

    def finish(self, seconds: float) -> None:
        self.end_turn()


def _signal(pusher: Pusher, number: int) -> bool:
    """Send it to the process that pushes; whether there is one."""
    process = pusher._process
    if process is None or process.poll() is not None:
        return False
    try:
        os.kill(process.pid, number)
    except ProcessLookupError:  # it ended a moment ago
        return False
    return True


class Pace(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
    """Leaves the processor alone for a while in each step, and holds the process that pushes in some."""

    def __init__(self, seconds: float, turns: Turns) -> None:
        self.seconds, self.turns = seconds, turns

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.turns.hold(state.global_step + 1)

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        time.sleep(self.seconds)


def kind_of(step: int, every: int) -> str:
    """Whose turn the steps after the save of ``step`` are; the order turns by one in each round."""
    turn = step // every - 1
    return KINDS[(turn + turn // len(KINDS)) % len(KINDS)]


@contextmanager
def hubs(root: Path) -> Iterator[dict[str, HubServer]]:
    """A Hub of each kind."""
    with ExitStack() as stack:
        made = {kind: stack.enter_context(HubServer(root / kind)) for kind in KINDS[1:]}
        made["fails"].faults.append(Fault("PUT", UPLOADS, times=FOR_EVER, status=500))
        made["stalls"].faults.append(Fault("PUT", UPLOADS, times=FOR_EVER, stall_seconds=3600.0))
        yield made


def measure(root: Path, data: Path, *, rounds: int, every: int, pace: float) -> dict[str, Any]:
    """Train ``rounds`` times through all kinds, after a first stretch that does not count."""
    steps = every * (1 + rounds * len(KINDS))
    small = {"data__seq_len": 128, "batch__effective": 4}
    hub = {"hub__repo": "user/tiny", "hub__push": "every_save", "hub__wait_seconds": 0}
    settings = {"length__steps": steps, "checkpoint__every_steps": every} | small | hub
    plan = make_plan(data, "single", 1, model=MODEL, **settings)
    run = RunDir.create(root / "run", plan)
    run.begin_attempt()
    with hubs(root) as servers:
        turns = Turns(run, plan, servers, every)

        def paced(**kwargs: Any) -> PackedTrainer:
            trainer = PackedTrainer(**kwargs)
            trainer.pusher = turns
            trainer.add_callback(Pace(pace, turns))
            return trainer

        with mock.patch.object(training, "PackedTrainer", paced):
            code = training.train(run.root, stop_at=None)
        assert code == ExitCode.DONE, code
        uploads = {kind: server.count("PUT", UPLOADS) for kind, server in servers.items()}
        commits = {kind: server.count("POST", "/commit/") for kind, server in servers.items()}
    seconds = {record.step: record.seconds for record in steps_of(run) if record.seconds is not None}
    sent = Counter(kind_of(one.push.step, every) for one in Spool.of(run).sent())
    found = {}
    for kind in KINDS:
        found[kind] = compared(
            seconds, turns.beside, [s for s in seconds if s > every and _kind(s, every) == kind]
        )
        found[kind] |= {
            "sent": sent[kind],
            "uploads_begun": uploads.get(kind, 0),
            "commits": commits.get(kind, 0),
            "processor_seconds_a_save": turns.processor_seconds[kind] / rounds,
        }
    return found


def _kind(step: int, every: int) -> str:
    """Whose turn ``step`` is: that of the save before it."""
    return kind_of((step - 1) // every * every, every)


def compared(seconds: dict[int, float], beside: dict[int, bool], steps: list[int]) -> dict[str, Any]:
    """Steps beside a push against their neighbours while it was held."""
    pairs = [(s, s + 1) for s in steps if s % 2 == 1 and s in beside and s + 1 in beside and s + 1 in steps]
    free = [seconds[pair[0] if beside[pair[0]] else pair[1]] for pair in pairs]
    held = [seconds[pair[1] if beside[pair[0]] else pair[0]] for pair in pairs]
    ratios = np.array(free) / np.array(held)
    draws = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
    return {
        "pairs": len(pairs),
        "step_seconds": statistics.median(seconds[step] for step in steps),
        "beside_seconds": statistics.median(free),
        "held_seconds": statistics.median(held),
        "ratio": float(np.median(ratios)),
        "interval": [float(edge) for edge in np.quantile(np.median(draws, axis=1), [0.025, 0.975])],
    }


def report(found: dict[str, Any]) -> None:
    """Tables in Markdown."""
    for name, rows in found.items():
        print(f"\n{name}\n")
        print("| Hub | pairs | median step, s | beside / held | 95 % | sent | uploads begun | CPU s a save |")
        print("|---|---:|---:|---:|---|---:|---:|---:|")
        for kind, row in rows.items():
            low, high = row["interval"]
            numbers = (
                f"{row['pairs']} | {row['step_seconds']:.3f} | {row['ratio']:.3f} | {low:.3f} to {high:.3f}"
            )
            used = row["processor_seconds_a_save"]
            print(f"| {kind} | {numbers} | {row['sent']} | {row['uploads_begun']} | {used:.1f} |")


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--every", type=int, default=40, help="steps between saves")
    parser.add_argument("--pace", type=float, default=0.2, help="free seconds in each step of the second run")
    parser.add_argument("--folder", type=Path, help="where runs are written")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    found = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        os.environ["HF_HOME"] = f"{folder}/home"
        data = sample(Path(folder))
        shape = {"rounds": options.rounds, "every": options.every}
        for name, pace in (
            ("processor never free", 0.0),
            (f"{options.pace} s free in each step", options.pace),
        ):
            found[name] = measure(Path(folder) / str(pace), data, pace=pace, **shape)
            print(f"{name}: done", file=sys.stderr)
    print(json.dumps(found, indent=2)) if options.json else report(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
