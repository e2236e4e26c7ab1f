"""Peak memory of FSDP2 on ranks that do not exist: predicted against a trace of the real sizes.

    python tests/memory/fsdp2_peaks.py [--cases 27b:64 …] [--out FILE.md]

A case is SIZE:RANKS[:RANK[:LAYERS]]. The real model is sharded over torch's fake process group, and runs two
optimizer steps of two accumulation steps on fake tensors: FSDP2 gathers, reduces and frees as it would, and
nothing is computed or sent. ``--tracker`` adds what torch's FSDPMemTracker counts; its time grows with the
square of the layers, so ask it about two of them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor.debug import _clear_sharding_prop_cache
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

from gemfit.schemas.strategy import Fsdp, Strategy
from gemfit.train.model.attention_functions import register_attention
from gemfit_launch.predict.configuration import Configuration
from gemfit_launch.predict.memory import gpu_memory
from gemfit_launch.predict.model_state_memory import place_model_states
from memory.case_table import case_parser, show_results
from memory.peaks import Case, Living, fake_model

ROWS, TOKENS = 4, 1024
CASES = [f"{size}:{ranks}" for size in ("1b", "4b", "12b", "27b") for ranks in (8, 16, 32, 64)]


@dataclass(frozen=True)
class Sharded:
    """One rank of an FSDP2 run in bfloat16, with activation checkpointing."""

    size: str
    ranks: int
    rank: int = 0
    layers: int | None = None
    """Layers of the model; all of them by default."""

    @classmethod
    def parse(cls, text: str) -> Sharded:
        size, *numbers = text.split(":")
        return cls(size, *map(int, numbers))

    @property
    def model(self) -> Case:
        # Parameters are float32; FSDP2 casts what it gathers.
        return Case(self.size, ROWS, TOKENS, "float32", True, "sdpa", layers=self.layers)


@dataclass(frozen=True)
class Result:
    """Bytes of one rank at the peak of a step, model states included."""

    case: str
    moment: str
    predicted: int
    traced: int
    tracker: int | None
    """What FSDPMemTracker counts."""
    collectives: list[str]
    """Of one step, in order, with the elements that each receives."""
    seconds: float

    @property
    def difference(self) -> float:
        return self.predicted / self.traced - 1


class Collectives(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Names and sizes of the collectives that a rank takes part in, in order."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.namespace == "c10d":
            sizes = [arg.numel() for arg in args if isinstance(arg, torch.Tensor)]
            self.calls.append(f"{function.name().removeprefix('c10d::')} {sizes}")
        return function(*args, **(kwargs or {}))


@contextmanager
def fake_rank(rank: int, ranks: int) -> Iterator[Any]:
    """The device mesh of ``rank``, in a group of ``ranks`` that are not there."""
    hook = sys.excepthook
    dist.init_process_group("fake", rank=rank, world_size=ranks, store=FakeStore())
    try:
        yield init_device_mesh("cpu", (ranks,))
    finally:
        dist.destroy_process_group()
        sys.excepthook = hook  # each group puts one before it
        # Its keys do not tell meshes of the same shape from each other: another rank would get this one's.
        _clear_sharding_prop_cache()  # type: ignore[no-untyped-call]


def predict(case: Sharded, strategy: Strategy) -> tuple[str, int]:
    """The moment at which most is needed, and how much: states, gathers and working memory."""
    shape = case.model.shape
    config = Configuration(
        shape=replace(shape, num_layers=case.layers or shape.num_layers),
        lora=None,
        dtype="bfloat16",
        strategy=strategy,
        world_size=case.ranks,
        ranks_per_node=min(case.ranks, 8),
        per_device_batch_size=ROWS,
        gradient_accumulation_steps=2,
        seq_len=TOKENS,
        activation_checkpointing=True,
        attention="sdpa",
    )
    moments = gpu_memory(config, place_model_states(config))
    sizes = {name: sum(part.bytes for part in parts) for name, parts in moments.items()}
    moment = max(sizes, key=lambda name: sizes[name])
    return moment, sizes[moment]


def shard(model: Any, mesh: Any) -> None:
    """Apply FSDP2 as accelerate does, to each layer and the rest: gather bfloat16, reduce float32."""
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for unit in (*model.model.layers, model):
        fully_shard(unit, mesh=mesh, mp_policy=policy, reshard_after_forward=True)


def trace(case: Sharded, name: str, *, tracker: bool) -> Result:
    """Run the steps of one rank on fake tensors, and compare."""
    started = time.perf_counter()
    register_attention()
    with fake_rank(case.rank, case.ranks) as mesh, FakeTensorMode(allow_non_fake_inputs=True):
        model = fake_model(case.model)
        shard(model, mesh)
        optimizer = torch.optim.AdamW(model.parameters(), foreach=True)
        traced, collectives = _trace_steps(model, optimizer)
        tracked = _track_steps(model, optimizer) if tracker else None
    moment, predicted = predict(case, Fsdp())
    seconds = time.perf_counter() - started
    return Result(name, moment, predicted, traced, tracked, collectives, seconds)


def _trace_steps(model: Any, optimizer: Any) -> tuple[int, list[str]]:
    living, recorder = Living(), Collectives()
    for tensor in (*model.parameters(), *model.buffers()):
        living.count(tensor)
    with living.watch_resizes(), living, recorder:
        for _ in range(2):
            recorder.calls.clear()
            run_step(model, optimizer, lambda: None)
    return living.peak, recorder.calls


def _track_steps(model: Any, optimizer: Any) -> int:
    tracker: Any = FSDPMemTracker(model, optimizer)
    with tracker:
        for _ in range(2):
            run_step(model, optimizer, tracker.reset_mod_stats)
    (peak,) = tracker.get_tracker_snapshot("peak").values()
    return int(peak["Total"])


def run_step(model: Any, optimizer: Any, before_pass: Callable[[], None]) -> None:
    """One optimizer step of two accumulation steps; each reduces its gradients, as the trainer's do."""
    ids = torch.zeros(ROWS, TOKENS, dtype=torch.long)
    positions = torch.arange(TOKENS).repeat(ROWS, 1)
    optimizer.zero_grad()
    for _ in range(2):
        before_pass()
        model(input_ids=ids, position_ids=positions, targets=ids).loss_sum.backward()
    optimizer.step()


def markdown(results: list[Result]) -> str:
    """The table of benchmarks/fsdp2_peaks.md."""
    head = (
        "| model | ranks | moment | predicted, GB | traced, GB | difference | collectives per step |\n"
        "|---|---:|---|---:|---:|---:|---:|\n"
    )
    lines = []
    for r in results:
        size, ranks, *_ = r.case.split(":")
        lines.append(
            f"| {size} | {ranks} | {r.moment} | {r.predicted / 1e9:.2f} | {r.traced / 1e9:.2f} "
            f"| {r.difference:+.1%} | {len(r.collectives)} |"
        )
    return head + "\n".join(lines) + "\n"


def main() -> None:
    """Trace the cases and print the table."""
    parser = case_parser(__doc__, CASES)
    parser.add_argument("--tracker", action="store_true", help="let torch's FSDPMemTracker count too")
    options = parser.parse_args()
    found = (trace(Sharded.parse(name), name, tracker=options.tracker) for name in options.cases)
    show_results(found, markdown, options)


if __name__ == "__main__":
    main()
