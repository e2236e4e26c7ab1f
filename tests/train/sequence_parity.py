"""Losses of ranks that share their rows against one rank, over strategies, degrees, attentions and windows.

    python tests/train/sequence_parity.py [--steps 20] [--out docs/long-rows.md]

The ranks are real processes that go through `gemfit.train`, forked from one that has imported everything, in
float32. Each run starts with the self-test, which names its engine.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import forked_ranks
from gemfit.data.pack.reader import open_pack
from gemfit.errors import ExitCode
from gemfit.rundir import RunDir
from tiny_runs import make_plan, sample, steps_of

MODEL: dict[str, Any] = {
    "model.scratch.vocab_size": 512,
    "model.scratch.hidden_size": 48,
    "model.scratch.intermediate_size": 96,
    "model.scratch.num_attention_heads": 4,
    "model.scratch.head_dim": 16,
}
SETTINGS: dict[str, Any] = {
    "batch__global_batch_size": 8,
    "batch__max_per_device_batch_size": 4,
    "optim__learning_rate": 2e-3,
    "evaluation__every_steps": 1000,
    "checkpoint__every_steps": 1000,
}
SEQ_LEN, WINDOW = 64, 16
STRATEGIES: dict[str, tuple[str, dict[str, Any]]] = {
    "ddp": ("ddp", {}),
    "fsdp2": ("fsdp2", {}),
    "HSDP": ("fsdp2", {"strategy__replicate": 2}),
    "zero2": ("zero2", {}),
    "zero3": ("zero3", {}),
}
LIMIT = 1e-5
TIMEOUT_SECONDS = 900.0
MARK, END = "<!-- parity -->", "<!-- end -->"


@dataclass(frozen=True, kw_only=True)
class SharedRun:
    """One run: its strategy, ranks, degree and what else is set."""

    strategy: str
    ranks: int
    degree: int
    attention: str = "sdpa"
    window: int = WINDOW
    also: dict[str, Any] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, Any]:
        _, own = STRATEGIES.get(self.strategy, (self.strategy, {}))
        shared = {"strategy__sequence_parallel": self.degree} if self.degree > 1 else {}
        return SETTINGS | own | shared | {"model__attention": self.attention} | self.also

    @property
    def line(self) -> str:
        also = ", ".join(f"`{key.replace('__', '.')}={value}`" for key, value in self.also.items())
        return (
            f"| {self.strategy} | {self.ranks} | {self.degree} | {self.attention} | {self.window} of "
            f"{SEQ_LEN // self.degree} | {also or '–'} |"
        )


def runs() -> Iterator[SharedRun]:
    """Every strategy, degree and attention; other windows and settings where attention is the same."""
    for strategy in STRATEGIES:
        for ranks, degree in ((2, 2), (4, 4), (4, 2)):
            if strategy != "HSDP" or ranks == 4:
                for attention in ("eager", "sdpa"):
                    yield SharedRun(strategy=strategy, ranks=ranks, degree=degree, attention=attention)
    for window in (8, 48):
        yield SharedRun(strategy="ddp", ranks=4, degree=4, window=window)
        yield SharedRun(strategy="ddp", ranks=2, degree=2, window=window)
    yield SharedRun(strategy="HSDP", ranks=8, degree=2)
    yield SharedRun(strategy="zero1", ranks=2, degree=2)
    yield SharedRun(strategy="fsdp2", ranks=2, degree=2, also={"strategy__offload": "true"})
    yield SharedRun(strategy="zero3", ranks=2, degree=2, also={"strategy__offload_params": "true"})
    yield SharedRun(strategy="fsdp2", ranks=2, degree=2, also={"model__activation_checkpointing": "true"})
    yield SharedRun(strategy="fsdp2", ranks=2, degree=2, also={"model__lora__rank": 4})


def losses_of(run: SharedRun, steps: int, data: Path, root: Path) -> list[float]:
    """The loss of every step."""
    name, _ = STRATEGIES.get(run.strategy, (run.strategy, {}))
    settings = run.settings | {"length__max_steps": steps}
    model = MODEL | {"model.scratch.sliding_window": run.window}
    plan = make_plan(data, name, run.ranks, model=model, **settings)
    folder = RunDir.create(root, plan)
    code = forked_ranks.start(folder).wait(timeout_seconds=TIMEOUT_SECONDS)
    assert code is ExitCode.DONE
    return [record.loss for record in steps_of(folder)]


def documents(data: Path) -> str:
    """What the slices of the training rows cut, in words."""
    plan = make_plan(data, "single", 1, model=MODEL, **SETTINGS, length__max_steps=1)
    rows = open_pack(Path(plan.pack.folder), "train")
    lengths = [rows[number].seq_lengths.tolist() for number in range(len(rows))]
    whole = sum(one == [SEQ_LEN] for one in lengths)
    crossed = {
        border: sum(not _is_border(one, border) for one in lengths)
        for border in range(SEQ_LEN // 4, SEQ_LEN, SEQ_LEN // 4)
    }
    borders = ", ".join(f"token {border} in {count}" for border, count in crossed.items())
    return f"Of {len(rows)} rows {whole} are one document; a document crosses {borders}"


def _is_border(lengths: list[int], place: int) -> bool:
    return place in {sum(lengths[:count]) for count in range(len(lengths) + 1)} or place > sum(lengths)


def compare(steps: int, scratch: Path) -> list[str]:
    """The lines of the table; ends the program where a run differs."""
    data = sample(scratch)
    forked_ranks.assert_one_thread()
    lines, references = [f"{documents(data)}.", ""], {}
    lines += ["| strategy | ranks | share a row | attention | window of slice | also | difference |"]
    lines += ["|---|---:|---:|---|---|---|---:|"]
    for number, run in enumerate(runs()):
        key = (run.window, run.also.get("model__lora__rank"))
        if key not in references:
            also = {name: value for name, value in run.also.items() if name == "model__lora__rank"}
            one = SharedRun(strategy="single", ranks=1, degree=1, window=run.window, also=also)
            references[key] = losses_of(one, steps, data, scratch / f"reference-{number}")
        found = losses_of(run, steps, data, scratch / str(number))
        pairs = zip(found, references[key], strict=True)
        difference = max(abs(loss - expected) / expected for loss, expected in pairs)
        lines.append(f"{run.line} {difference:.1e} |")
        print(lines[-1], flush=True)
        if not difference <= LIMIT:
            sys.exit(f"more than {LIMIT:.0e}")
    return lines


def main() -> None:
    """Train in every way, print the table, and write it between the marks of a page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        lines = compare(options.steps, Path(scratch))
    if options.out is not None:
        before, _, rest = options.out.read_text().partition(MARK)
        _, _, after = rest.partition(END)
        lines.insert(0, f"{date.today()}, {options.steps} steps.")
        options.out.write_text(f"{before}{MARK}\n" + "\n".join(lines) + f"\n{END}{after}")


if __name__ == "__main__":
    main()
