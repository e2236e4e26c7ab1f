"""Do all strategies train the same model? Losses of each beside those of one rank, in float32.

    python benchmarks/strategy_parity.py [--steps 20] [--ranks 2] [--json]

Each strategy is launched for real, on this machine's CPU, as `gemfit run` would. Some ten seconds each.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from gemfit.packing import make_pack_job
from gemfit.records import StepRecord
from gemfit.rundir import RunDir
from gemfit_launch.local import carry_out
from gemfit_launch.metrics import Record
from gemfit_launch.packer import ensure_pack
from gemfit_launch.request import Request
from gemfit_launch.resolve import resolve_plan
from gemfit_launch.topology import Ranks

SAMPLE = Path(__file__).parents[1] / "examples" / "conversations.jsonl"

# name, offload
STRATEGIES = [
    ("single", False),
    ("ddp", False),
    ("fsdp2", False),
    ("zero1", False),
    ("zero2", False),
    ("zero3", False),
    ("fsdp2", True),
    ("zero1", True),
    ("zero2", True),
    ("zero3", True),
]


class Silent:
    """Shows nothing while a run goes on."""

    def show(self, records: list[Record]) -> None:
        pass

    def say(self, line: str) -> None:
        pass


def losses(strategy: str, offload: bool, ranks: int, steps: int, data: Path, root: Path) -> list[float]:
    """The loss of every step; a run that does not end well stops the benchmark with its log."""
    request = Request(
        name="debug/cpu-tiny",
        data=str(data),
        strategy=strategy,
        offload=offload,
        settings=(
            "model.dtype=float32",
            "data.seq_len=128",
            "length.epochs=null",
            f"length.steps={steps}",
            f"evaluation.every_steps={steps}",
            f"checkpoint.every_steps={steps}",
        ),
    )
    recipe, asked = request.recipe(), Ranks(nproc=ranks, device="cpu")
    folder = Path(resolve_plan(recipe, asked).pack.folder)
    ensure_pack(make_pack_job(recipe), folder, force=False, say=lambda line: None)
    run = RunDir.create(root, resolve_plan(recipe, asked))
    outcome = carry_out(run, run.plan(), Silent())
    if outcome.verdict is None or outcome.verdict.outcome != "completed":
        sys.exit(f"{strategy} did not complete:\n{run.log(outcome.attempt).read_text()}")
    lines = run.metrics_file.read_text().splitlines()
    return [StepRecord.model_validate_json(line).loss for line in lines if '"kind":"step"' in line]


def largest_difference(found: list[float], expected: list[float]) -> float:
    """Relative, over all steps."""
    return max(abs(a - b) / abs(b) for a, b in zip(found, expected, strict=True))


def main() -> None:
    """Run every strategy and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--ranks", type=int, default=2, help="of all but single")
    parser.add_argument("--data", type=Path, default=SAMPLE)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    table: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, offload in STRATEGIES:
            label = name + "+offload" * offload
            ranks = 1 if name == "single" else options.ranks
            root = Path(scratch) / label
            table[label] = losses(name, offload, ranks, options.steps, options.data, root)
            print(f"{label} on {ranks}: done", file=sys.stderr)
    differences = {label: largest_difference(row, table["single"]) for label, row in table.items()}
    if options.json:
        print(json.dumps({"ranks": options.ranks, "losses": table, "largest_difference": differences}))
        return
    print(f"float32, {options.ranks} ranks (single: 1); loss of each step\n")
    print("step " + " ".join(f"{label:>14}" for label in table))
    for step in range(options.steps):
        print(f"{step + 1:>4} " + " ".join(f"{row[step]:>14.6f}" for row in table.values()))
    print("\nlargest relative difference to single")
    for label, difference in differences.items():
        print(f"{label:>14}  {difference:.1e}")


if __name__ == "__main__":
    main()
