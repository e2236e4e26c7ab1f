"""Which elements does each of 64 or 512 ranks hold? Real engines over torch's fake process group.

    python tests/memory/fake_ranks.py [--cases fsdp2:27b:512 zero3:27b:512:62 …] [--json]

A case is STRATEGY:SIZE:RANKS[:LAYERS]. For each: whether the shards that a checkpoint is written of hold
every element of every parameter once over all ranks, and the bytes of model states of rank 0 against the
prediction. Layers are equal, so the model has one unless the case says how many. FSDP2 is applied anew as
each rank. DeepSpeed's engine is made as first and last rank, on fake tensors; for the ranks in between the
first one is given another number.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

os.environ["DS_ACCELERATOR"] = "cpu"

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from gemfit.schemas.strategy import DeepSpeed, Fsdp
from gemfit.train.checkpoint import deepspeed_zero, engine_state
from gemfit.train.checkpoint.dcp_planner import FlatShard
from gemfit.train.distributed.meta_init import zero3_from_meta
from gemfit_launch.predict.configuration import Configuration
from gemfit_launch.predict.model_shape import ModelShape
from gemfit_launch.predict.model_state_memory import place_model_states
from gemfit_launch.predict.shape_lookup import shipped_shapes
from memory.fake_deepspeed import deepspeed_on_fake_rank
from memory.fsdp2_peaks import fake_rank

STRATEGIES, SIZES, RANKS = ("fsdp2", "zero3"), ("1b", "27b"), (64, 512)
CASES = [f"{strategy}:{size}:{ranks}" for strategy in STRATEGIES for size in SIZES for ranks in RANKS]
Ranges = dict[str, list[tuple[int, int]]]
"""(first, last + 1) of the flat elements of a parameter that each rank holds, in the order of ranks."""


@dataclass(frozen=True)
class Result:
    """What was found of one case."""

    case: str
    elements: int
    """Of the parameters that were looked at."""
    wrong: list[str]
    """Parameters of which an element is held by none, or by two."""
    predicted: int
    held: int
    """Bytes of rank 0: parameters, and what AdamW and the checkpoint keep in float32."""
    seconds: float


def shape_of(size: str, layers: int) -> ModelShape:
    """The shape of a model with so many layers."""
    return replace(shipped_shapes()[f"google/gemma-3-{size}-it"], num_layers=layers)


def parameters(shape: ModelShape) -> dict[str, torch.nn.Parameter]:
    """Every parameter of ``shape``, on the meta device."""
    found = {}
    for number, (first, rest, times) in enumerate(shape.all_shapes):
        size = (first, rest) if rest > 1 else (first,)
        for copy in range(times):
            found[f"p{number}_{copy}"] = torch.nn.Parameter(torch.empty(size, device="meta"))
    return found


def module(shape: ModelShape) -> torch.nn.Module:
    """A module that has the parameters of ``shape``."""
    made = torch.nn.Module()
    for name, parameter in parameters(shape).items():
        made.register_parameter(name, parameter)
    return made


def fsdp2(shape: ModelShape, ranks: int) -> tuple[Ranges, int]:
    """What each rank holds, and the bytes of rank 0."""
    found: Ranges = {}
    held = 0
    for number in range(ranks):
        with fake_rank(number, ranks) as mesh:
            model = module(shape)
            fully_shard(model, mesh=mesh)
            weights: engine_state.State = {
                engine_state.WEIGHT_PREFIX + name: value for name, value in model.named_parameters()
            }
            shares = engine_state.rank_share(weights, number, ranks)
        _add(found, shares)
        if number == 0:
            local = sum(
                parameter.to_local().numel()
                for parameter in model.parameters()
                if isinstance(parameter, DTensor)
            )
            held = local * (4 + 4 + 8)
    return found, held


def zero3(shape: ModelShape, ranks: int) -> tuple[Ranges, int]:
    """What each rank holds, and the bytes of rank 0."""
    found: Ranges = {}
    with zero3_engine(shape, 0, ranks) as engine:
        held = _zero3_bytes(engine)
        for number in range(ranks):
            with _as_rank(engine, number):
                _add(found, _zero3_shares(engine, number, ranks))
    last: Ranges = {}
    with zero3_engine(shape, ranks - 1, ranks) as engine:
        _add(last, _zero3_shares(engine, ranks - 1, ranks))
    for name, ranges in last.items():  # a rank that was really made, and one that was only numbered
        assert found[name][-1:] == ranges, name
    return found, held


@contextmanager
def zero3_engine(shape: ModelShape, rank: int, ranks: int) -> Iterator[Any]:
    """DeepSpeed's engine with the parameters of ``shape``, as ``rank`` has it, on fake tensors."""
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 2,
        "train_batch_size": 2 * ranks,
        "bf16": {"enabled": True},
        "zero_optimization": {"stage": 3},
    }
    with deepspeed_on_fake_rank(rank, ranks) as deepspeed:
        model = module(shape)
        with FakeTensorMode(allow_non_fake_inputs=True):
            zero3_from_meta(model, config, torch.bfloat16)
            optimizer = torch.optim.AdamW(model.parameters(), fused=False, foreach=False)
            engine, *_ = deepspeed.initialize(
                model=model, optimizer=optimizer, config=config, dist_init_required=False
            )
        yield engine


@contextmanager
def _as_rank(engine: Any, number: int) -> Iterator[None]:
    with mock.patch.object(engine.optimizer, "_get_param_partition_rank", return_value=number):
        yield


def _zero3_shares(engine: Any, number: int, ranks: int) -> engine_state.State:
    accelerator = SimpleNamespace(unwrap_model=lambda wrapped: wrapped.module)
    state = engine_state.collect(engine, engine.optimizer.optimizer, accelerator)
    weights = {name: value for name, value in state.items() if name.startswith(engine_state.WEIGHT_PREFIX)}
    return engine_state.rank_share(weights, number, ranks)


def _zero3_bytes(engine: Any) -> int:
    """Parameters in bfloat16; masters, moments and two copies of the gradients in float32."""
    elements = sum(flat.numel() for flat in deepspeed_zero.fp32_groups(engine))
    shards: int = sum(parameter.ds_tensor.numel() for parameter in engine.module.parameters())
    return 2 * shards + (4 + 8 + 4) * elements + 4 * min(elements, 1_000_000_000)


def _add(found: Ranges, shares: engine_state.State) -> None:
    for name, share in shares.items():
        assert isinstance(share, FlatShard), name
        found.setdefault(name, []).append((share.start, share.start + share.flat.numel()))


def overlaps_or_gaps(shape: ModelShape, ranges: Ranges) -> Iterator[str]:
    """Names of the parameters of which an element is in no range, or in two."""
    whole = {name: parameter.numel() for name, parameter in parameters(shape).items()}
    for name, size in whole.items():
        held = [pair for pair in sorted(ranges[engine_state.WEIGHT_PREFIX + name]) if pair[0] < pair[1]]
        edges = [0, *(edge for pair in held for edge in pair), size]
        if edges[::2] != edges[1::2]:
            yield name


def look(case: str) -> Result:
    """Look at all ranks of ``case``."""
    started = time.perf_counter()
    strategy, size, number, *layers = case.split(":")
    shape, ranks = shape_of(size, int(layers[0]) if layers else 1), int(number)
    ranges, held = (fsdp2 if strategy == "fsdp2" else zero3)(shape, ranks)
    config = Configuration(
        shape=shape,
        lora=None,
        dtype="bfloat16",
        strategy=Fsdp() if strategy == "fsdp2" else DeepSpeed(stage=3),
        world_size=ranks,
        ranks_per_node=8,
        per_device_batch_size=1,
        gradient_accumulation_steps=2,
        seq_len=1024,
        activation_checkpointing=True,
        attention="sdpa",
    )
    states = place_model_states(config).gpu
    return Result(
        case=case,
        elements=shape.parameters,
        wrong=list(overlaps_or_gaps(shape, ranges)),
        predicted=states.total - states.buckets,
        held=held,
        seconds=time.perf_counter() - started,
    )


def main() -> None:
    """Look at the cases, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="*", default=CASES)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = []
    for case in options.cases:
        results.append(look(case))
        r = results[-1]
        print(
            f"{case}: {r.elements:,} elements, wrong: {', '.join(r.wrong) or 'none'}; rank 0 holds "
            f"{r.held:,} bytes, predicted {r.predicted:,}; {r.seconds:.1f} s",
            file=sys.stderr,
        )
    if options.json:
        print(json.dumps([asdict(result) for result in results]))


if __name__ == "__main__":
    main()
