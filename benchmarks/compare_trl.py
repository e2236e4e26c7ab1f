"""gemfit and TRL's SFTTrainer on CPU: the same model, the same packed rows, the same clock.

    python benchmarks/compare_trl.py [--model DIR] [--rounds 2] [--threads 1] [--peers DIR] [--out FILE]

Both take turns, each in a fresh process, with the same number of threads. Ratios are of medians over all
steps but the first of each process. Tokens per CPU second do not depend on other load of the machine; tokens
per second of wall time are what users see. Without --model only the tiny model is trained.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from timed_training import PEERS, train_apart

from tiny_runs import Settings, make_plan, sample

GB = 1e9
TINY: Settings = {"model.scratch.vocab_size": 2048}
CHECKPOINTED = {"model__activation_checkpointing": "true", "optim__learning_rate": 1e-4}


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One model in one setting."""

    name: str
    model: Settings
    settings: dict[str, Any]


def cases(model: Path | None, tokenizer: Path | None) -> list[Case]:
    """The tiny model, and the real one if given."""
    small = CHECKPOINTED | {"data__seq_len": 512, "batch__global_batch_size": 16, "length__max_steps": 8}
    found = [
        Case(name="tiny, float32, 4 rows of 512", model=TINY, settings=small),
        Case(
            name="tiny, float32, 1 row of 512",
            model=TINY,
            settings=small | {"batch__max_per_device_batch_size": 1},
        ),
    ]
    if model is None:
        return found
    real: Settings = {
        "model.scratch": "null",
        "model.id": str(model),
        **({"model.tokenizer": str(tokenizer)} if tokenizer else {}),
    }
    large = CHECKPOINTED | {"data__seq_len": 128, "batch__global_batch_size": 4, "length__max_steps": 3}
    bf16 = large | {"model__dtype": "bfloat16"}
    return [
        *found,
        Case(name="270M, float32, 4 rows of 128", model=real, settings=large),
        Case(name="270M, bfloat16, 4 rows of 128", model=real, settings=bf16),
        Case(
            name="270M, bfloat16, 1 row of 128",
            model=real,
            settings=bf16 | {"batch__max_per_device_batch_size": 1},
        ),
    ]


def compare(case: Case, data: Path, *, rounds: int, threads: int, peers: str) -> dict[str, Any]:
    """Medians of both sides, ratios, and the largest difference of a loss."""
    plan = make_plan(data, "single", 1, model=case.model, **case.settings)
    found: dict[str, list[dict[str, Any]]] = {"ours": [], "trl": []}
    for number in range(rounds):
        for who in ("ours", "trl") if number % 2 == 0 else ("trl", "ours"):
            found[who].append(train_apart(who, plan, threads=threads, peers=peers))
    sides = {who: summary(results) for who, results in found.items()}
    ours, trl = sides["ours"], sides["trl"]
    losses = zip(ours["losses"], trl["losses"], strict=True)
    return {
        "case": case.name,
        **sides,
        "speed_ratio": ours["tokens_per_second"] / trl["tokens_per_second"],
        "cpu_ratio": ours["tokens_per_cpu_second"] / trl["tokens_per_cpu_second"],
        "memory_ratio": ours["peak_bytes"] / trl["peak_bytes"],
        "first_loss_difference": abs(ours["losses"][0] - trl["losses"][0]) / trl["losses"][0],
        "loss_difference": max(abs(a - b) / abs(b) for a, b in losses),
    }


def summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the steps of all rounds."""
    steps = [step for result in results for step in result["steps"]]
    return {
        "tokens_per_second": statistics.median(s["tokens"] / s["wall"] for s in steps),
        "tokens_per_cpu_second": statistics.median(s["tokens"] / s["cpu"] for s in steps),
        "peak_bytes": statistics.median(result["peak_bytes"] for result in results),
        "held_bytes": statistics.median(result["held_bytes"] for result in results),
        "losses": results[0]["losses"],
    }


def table(compared: list[dict[str, Any]]) -> str:
    """One line per case."""
    lines = [
        "| case | tokens/s of wall time: gemfit, TRL, ratio | tokens per CPU second: gemfit, TRL, ratio | "
        "peak GB: gemfit, TRL, ratio | first loss differs by | any loss by |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for found in compared:
        ours, trl = found["ours"], found["trl"]
        wall = f"{ours['tokens_per_second']:,.0f}, {trl['tokens_per_second']:,.0f}"
        cpu = f"{ours['tokens_per_cpu_second']:,.0f}, {trl['tokens_per_cpu_second']:,.0f}"
        peak = f"{ours['peak_bytes'] / GB:.2f}, {trl['peak_bytes'] / GB:.2f}"
        lines.append(
            f"| {found['case']} | {wall}, {found['speed_ratio']:.2f} | {cpu}, **{found['cpu_ratio']:.2f}** "
            f"| {peak}, {found['memory_ratio']:.2f} | {found['first_loss_difference']:.1e} | "
            f"{found['loss_difference']:.1e} |"
        )
    return "\n".join(lines)


PAGE = """# gemfit and TRL's SFTTrainer, on CPU ({date})

`python benchmarks/compare_trl.py`, {threads} thread(s) each, {rounds} round(s) in turns, one process each;
torch {torch}, transformers {transformers}, TRL {trl}. The same weights, the same packed rows in the same
order, AdamW, activation checkpointing on both sides, a step timed from the end of the one before. Processes
that wanted one of the {cores} cores after each case: {load}, so CPU time is given too.

{table}

TRL lays the rows of a per-device batch end to end and computes attention over all at once with a mask,
which costs most where rows are many: hence the lines with 1 row, where both compute the same attention. TRL
also computes entropy and accuracy of every step, and takes the loss in chunks without keeping logits, as
gemfit does. Peaks are of the whole process (VmHWM from the start of training on), imports included.
"""


def main() -> None:
    """Compare in every case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="folder of Gemma 3 270M")
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--data", type=Path, help="conversations, instead of the sample's first lines")
    parser.add_argument("--only", default="", help="cases with this in their name, such as bfloat16")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peers", default=PEERS, help="where TRL is installed")
    parser.add_argument("--out", type=Path, help="write the page here")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    compared, loads = [], []
    with tempfile.TemporaryDirectory() as scratch:
        few = sample(Path(scratch))
        for case in cases(options.model, options.tokenizer):
            if options.only not in case.name:
                continue
            found = compare(
                case, options.data or few, rounds=options.rounds, threads=options.threads, peers=options.peers
            )
            compared.append(found)
            loads.append(os.getloadavg()[0])
            print(f"{case.name}: {found['speed_ratio']:.2f}", file=sys.stderr, flush=True)
    sys.path += [options.peers] if options.peers else []
    page = PAGE.format(
        date=date.today(),
        threads=options.threads,
        rounds=options.rounds,
        table=table(compared),
        cores=os.cpu_count(),
        load=", ".join(f"{load:.0f}" for load in loads),
        **{name: version(name) for name in ("torch", "transformers", "trl")},
    )
    if options.out is not None:
        options.out.write_text(page)
    print(json.dumps(compared) if options.json else page)


if __name__ == "__main__":
    main()
