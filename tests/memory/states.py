"""Does each engine keep what the plan predicts? Bytes of states on every rank, predicted and measured.

    python tests/memory/states.py [--cases ddp:2:bfloat16:full …] [--json] [--out FILE.md]

A case is STRATEGY[+offload]:RANKS:DTYPE:full|lora|qlora. Each trains for three steps on this machine's CPU;
tests/memory/rank.py weighs the live tensors. A few seconds each.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import forked_ranks  # before torch: it sets the number of threads

# isort: split
from gemfit.errors import ExitCode
from gemfit.rundir import RunDir
from gemfit.schemas.plan import Plan
from gemfit_launch.predict.configuration import configuration_of
from gemfit_launch.predict.model_state_memory import ModelStates, place_model_states
from gemfit_launch.predict.shape_lookup import shape_of_scratch
from memory.case_table import case_parser, write_table
from memory.rank import Weighing
from tiny_runs import make_plan, sample

KINDS = [field.name for field in fields(ModelStates)]

# 400,000 parameters, a third of them in the embedding; odd enough for shards of unequal size.
MODEL = {
    "model.scratch.vocab_size": 2000,
    "model.scratch.hidden_size": 64,
    "model.scratch.intermediate_size": 192,
    "model.scratch.num_hidden_layers": 6,
    "model.scratch.num_attention_heads": 4,
    "model.scratch.num_key_value_heads": 1,
    "model.scratch.head_dim": 16,
    "model.scratch.sliding_window": 16,
}


@dataclass(frozen=True)
class Case:
    """One configuration."""

    strategy: str
    offload: bool
    ranks: int
    dtype: str
    what: str
    """`full`, `lora`, or `qlora`: adapters over weights in 4 bits."""

    @classmethod
    def parse(cls, text: str) -> Case:
        """From ``zero2+offload:2:bfloat16:full``."""
        strategy, ranks, dtype, what = text.split(":")
        name, plus, _ = strategy.partition("+")
        return cls(name, bool(plus), int(ranks), dtype, what)

    @property
    def name(self) -> str:
        plus = "+offload" if self.offload else ""
        return f"{self.strategy}{plus}:{self.ranks}:{self.dtype}:{self.what}"


@dataclass(frozen=True)
class Result:
    """Bytes by kind; of the rank that has most, where it was measured."""

    case: str
    predicted: dict[str, int]
    measured: dict[str, int]

    @property
    def difference(self) -> float:
        """Of all but the buckets of ZeRO, whose size has nothing to do with the model's; relative."""
        counted = [kind for kind in KINDS if kind != "buckets" or "ddp" in self.case]
        predicted, measured = (
            sum(side[kind] for kind in counted) for side in (self.predicted, self.measured)
        )
        return predicted / measured - 1

    @property
    def bucket_difference(self) -> float:
        measured = self.measured["buckets"]
        return self.predicted["buckets"] / measured - 1 if measured else float(self.predicted["buckets"] > 0)


def all_cases() -> Iterator[Case]:
    """Every strategy on 2 and 4 ranks, both types, full, LoRA and QLoRA; offload on 2 ranks."""
    for dtype in ("bfloat16", "float32"):
        for what in ("full", "lora", "qlora"):
            yield Case("single", False, 1, dtype, what)
            for name in ("ddp", "fsdp2", "zero1", "zero2", "zero3"):
                for ranks in (2, 4):
                    yield Case(name, False, ranks, dtype, what)
    for name in ("fsdp2", "zero1", "zero2", "zero3"):
        yield Case(name, True, 2, "bfloat16", "full")


def run(case: Case, data: Path, folder: Path) -> Result:
    """Train for three steps; a run that does not end well stops the benchmark with its log."""
    settings = {} if case.what == "full" else {"model__lora": "{rank: 4}"}
    settings |= {"model__quantization": "nf4"} if case.what == "qlora" else {}
    plan = make_plan(
        data,
        case.strategy,
        case.ranks,
        offload=case.offload,
        model=MODEL,
        model__dtype=case.dtype,
        length__max_steps=3,
        checkpoint__every_steps=3,
        evaluation__every_steps=3,
        batch__global_batch_size=16,
        batch__max_per_device_batch_size=2,
        **settings,
    )
    attempt = forked_ranks.start(RunDir.create(folder, plan), trainer=Weighing)
    if attempt.wait() is not ExitCode.DONE:
        sys.exit(f"{case.name} did not complete:\n{attempt.log()}")
    ranks = [json.loads((folder / f"weights-{rank}.json").read_text()) for rank in range(case.ranks)]
    return Result(case.name, predicted(plan), max(ranks, key=lambda weights: sum(weights.values())))


def predicted(plan: Plan) -> dict[str, int]:
    """What rank 0 keeps, on GPU and host together: a CPU has one memory."""
    scratch = plan.recipe.model.scratch
    assert scratch is not None
    placed = place_model_states(configuration_of(plan, shape_of_scratch(scratch)))
    gpu, host = asdict(placed.gpu), asdict(placed.host)
    summed = {kind: gpu[kind] + host[kind] for kind in KINDS}
    if plan.recipe.strategy.kind == "fsdp2":  # whole gradients are gone when their shards are on the host
        summed["gradients"] = max(gpu["gradients"], host["gradients"])
    return summed


def markdown(results: list[Result]) -> str:
    """The table of benchmarks/memory_states.md."""
    head = f"| case | {' | '.join(KINDS)} | all but ZeRO's buckets |\n|---|{'---:|' * (len(KINDS) + 1)}\n"
    lines = []
    for result in results:
        cells = [_cell(result.predicted[kind], result.measured[kind]) for kind in KINDS]
        lines.append(f"| {result.case} | {' | '.join(cells)} | {result.difference:+.2%} |")
    return head + "\n".join(lines) + "\n"


def _cell(predicted: int, measured: int) -> str:
    return "–" if not predicted and not measured else f"{predicted / 1e6:,.3f} / {measured / 1e6:,.3f}"


def earlier_results(file: Path | None) -> list[Result]:
    """What an earlier call measured, and what was predicted then."""
    if file is None or not file.exists():
        return []
    return [Result(**json.loads(line)) for line in file.read_text().splitlines()]


def keep(file: Path | None, result: Result) -> None:
    """Add one result to those of earlier calls."""
    if file is not None:
        with file.open("a") as lines:
            lines.write(json.dumps(asdict(result)) + "\n")


def main() -> None:
    """Run the cases and print the table."""
    parser = case_parser(__doc__, [case.name for case in all_cases()])
    parser.add_argument(
        "--results", type=Path, help="keep what was measured here, and do not measure it again"
    )
    options = parser.parse_args()
    results = {result.case: result for result in earlier_results(options.results)}
    with tempfile.TemporaryDirectory() as scratch:
        data = sample(Path(scratch))
        for name in options.cases:
            if name not in results:
                results[name] = run(Case.parse(name), data, Path(scratch) / name.replace(":", "-"))
                keep(options.results, results[name])
            print(f"{name}: {results[name].difference:+.2%}", file=sys.stderr)
    show([results[name] for name in options.cases], options)


def show(results: list[Result], options: argparse.Namespace) -> None:
    """As JSON, or as a table, which goes into a file too where one is named."""
    if options.json:
        found = [asdict(r) | {"difference": r.difference, "buckets": r.bucket_difference} for r in results]
        print(json.dumps(found))
        return
    print(markdown(results))
    if options.out:
        write_table(options.out, markdown(results))


if __name__ == "__main__":
    main()
