"""Does every way of training give the same model? Losses of each against a plain loop, in float32.

    python tests/train/parity.py [--steps 50] [--ranks 1,2,4] [--only NAME,…] [--out docs/parity.md] [--json]

The reference shares no line of training with gemfit: transformers' own class and loss, torch's AdamW, and
every document of a row passed through the model alone, so that none could see another. The ranks of each way
are real processes that go through `gemfit.train`, forked from one that has imported everything.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from importlib.metadata import version
from itertools import combinations
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import forked_ranks  # before torch: it sets the number of threads

# isort: split
import torch
from transformers import Gemma3ForCausalLM, get_scheduler

from gemfit.data.pack.reader import Row, open_pack
from gemfit.data.pack.shuffle import EMPTY
from gemfit.errors import ExitCode, UserError
from gemfit.rundir import RunDir
from gemfit.schemas.plan import Plan
from gemfit.train.data.batches import RowSchedule
from gemfit.train.model.build import load_matching_tokenizer, load_model
from gemfit_launch.output.tables import console, table
from tiny_runs import make_plan, sample, steps_of

# Five sliding layers and a global one; two slices of the loss in each per-device batch of 4 rows.
MODEL: dict[str, Any] = {
    "model.scratch.vocab_size": 512,
    "model.scratch.hidden_size": 48,
    "model.scratch.intermediate_size": 96,
    "model.scratch.num_attention_heads": 2,
    "model.scratch.head_dim": 32,
    "model.scratch.sliding_window": 64,
}
SETTINGS: dict[str, Any] = {
    "data__seq_len": 512,
    "batch__global_batch_size": 8,
    "batch__max_per_device_batch_size": 4,
}
LIMIT = 1e-4
"""Largest relative difference of a loss, in float32, that counts as the same training."""
TIMEOUT_SECONDS = 900.0
BFLOAT16 = "bfloat16 "
"""Begins the names of ways that compute in bfloat16."""
BFLOAT16_LIMIT = 2e-2
"""The same in bfloat16, whose numbers have eight bits."""
STRATEGIES = ("single", "ddp", "fsdp2", "zero1", "zero2", "zero3")
NOT_HERE = {
    "attention flash_attention_2": "needs a GPU, and computes in bfloat16 only",
    "attention flash_attention_3": "needs a Hopper GPU, and computes in bfloat16 only",
    "attention varlen": "needs a GPU, and computes in bfloat16 only",
    "kernels liger": "needs a GPU",
    "NCCL, cuDNN and all kernels of GPUs": "no GPU is here",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """One way of training the same model on the same rows."""

    name: str
    strategy: str = "single"
    ranks: int = 1
    offload: bool = False
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return f"{self.name} on {self.ranks}"


PAGE = """# Every way of training gives the same model ({date})

`make parity` trains one tiny Gemma 3 (six layers, five of them with a window) for {steps} steps in every way
that the machine has, in real processes that go through `gemfit.train`, and compares the loss of every step
with that of a reference. The reference shares no line of training with gemfit: transformers' own class and
loss, torch's AdamW, and every document of a row passed through the model alone. float32, 8 rows of 512 tokens
a step, learning rate 2e-3; {cores} CPU cores, gloo, {versions}.

The reference's loss goes from {first:.6f} to {last:.6f}. float32 resolves 1.2e-07, and rounding grows with
the steps; more than {limit:.0e} would be another training.

| way, on how many ranks | largest relative difference of a step's loss |
|---|---:|
{rows}

## In bfloat16

The same, with `model.dtype: bfloat16`, against the same reference in float32. Master weights and AdamW are in
float32 under every strategy.

| way, on how many ranks | largest relative difference of a step's loss |
|---|---:|
{bfloat16_rows}

{largest}

In the first step single and DDP agree, and so do FSDP2 and ZeRO; the two groups differ by 1e-05. The first
computes under autocast, with embedding and norms in float32, the second with all parameters in bfloat16.
Later differences grow from how each engine rounds gradients, through AdamW at this learning rate; they stay
below what bfloat16 resolves (4e-03).

## Not compared

Not compared, because this machine does not have it:

{absent}

Ranks that share their rows, over strategies, degrees and windows: [long-rows.md](long-rows.md#measured).

All ways compute the loss in slices (two per batch of four rows here) where the reference has all
logits at once; they use `sdpa` unless the line says otherwise, and batches that a thread prefetches.
"""


def ways(ranks: list[int]) -> Iterator[Way]:
    """Every way that a machine without GPUs supports."""
    for name in STRATEGIES:
        for count in [n for n in ranks if n > 1 or name != "ddp"] if name != "single" else [1]:
            yield Way(name=name, strategy=name, ranks=count)
    most = max(ranks)
    for name in ("fsdp2", "zero1", "zero2", "zero3"):
        yield Way(name=f"{name}+offload", strategy=name, ranks=min(2, most), offload=True)
    yield Way(name="attention eager", settings={"model__attention": "eager"})
    yield Way(name="attention flex_attention", settings={"model__attention": "flex_attention"})
    yield Way(name="activation checkpointing", settings={"model__activation_checkpointing": "true"})
    yield Way(name="per-device batch of 1", settings={"batch__max_per_device_batch_size": 1})
    yield Way(name="compile", settings={"model__compile": "true"})
    yield Way(name="three ranks, idle slots", strategy="fsdp2", ranks=3)
    for name in STRATEGIES:
        count = 1 if name == "single" else min(2, most)
        yield Way(name=BFLOAT16 + name, strategy=name, ranks=count, settings={"model__dtype": "bfloat16"})


def reference(plan: Plan) -> list[float]:
    """The loss of every step of ``plan``, trained by a plain loop."""
    gemfit_model = load_model(plan.recipe, load_matching_tokenizer(plan))
    config = gemfit_model.config
    config._attn_implementation = "eager"
    model = Gemma3ForCausalLM(config)
    model.load_state_dict(gemfit_model.state_dict())
    model.train()
    optim = plan.recipe.optim
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=optim.learning_rate,
        betas=optim.betas,
        eps=optim.eps,
        weight_decay=optim.weight_decay,
    )
    rate = get_scheduler(optim.schedule, optimizer, optim.warmup_steps, plan.steps.total)
    schedule, losses = RowSchedule(plan, open_pack(Path(plan.pack.folder), "train")), []
    for step in range(plan.steps.total):
        tokens, loss = schedule.trained_tokens(step), 0.0
        for row in schedule.rows_of(step):
            for ids, labels in documents(schedule.rows[int(row)]) if row != EMPTY else []:
                output = model(
                    input_ids=ids, labels=labels, num_items_in_batch=torch.tensor(tokens), use_cache=False
                )
                output.loss.backward()
                loss += output.loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), optim.max_grad_norm)
        optimizer.step()
        rate.step()
        optimizer.zero_grad()
        losses.append(loss)
    return losses


def apart(plan: Plan, out: Path) -> list[float]:
    """The reference, made by a fork: this process stays without the threads that training starts."""
    pid = os.fork()
    if not pid:
        try:
            out.write_text(json.dumps(reference(plan)))
        except BaseException:
            traceback.print_exc()
        os._exit(0)
    os.waitpid(pid, 0)
    found: list[float] = json.loads(out.read_text())
    return found


def documents(row: Row) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Ids and labels of each document of ``row``: (1, tokens) each."""
    lengths = row.seq_lengths.tolist()
    ids, labels = (
        torch.from_numpy(values[: sum(lengths)].astype("int64"))[None].split(lengths, 1)  # type: ignore[no-untyped-call]
        for values in (row.input_ids, row.labels)
    )
    return zip(ids, labels, strict=True)


def losses_of(way: Way, data: Path, root: Path, common: dict[str, Any]) -> list[float]:
    """The loss of every step; ``UserError`` where this machine cannot, ``RuntimeError`` for a crash."""
    settings = common | way.settings
    plan = make_plan(data, way.strategy, way.ranks, offload=way.offload, model=MODEL, **settings)
    run = RunDir.create(root, plan)
    try:
        code = forked_ranks.start(run).wait(timeout_seconds=TIMEOUT_SECONDS)
    except SystemExit as error:
        raise RuntimeError(str(error)) from None
    if code is not ExitCode.DONE:
        raise RuntimeError(run.log(1).read_text().strip())
    return [record.loss for record in steps_of(run)]


def largest_difference(found: list[float], expected: list[float]) -> float:
    """Relative, over all steps."""
    return max(abs(a - b) / abs(b) for a, b in zip(found, expected, strict=True))


def compare(chosen: list[Way], steps: int, scratch: Path) -> dict[str, Any]:
    """Losses of the reference, and of each way its losses and difference, or why there are none."""
    data = sample(scratch)
    intervals = {"evaluation__every_steps": steps, "checkpoint__every_steps": steps}
    common = SETTINGS | intervals | {"length__max_steps": steps, "optim__learning_rate": 2e-3}
    forked_ranks.assert_one_thread()
    expected = apart(make_plan(data, "single", 1, model=MODEL, **common), scratch / "reference.json")
    results: dict[str, Any] = {}
    for number, way in enumerate(chosen):
        try:
            found = losses_of(way, data, scratch / str(number), common)
            results[way.label] = {"difference": largest_difference(found, expected), "losses": found}
        except UserError as error:
            results[way.label] = {"absent": str(error)}
        except RuntimeError as error:
            results[way.label] = {"failed": str(error)}
        said = results[way.label].get("failed") or in_words(results[way.label])
        print(f"{number + 1}/{len(chosen)} {way.label}: {said}", file=sys.stderr, flush=True)
    return {"steps": steps, "reference": expected, "limit": LIMIT, "ways": results}


def page(compared: dict[str, Any]) -> str:
    """docs/parity.md."""
    reference = compared["reference"]
    packages = ("torch", "transformers", "accelerate", "deepspeed")
    ways: dict[str, Any] = compared["ways"]
    here: dict[bool, list[str]] = {True: [], False: []}
    for label, found in ways.items():
        here[label.startswith(BFLOAT16)].append(f"| {label} | {in_words(found)} |")
    return PAGE.format(
        date=date.today(),
        steps=compared["steps"],
        cores=os.cpu_count(),
        versions=", ".join(f"{name} {version(name)}" for name in packages),
        first=reference[0],
        last=reference[-1],
        limit=compared["limit"],
        rows="\n".join(here[False]),
        bfloat16_rows="\n".join(here[True]),
        largest=between_strategies(ways),
        absent="\n".join(f"- {what}: {why}" for what, why in NOT_HERE.items()),
    )


def between_strategies(ways: dict[str, Any]) -> str:
    """The two ways in bfloat16 whose losses differ most, in a sentence."""
    losses = {
        label: found["losses"]
        for label, found in ways.items()
        if label.startswith(BFLOAT16) and "losses" in found
    }
    pairs = {pair: largest_difference(*map(losses.__getitem__, pair)) for pair in combinations(losses, 2)}
    if not pairs:
        return "No two ways were compared with each other."
    one, other = max(pairs, key=lambda pair: pairs[pair])
    return f"The largest difference between two of them is {pairs[one, other]:.1e}: {one}, and {other}."


def in_words(found: dict[str, Any]) -> str:
    """The difference of one way, or why there is none; in one line."""
    if "absent" in found:
        return f"not here: {found['absent'].splitlines()[0]}"
    if "failed" in found:
        return f"failed: {found['failed'].splitlines()[-1]}"
    return f"{found['difference']:.1e}"


def main() -> int:
    """Train in every way, print the table, write the page; 1 where one of them trains something else."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--ranks", default="1,2,4", help="of the distributed strategies")
    parser.add_argument("--only", default="", help="names of ways, such as ddp,zero3")
    parser.add_argument("--out", type=Path, help="write the page here")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    names = set(filter(None, options.only.split(",")))
    chosen = [
        way for way in ways([int(n) for n in options.ranks.split(",")]) if not names or way.name in names
    ]
    with tempfile.TemporaryDirectory() as scratch:
        compared = compare(chosen, options.steps, Path(scratch))
    if options.out is not None:
        options.out.write_text(page(compared))
    if options.json:
        print(json.dumps(compared))
    else:
        rows = [(label, in_words(found)) for label, found in compared["ways"].items()]
        console().print(table(("way, on how many ranks", "largest difference"), rows))
    compared_ways = [pair for pair in compared["ways"].items() if "absent" not in pair[1]]
    return 0 if all(is_same(label, found) for label, found in compared_ways) else 1


def is_same(label: str, found: dict[str, Any]) -> bool:
    """Whether this way has trained the same model, as exactly as its numbers can tell."""
    limit = BFLOAT16_LIMIT if label.startswith(BFLOAT16) else LIMIT
    return bool(found.get("difference", 1.0) <= limit)


if __name__ == "__main__":
    sys.exit(main())
