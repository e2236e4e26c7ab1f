"""Peak memory of ZeRO on ranks that do not exist: predicted against a trace of the real sizes.

    python tests/memory/zero_peaks.py [--cases zero2:27b:64:8 …] [--out FILE.md]

A case is zeroSTAGE:SIZE:RANKS[:LAYERS]. DeepSpeed's engine is made over torch's fake process group as rank 0
of so many, and runs two optimizer steps of two accumulation steps on fake tensors. They have no values:
where DeepSpeed asks for one, to clip gradients and to look for an overflow, it is given a number.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

os.environ["DS_ACCELERATOR"] = "cpu"

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from gemfit.schemas.strategy import DeepSpeed
from gemfit.train.distributed.meta_init import zero3_from_meta
from gemfit.train.model.attention_functions import register_attention
from gemfit_launch.planning.deepspeed import deepspeed_config
from memory.case_table import case_parser, show_results
from memory.fake_deepspeed import deepspeed_on_fake_rank
from memory.fsdp2_peaks import ROWS, TOKENS, Sharded, predict
from memory.peaks import Living, fake_model

STAGES, SIZES, RANKS = (1, 2, 3), ("1b", "4b", "12b", "27b"), (8, 64)
CASES = [f"zero{stage}:{size}:{ranks}" for stage in STAGES for size in SIZES for ranks in RANKS]


@dataclass(frozen=True)
class Result:
    """Bytes of rank 0 at the peak of a step, model states included."""

    case: str
    moment: str
    predicted: int
    traced: int
    seconds: float

    @property
    def difference(self) -> float:
        return self.predicted / self.traced - 1


class MadeUpNumbers(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Answers a question for the value of a fake tensor: a small number, and no overflow."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten._local_scalar_dense.default:
            return 0.5 if args[0].dtype.is_floating_point else 0
        return function(*args, **(kwargs or {}))


@contextmanager
def zero_engine(case: Sharded, stage: int, living: Living) -> Iterator[Any]:
    """DeepSpeed's engine around the real shape, as rank 0 has it; inside, ``living`` counts."""
    from deepspeed.runtime.zero import partitioned_param_coordinator as coordinator  # noqa: PLC0415

    with (
        deepspeed_on_fake_rank(0, case.ranks) as deepspeed,
        # What rank 0 would send has no value either, and a fake model is where it should be.
        mock.patch.object(coordinator, "assert_ints_same_as_other_ranks"),
        mock.patch.object(torch.nn.Module, "_apply", lambda module, *_, **__: module),
        FakeTensorMode(allow_non_fake_inputs=True),
        MadeUpNumbers(),  # type: ignore[no-untyped-call]
        living,
    ):
        model = fake_model(replace(case.model, dtype="bfloat16"))
        config = zero_config(stage, case.ranks)
        if stage == 3:
            zero3_from_meta(model, config, torch.bfloat16)
        optimizer = torch.optim.AdamW(model.parameters(), foreach=True)
        engine, *_ = deepspeed.initialize(
            model=model, optimizer=optimizer, config=config, dist_init_required=False
        )
        yield engine


def zero_config(stage: int, ranks: int) -> dict[str, Any]:
    """The configuration of a run in bfloat16, as the launcher makes it."""
    recipe: Any = mock.Mock(model=mock.Mock(dtype="bfloat16"), optim=mock.Mock(max_grad_norm=1.0))
    batch: Any = mock.Mock(
        per_device_batch_size=ROWS,
        gradient_accumulation_steps=2,
        slots=2 * ROWS * ranks,
        sequence_parallel=1,
    )
    return deepspeed_config(DeepSpeed(stage=stage), recipe, batch)  # type: ignore[arg-type]


def trace(name: str) -> Result:
    """Run the steps of one rank on fake tensors, and compare."""
    started = time.perf_counter()
    register_attention()
    engine_name, _, rest = name.partition(":")
    size, ranks, *layers = rest.split(":")
    case = Sharded(size, int(ranks), layers=int(layers[0]) if layers else None)
    stage, living = int(engine_name.removeprefix("zero")), Living()
    with zero_engine(case, stage, living) as engine:
        living.peak = living.now
        ids = torch.zeros(ROWS, TOKENS, dtype=torch.long)
        positions = torch.arange(TOKENS).repeat(ROWS, 1)
        for _ in range(2 * 2):
            engine.backward(engine(input_ids=ids, position_ids=positions, targets=ids).loss_sum)
            engine.step()
    moment, predicted = predict(case, DeepSpeed(stage=stage))  # type: ignore[arg-type]
    return Result(name, moment, predicted, living.peak, time.perf_counter() - started)


def markdown(results: list[Result]) -> str:
    """The table of benchmarks/zero_peaks.md."""
    head = (
        "| strategy | model | ranks | layers | moment | predicted, GB | traced, GB | difference |\n"
        "|---|---|---:|---:|---|---:|---:|---:|\n"
    )
    lines = []
    for r in results:
        strategy, size, ranks, *layers = r.case.split(":")
        lines.append(
            f"| {strategy} | {size} | {ranks} | {layers[0] if layers else 'all'} | {r.moment} "
            f"| {r.predicted / 1e9:.2f} | {r.traced / 1e9:.2f} | {r.difference:+.1%} |"
        )
    return head + "\n".join(lines) + "\n"


def main() -> None:
    """Trace the cases and print the table."""
    options = case_parser(__doc__, CASES).parse_args()
    show_results(map(trace, options.cases), markdown, options)


if __name__ == "__main__":
    main()
