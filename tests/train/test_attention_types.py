"""The dtypes that the kernel of each attention gets, for the precision of every strategy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import transformers.integrations.flex_attention as flex
from torch.nn.attention import varlen
from torch.utils._python_dispatch import TorchDispatchMode

from gemfit.train.data.collate import needs_boundaries
from gemfit.train.model.attention_checks import prepare_attention
from train.tiny_gemma import replace_flash_attention, tiny_gemma

pytestmark = [  # what transformers and torch say of each other's flex_attention
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

F32, BF16 = torch.float32, torch.bfloat16
TOKENS = 128

PRECISIONS = {
    "float32": (F32, False),
    "single, ddp": (F32, True),
    "single, ddp with frozen weights": (BF16, True),
    "fsdp2, zero": (BF16, False),
}
"""Dtype of the parameters of attention as it computes, and whether autocast casts its inputs."""

TABLE = {
    ("eager", "float32"): "float32 float32",
    ("eager", "single, ddp"): "bfloat16 bfloat16",
    ("eager", "single, ddp with frozen weights"): "bfloat16 bfloat16",
    ("eager", "fsdp2, zero"): "bfloat16 bfloat16",
    ("sdpa", "float32"): "float32 float32 float32",
    ("sdpa", "single, ddp"): "bfloat16 bfloat16 bfloat16",
    ("sdpa", "single, ddp with frozen weights"): "bfloat16 bfloat16 bfloat16",
    ("sdpa", "fsdp2, zero"): "bfloat16 bfloat16 bfloat16",
    ("flex_attention", "float32"): "float32 float32 float32",
    ("flex_attention", "single, ddp"): "bfloat16 bfloat16 bfloat16",
    ("flex_attention", "single, ddp with frozen weights"): "bfloat16 bfloat16 bfloat16",
    ("flex_attention", "fsdp2, zero"): "bfloat16 bfloat16 bfloat16",
    ("flash_attention_2", "single, ddp"): "bfloat16 bfloat16 bfloat16",
    ("flash_attention_2", "single, ddp with frozen weights"): "bfloat16 bfloat16 bfloat16",
    ("flash_attention_2", "fsdp2, zero"): "bfloat16 bfloat16 bfloat16",
    ("varlen", "single, ddp"): "bfloat16 bfloat16 bfloat16",
    ("varlen", "single, ddp with frozen weights"): "bfloat16 bfloat16 bfloat16",
    ("varlen", "fsdp2, zero"): "bfloat16 bfloat16 bfloat16",
}
"""Queries, keys and values; for eager the two factors of its products. Flash and varlen have no float32."""


class Spy(TorchDispatchMode):
    """Collects the dtypes of attention's operands, after autocast has cast them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: set[str] = set()

    def add(self, *operands: torch.Tensor) -> None:
        self.seen.add(" ".join(str(operand.dtype).removeprefix("torch.") for operand in operands))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "scaled_dot_product" in func.__name__:
            self.add(*args[:3])
        if func is torch.ops.aten.bmm.default and args[0].shape[-2] == TOKENS:
            self.add(*args[:2])
        return func(*args, **kwargs or {})


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spy]:
    spy = Spy()

    def kernel(query: Any, key: Any, value: Any, *_: Any, **options: Any) -> Any:
        spy.add(query, key, value)
        return query

    replace_flash_attention(monkeypatch, kernel)
    monkeypatch.setattr(varlen, "varlen_attn", kernel)
    monkeypatch.setattr(flex, "compile_friendly_flex_attention", kernel)
    prepare_attention("cpu")
    with torch.compiler.set_stance("force_eager"):
        yield spy


def run_model(attention: str, dtype: torch.dtype, *, autocast: bool) -> None:
    model = tiny_gemma(attention)
    for parameter in model.parameters():  # buffers stay float32, as in training
        parameter.data = parameter.data.to(dtype)
    positions = torch.cat([torch.arange(60), torch.arange(TOKENS - 60)])[None]
    boundaries = {}
    if needs_boundaries(attention):
        ends = torch.tensor([0, 60, TOKENS], dtype=torch.int32)
        lengths = {"max_length_q": TOKENS, "max_length_k": TOKENS}
        boundaries = {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends} | lengths
    ids = torch.randint(0, 64, (1, TOKENS), generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), torch.autocast("cpu", BF16, enabled=autocast):
        model(input_ids=ids, position_ids=positions, **boundaries)


@pytest.mark.parametrize(("attention", "precision"), TABLE)
def test_kernels_get_operands_of_one_dtype(attention: str, precision: str, spy: Spy) -> None:
    dtype, autocast = PRECISIONS[precision]
    with spy:
        run_model(attention, dtype, autocast=autocast)
    assert spy.seen == {TABLE[attention, precision]}
