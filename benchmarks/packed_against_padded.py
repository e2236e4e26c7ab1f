"""Trained tokens/s: packed rows, and one document per row, padded or truncated, as the reference trains.

    python benchmarks/packed_against_padded.py [--data FILE] [--model DIR] [--threads 1] [--out FILE]

Two corpora: conversations as they are in the sample, and such as the reference's: few, with many turns, some
20,000 tokens each, made of the sample's. Both sides train the same model with the same batch and recomputed
activations, each in a process of its own; `padded` is ``transformers.Trainer``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from timed_training import train_apart

from gemfit.schemas.manifest import PackManifest
from gemfit.schemas.plan import Plan
from tiny_runs import SAMPLE, Settings, make_plan

CARD_BYTES = 80_000
"""Of a conversation of some 20,000 tokens."""
TINY: Settings = {"model.scratch.vocab_size": 2048}
SETTINGS: dict[str, Any] = {
    "data__seq_len": 1024,
    "batch__global_batch_size": 8,
    "batch__max_per_device_batch_size": 4,
    "model__activation_checkpointing": "true",
}


def as_they_are(source: Path, target: Path, count: int) -> None:
    """The first conversations of ``source``."""
    with source.open() as lines:
        target.write_text("".join(islice(lines, count)))


def like_the_reference(source: Path, target: Path, count: int) -> None:
    """The turns of one conversation after another, until each new one is as long as the reference's."""
    with source.open() as lines, target.open("w") as out:
        for messages in islice(_joined(json.loads(line)["messages"] for line in lines), count):
            out.write(json.dumps({"messages": messages}) + "\n")


def _joined(conversations: Iterator[list[dict[str, str]]]) -> Iterator[list[dict[str, str]]]:
    messages: list[dict[str, str]] = []
    size = 0
    for conversation in conversations:
        said = [message for message in conversation if not messages or message["role"] != "system"]
        messages += said
        size += sum(len(message["content"].encode()) for message in said)
        if size >= CARD_BYTES:
            yield messages
            messages, size = [], 0


CORPORA = (
    ("the sample, truncate", as_they_are, "truncate"),
    ("like the reference's, truncate", like_the_reference, "truncate"),
    ("like the reference's, split", like_the_reference, "split"),
)


def compare(
    name: str, data: Path, overlong: str, model: Settings, steps: int, threads: int
) -> dict[str, Any]:
    """Both sides on one corpus."""

    def plan(way: str) -> Plan:
        return make_plan(
            data, "single", 1, model=model, data__overlong=way, length__max_steps=steps, **SETTINGS
        )

    packed, padded = plan("split"), plan(overlong)
    ours = train_apart("ours", packed, threads=threads)
    unpacked = train_apart("padded", padded, threads=threads)
    found = {"packed": summary(ours), "padded": summary(unpacked)}
    packed_tokens, padded_tokens = (_trained(p) for p in (packed, padded))
    return {
        "corpus": name,
        **found,
        "speed_ratio": found["packed"]["per_second"] / found["padded"]["per_second"],
        "cpu_ratio": found["packed"]["per_cpu_second"] / found["padded"]["per_cpu_second"],
        "padded_share": padded_tokens / packed_tokens,
        "rows": {"packed": packed.steps.rows, "padded": unpacked["documents"]},
    }


def summary(result: dict[str, Any]) -> dict[str, float]:
    """Medians over the steps, in trained tokens."""
    steps = result["steps"]
    return {
        "per_second": statistics.median(step["trained"] / step["wall"] for step in steps),
        "per_cpu_second": statistics.median(step["trained"] / step["cpu"] for step in steps),
        "per_row": statistics.fmean(step["trained"] for step in steps) / SETTINGS["batch__global_batch_size"],
        "peak_bytes": result["peak_bytes"],
    }


def _trained(plan: Plan) -> int:
    manifest = PackManifest.read(Path(plan.pack.folder) / "manifest.json")
    return manifest.splits["train"].trained_tokens


PAGE = """# Packed rows against padded ones ({date})

`python benchmarks/packed_against_padded.py`: {model}, rows of 1,024, 8 rows per step in batches of 4,
activation checkpointing, {threads} thread(s), {cores} cores. Medians over {steps} steps. `padded` is one
conversation per row, padded or truncated to 1,024 tokens with an attention mask, trained by
`transformers.Trainer`, as the reproduced model did; "split" has each chunk of a
conversation in a padded row instead.

| corpus, and what padded rows do | trained tokens per row: packed, padded | trained tokens per CPU second: \
packed, padded, ratio | per second of wall time | of all trained tokens, padded rows have |
|---|---:|---:|---:|---:|
{rows}

Where conversations are short, padding is what the padded side computes much of. Where they are as long as the
reference's, rows are full on both sides; a packed row then repeats the system message, which is not trained
again, so it trains a little less, and truncation has thrown nearly all of the data away.
"""


def line(found: dict[str, Any]) -> str:
    """One corpus."""
    packed, padded = found["packed"], found["padded"]
    return (
        f"| {found['corpus']} | {packed['per_row']:.0f}, {padded['per_row']:.0f} "
        f"| {packed['per_cpu_second']:,.0f}, {padded['per_cpu_second']:,.0f}, **{found['cpu_ratio']:.2f}** "
        f"| {packed['per_second']:,.0f}, {padded['per_second']:,.0f}, {found['speed_ratio']:.2f} "
        f"| {found['padded_share']:.1%} |"
    )


def main() -> None:
    """Compare on both corpora."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=SAMPLE)
    parser.add_argument("--model", type=Path, help="folder of a model, instead of a tiny one")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--conversations", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write the page here")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    model: Settings = TINY
    if options.model is not None:
        model = {"model.scratch": "null", "model.id": str(options.model)}
    compared = []
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["GEMFIT_CACHE"] = str(Path(scratch) / "cache")
        for name, make, overlong in CORPORA:
            data = Path(scratch) / f"{make.__name__}.jsonl"
            make(options.data, data, options.conversations)
            compared.append(compare(name, data, overlong, model, options.steps, options.threads))
    page = PAGE.format(
        date=date.today(),
        model="a tiny Gemma 3, float32" if options.model is None else options.model.name,
        threads=options.threads,
        cores=os.cpu_count(),
        steps=options.steps - 1,
        rows="\n".join(line(found) for found in compared),
    )
    if options.out is not None:
        options.out.write_text(page)
    print(json.dumps(compared) if options.json else page)


if __name__ == "__main__":
    main()
