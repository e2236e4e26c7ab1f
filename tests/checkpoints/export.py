"""Does the export of a sharded checkpoint answer like the model that was trained: logits side by side.

    python tests/checkpoints/export.py [--strategy zero3] [--json]

Two ranks train six steps and save. Before they leave, the live engine gives its logits for some tokens; then
one process exports the checkpoint and loads it with ``AutoModelForCausalLM.from_pretrained``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import forked_ranks  # before torch: it sets the number of threads

# isort: split
import torch
from transformers import AutoModelForCausalLM

from gemfit.errors import ExitCode
from gemfit.export.export import export
from gemfit.rundir import RunDir
from gemfit.schemas.plan import Plan
from gemfit.train.collective import rank
from gemfit.train.loop.trainer import PackedTrainer
from tiny_runs import make_plan, sample

STRATEGIES = ("zero3", "zero3+offload", "fsdp2", "zero2")
STEPS = 6
IDS = torch.arange(8, 56)[None]


class Speaking(PackedTrainer):
    """Leaves the logits of the engine behind, before the first step and after the last."""

    def train(self, *args: Any, **kwargs: Any) -> Any:
        result = super().train(*args, **kwargs)
        self._leave_logits("after")
        return result

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        prepared = super()._prepare_for_training(*args, **kwargs)
        self._leave_logits("before")
        return prepared

    def _leave_logits(self, name: str) -> None:
        self.model_wrapped.eval()
        with torch.no_grad():
            positions = torch.arange(IDS.shape[1])[None]
            logits = self.model_wrapped(input_ids=IDS, position_ids=positions).logits
        self.model_wrapped.train()
        if rank() == 0:
            torch.save(logits, self.run.root / f"{name}.pt")


def train(root: Path, plan: Plan) -> RunDir:
    """A run to its end."""
    run = RunDir.create(root, plan)
    if (attempt := forked_ranks.start(run, trainer=Speaking)).wait() is not ExitCode.DONE:
        sys.exit(attempt.log()[-4000:])
    return run


def compare(run: RunDir) -> dict[str, Any]:
    """Export, and hold the logits against those of the engine."""
    export(run, run.export)
    model = AutoModelForCausalLM.from_pretrained(run.export).eval()
    with torch.no_grad():
        found = model(IDS).logits
    before, after = (torch.load(run.root / f"{name}.pt") for name in ("before", "after"))
    return {
        "class": type(model).__name__,
        "largest_logit": float(after.abs().max()),
        "difference": float((found - after).abs().max()),
        "moved_by_training": float((after - before).abs().max()),
        "same_tokens": bool((found.argmax(-1) == after.argmax(-1)).all()),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--strategy", action="append", help=f"of {', '.join(STRATEGIES)}; all if none is given"
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        data = sample(root)

        def plan(name: str) -> Plan:
            strategy, plus, _ = name.partition("+")
            return make_plan(data, strategy, ranks=2, offload=bool(plus), length__max_steps=STEPS)

        plans = {name: plan(name) for name in arguments.strategy or STRATEGIES}
        forked_ranks.assert_one_thread()
        runs = {name: train(root / name, plan) for name, plan in plans.items()}
        found = {name: compare(run) for name, run in runs.items()}  # starts threads, so no fork after it
    if arguments.json:
        print(json.dumps(found))
    else:
        for name, seen in found.items():
            print(
                f"{name:<14} {seen['class']}: logits up to {seen['largest_logit']:.3f}, moved by training by "
                f"{seen['moved_by_training']:.3f}, differ from the live engine by {seen['difference']:.1e}"
            )
    good = all(s["difference"] <= 1e-5 * s["largest_logit"] and s["same_tokens"] for s in found.values())
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
