"""How much does a step need besides its states? Predicted against what fake tensors of real sizes took.

    python tests/memory/peaks.py [--cases 1b:2:2048:bfloat16:recompute:sdpa …] [--out FILE.md]

A case is SIZE:ROWS:TOKENS:DTYPE:recompute|keep:ATTENTION[:WHAT[:DEGREE]]; WHAT is full, lora, dora or qlora.
DTYPE `autocast` is float32 parameters cast to bfloat16 at each use, as strategies single and ddp
have; DEGREE is that of sequence parallelism, over ranks that send nothing. The real model runs forward and
backward twice and AdamW steps, on fake tensors: every storage is counted while it lives, and nothing is
computed. It shows what the operations of torch allocate on a CPU; kernels of a GPU may need workspaces
besides. Ten seconds each.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import torch.distributed as dist
import torch.distributed._tools.fake_collectives  # what a collective makes of fake tensors
from bitsandbytes.functional import quantize_4bit
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.checkpoint import checkpoint
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from gemfit.schemas.recipe_model import Lora, Quantization
from gemfit.schemas.strategy import Ddp, DeepSpeed, Strategy
from gemfit.train.data.collate import loss_slices
from gemfit.train.distributed.meta_init import cast_frozen, replace_parameters
from gemfit.train.model.adapters import add_adapters
from gemfit.train.model.packed_lm import packed_class
from gemfit.train.model.qlora import quantize
from gemfit.train.model.ulysses import row_masks, use_sequence_parallel
from gemfit_launch.predict.configuration import Configuration
from gemfit_launch.predict.memory import working_memory
from gemfit_launch.predict.model_shape import ModelShape
from gemfit_launch.predict.model_state_memory import place_model_states
from gemfit_launch.predict.shape_lookup import shipped_shapes
from memory.case_table import case_parser, show_results

CASES = [
    "270m:4:1024:autocast:recompute:sdpa",
    "270m:4:1024:autocast:keep:sdpa",
    "270m:4:1024:autocast:keep:eager",
    "270m:4:1024:float32:recompute:sdpa",
    "270m:1:512:autocast:recompute:sdpa",
    "1b:2:2048:autocast:recompute:sdpa",
    "1b:2:2048:autocast:keep:sdpa",
    "1b:4:1024:bfloat16:recompute:sdpa",
    "1b:4:1024:bfloat16:keep:sdpa",
    "4b:4:1024:autocast:recompute:sdpa",
    "4b:4:1024:autocast:keep:sdpa",
    "4b:2:4096:bfloat16:keep:eager",
    "12b:4:1024:bfloat16:recompute:sdpa",
    "27b:4:1024:bfloat16:recompute:sdpa",
    "27b:4:1024:bfloat16:keep:sdpa",
    "1b:8:512:float32:keep:sdpa",
    "4b:1:2048:bfloat16:recompute:sdpa",
    "12b:2:2048:autocast:keep:sdpa",
    "27b:2:1024:bfloat16:keep:eager",
    "1b:2:1024:autocast:recompute:sdpa:lora",
    "1b:2:1024:autocast:keep:sdpa:lora",
    "1b:2:1024:bfloat16:keep:sdpa:lora",
    "1b:2:1024:autocast:recompute:sdpa:qlora",
    "1b:2:1024:autocast:keep:sdpa:qlora",
    "4b:1:1024:autocast:keep:sdpa:qlora",
    "12b:2:1024:bfloat16:keep:sdpa:lora",
    *(
        f"{case}:{degree}"
        for case in (
            "270m:1:2048:bfloat16:keep:sdpa:full",
            "1b:1:8192:bfloat16:recompute:sdpa:full",
            "1b:1:4096:autocast:keep:sdpa:lora",
            "4b:1:4096:bfloat16:keep:sdpa:full",
            "27b:1:8192:bfloat16:recompute:sdpa:full",
        )
        for degree in (1, 2, 4)
    ),
    "1b:2:1024:autocast:recompute:sdpa:dora",
    "1b:2:1024:autocast:keep:sdpa:dora",
    "1b:2:1024:bfloat16:keep:sdpa:dora",
]


class Living(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of all storages that are alive, and the most that there were."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}
        self._references: dict[int, Any] = {}

    def count(self, tensor: Any) -> None:
        """Take a tensor's storage into account until it is gone; of a DTensor, that of the local shard."""
        if isinstance(tensor, DTensor):
            tensor = tensor._local_tensor
        if not isinstance(tensor, torch.Tensor) or tensor.device.type == "meta":
            return
        if not (size := tensor.untyped_storage().nbytes()):
            return
        storage = tensor.untyped_storage()
        key = id(storage)
        if key not in self._sizes:
            self._references[key] = weakref.ref(storage, lambda _: self._forget(key))
            self._resize(key, size)

    @contextmanager
    def watch_resizes(self) -> Iterator[None]:
        """Follow storages that are emptied and filled again inside, as FSDP2 does with what it gathers."""
        original = torch.UntypedStorage.resize_

        def resize(storage: torch.UntypedStorage, size: int) -> Any:
            resized = original(storage, size)
            if id(storage) in self._sizes:
                self._resize(id(storage), size)
            elif size:
                self.count(torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage))
            return resized

        with mock.patch.object(torch.UntypedStorage, "resize_", resize):
            yield

    def _resize(self, key: int, size: int) -> None:
        self.now += size - self._sizes.get(key, 0)
        self._sizes[key] = size
        self.peak = max(self.peak, self.now)

    def _forget(self, key: int) -> None:
        self._references.pop(key, None)
        self.now -= self._sizes.pop(key, 0)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for tensor in tree_iter(made):
            self.count(tensor)
        return made


@dataclass(frozen=True)
class Case:
    """One configuration of one size."""

    size: str
    rows: int
    tokens: int
    dtype: str
    recompute: bool
    attention: str
    what: str = "full"
    """`full`, `lora` of rank 16, `dora`, or `qlora`: LoRA over weights in 4 bits."""
    degree: int = 1
    """Ranks that share each row."""
    layers: int | None = None
    """Layers of the model; all of them by default."""

    @classmethod
    def parse(cls, text: str) -> Case:
        size, rows, tokens, dtype, how, attention, *others = text.split(":")
        what, degree = (*others, *("full", "1")[len(others) :])
        return cls(size, int(rows), int(tokens), dtype, how == "recompute", attention, what, int(degree))

    @property
    def lora(self) -> Lora | None:
        return None if self.what == "full" else Lora(use_dora=self.what == "dora")

    @property
    def quantization(self) -> Quantization | None:
        return Quantization() if self.what == "qlora" else None

    @property
    def shape(self) -> ModelShape:
        return shipped_shapes()[f"google/gemma-3-{self.size}-it"]


@dataclass(frozen=True)
class Result:
    """Bytes above the states, at the peak of a step."""

    case: str
    predicted: int
    measured: int
    states: int
    """As the fake engine holds them; in bfloat16 it has no float32 masters."""

    @property
    def difference(self) -> float:
        return self.predicted / self.measured - 1


def predict(case: Case) -> int:
    """What the largest moment of a step needs besides the states."""
    strategy: Strategy = DeepSpeed(stage=1) if case.dtype == "bfloat16" else Ddp()
    strategy = strategy.model_copy(update={"sequence_parallel": case.degree})
    config = Configuration(
        shape=case.shape,
        lora=case.lora,
        quantization=case.quantization,
        dtype="float32" if case.dtype == "float32" else "bfloat16",
        strategy=strategy,
        world_size=case.degree,
        ranks_per_node=case.degree,
        per_device_batch_size=case.rows,
        gradient_accumulation_steps=2,
        seq_len=case.tokens,
        activation_checkpointing=case.recompute,
        attention=case.attention,
    )
    moments = working_memory(config, place_model_states(config))
    if case.dtype == "bfloat16":
        del moments["step"]
    return max(sum(part.bytes for part in parts) for parts in moments.values())


def measure(case: Case) -> tuple[int, int]:
    """(peak above the states, states) of the second of two steps."""
    if case.degree > 1:
        dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=case.degree)
        try:
            return _measure(case, dist.group.WORLD)
        finally:
            dist.destroy_process_group()
    return _measure(case, None)


def _measure(case: Case, group: Any) -> tuple[int, int]:
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = fake_model(case)
        if group is not None:
            use_sequence_parallel(model, case.degree)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], foreach=True)
        living = Living()
        for tensor in (*model.parameters(), *model.buffers()):
            living.count(tensor)
        accumulation_step = make_accumulation_step(case, model, group)
        with living:
            for _ in range(2):
                optimizer.zero_grad()
                accumulation_step()
                living.peak = 0  # the second pass accumulates into gradients
                accumulation_step()
                peak = living.peak
                optimizer.step()
        # A bfloat16 model has float32 masters, which this optimizer knows nothing of: its step is left out.
        return (peak if case.dtype == "bfloat16" else living.peak) - living.now, living.now


def fake_model(case: Case) -> Any:
    """The real shape, without memory for a single weight."""
    shape = case.shape
    config = Gemma3TextConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=case.layers or shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        sliding_window=shape.sliding_window or 0,
        query_pre_attn_scalar=shape.head_dim,
        attn_implementation=case.attention,
    )
    torch.set_default_dtype(torch.bfloat16 if case.dtype == "bfloat16" else torch.float32)
    model = packed_class(Gemma3ForCausalLM)(config).train()
    torch.set_default_dtype(torch.float32)
    if case.recompute:
        model.activation_checkpointing_enable({"use_reentrant": False})
    if case.lora is not None:
        compute = torch.float32 if case.dtype == "float32" else torch.bfloat16
        _attach(model, case, compute)
    return model


def _attach(model: Any, case: Case, compute: torch.dtype) -> None:
    """Adapters of every linear layer, as peft makes them, and the base in 4 bits."""
    assert case.lora is not None
    torch.set_default_dtype(torch.bfloat16 if case.dtype == "bfloat16" else torch.float32)
    # They are where they should be, and a fake layer cannot be moved.
    with mock.patch.object(torch.nn.Module, "to", lambda module, *_, **__: module):
        add_adapters(model, case.lora)
    torch.set_default_dtype(torch.float32)
    if case.dtype == "bfloat16":  # as an engine with float32 masters holds them; peft makes adapters float32
        replace_parameters(model, _in_bfloat16, lambda parameter: parameter.requires_grad)
    if case.quantization is not None:
        # A fake tensor cannot become a Params4bit, which the layer drops at once anyway.
        with mock.patch(
            "bitsandbytes.nn.modules.Params4bit", lambda data, **_: torch.nn.Parameter(data, False)
        ):
            quantize(model, case.quantization, compute)
    cast_frozen(model, compute)


def _in_bfloat16(parameter: torch.nn.Parameter) -> torch.nn.Parameter:
    return torch.nn.Parameter(parameter.detach().to(torch.bfloat16))


def make_accumulation_step(case: Case, model: Any, group: Any) -> Callable[[], None]:
    """Forward and backward pass of the trainer's loss; its choice of trained places needs real values."""
    tokens = case.tokens // case.degree
    ids = torch.zeros(case.rows, tokens, dtype=torch.long)
    rows = torch.arange(case.tokens).repeat(case.rows, 1)
    positions = rows[:, :tokens]
    slices = loss_slices(ids.numel())

    def accumulation_step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=case.dtype == "autocast"):
            whole = {"attention_mask": row_masks(model, rows), "sequence_group": group} if group else {}
            found = model.model(input_ids=ids, position_ids=positions, use_cache=False, **whole)
            hidden = found.last_hidden_state.flatten(0, 1).tensor_split(slices)
            targets = ids.flatten().tensor_split(slices)
            *earlier, last = zip(hidden, targets, strict=True)
            losses = [checkpoint(model._slice_loss, h, t, use_reentrant=False) for h, t in earlier]
            loss = torch.stack([*losses, model._slice_loss(*last)]).sum()
        del found, hidden, losses, earlier, last
        loss.backward()  # type: ignore[no-untyped-call]

    return accumulation_step


def markdown(results: list[Result]) -> str:
    """The table of benchmarks/memory_peaks.md."""
    head = "| case | states, GB | predicted, GB | measured, GB | difference |\n|---|---:|---:|---:|---:|\n"
    lines = [
        f"| {r.case} | {r.states / 1e9:.2f} | {r.predicted / 1e9:.2f} | {r.measured / 1e9:.2f} "
        f"| {r.difference:+.1%} |"
        for r in results
    ]
    return head + "\n".join(lines) + "\n"


def result_of(name: str) -> Result:
    """The case of this name, predicted and measured."""
    measured, states = measure(Case.parse(name))
    return Result(name, predict(Case.parse(name)), measured, states)


def main() -> None:
    """Run the cases and print the table."""
    options = case_parser(__doc__, CASES).parse_args()
    quantize_4bit(torch.ones(64), compress_statistics=True)  # its tables cannot be made of fake tensors
    show_results(map(result_of, options.cases), markdown, options)


if __name__ == "__main__":
    main()
