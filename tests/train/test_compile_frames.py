"""Compiled layers are compiled for kinds of layers, not for batches: no value of a batch is in a guard."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters
from torch.nn.attention import varlen

from gemfit.data.pack.reader import Row, open_pack
from gemfit.schemas.plan import Plan
from gemfit.train.data.batches import RowSchedule, TrainBatches, ValidationBatches
from gemfit.train.data.collate import collate, needs_boundaries
from gemfit.train.model.attention_functions import register_attention
from gemfit.train.model.compile import compile_layers
from train.tiny_gemma import replace_flash_attention, tiny_gemma

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # dynamo's own

SEQ_LEN, ROWS, MOST_DOCUMENTS = 256, 2, 20


@torch.library.custom_op("gemfit_tests::varlen", mutates_args=())
def opaque_varlen(query: torch.Tensor, boundaries: torch.Tensor, longest: int) -> torch.Tensor:
    """A kernel that dynamo cannot look into, as the packages register theirs."""
    return query.clone()


@opaque_varlen.register_fake
def _(query: torch.Tensor, boundaries: torch.Tensor, longest: int) -> torch.Tensor:
    return torch.empty_like(query)


opaque_varlen.register_autograd(lambda context, gradient: (gradient, None, None))


def flash_varlen(query: Any, key: Any, value: Any, *, cu_seqlens_q: Any, max_seqlen_q: int, **_: Any) -> Any:
    return opaque_varlen(query, cu_seqlens_q, max_seqlen_q)


def torch_varlen(
    query: Any, key: Any, value: Any, ends: Any, ends_k: Any, longest: int, longest_k: int, **_: Any
) -> Any:
    return opaque_varlen(query, ends, longest)


@pytest.fixture(autouse=True)
def _dynamo_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    replace_flash_attention(monkeypatch, flash_varlen)
    register_attention()
    monkeypatch.setattr(varlen, "varlen_attn", torch_varlen)
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def compiled_model(attention: str) -> Any:
    model = tiny_gemma(attention, vocab_size=128, num_hidden_layers=6, layer_types=None, sliding_window=32)
    compile_layers(model)
    return model.train()


def random_row(generator: np.random.Generator) -> Row:
    lengths: list[int] = []
    while sum(lengths) < SEQ_LEN - 20 and len(lengths) < MOST_DOCUMENTS:
        lengths.append(min(int(generator.integers(5, 100)), SEQ_LEN - sum(lengths)))
    ids = generator.integers(0, 128, SEQ_LEN).astype(np.int32)
    return Row(ids, ids.copy(), np.array(lengths, np.int32))


def frames_after_each_batch(attention: str, *, batches: int = 12) -> list[int]:
    model, generator = compiled_model(attention), np.random.default_rng(0)
    frames = []
    for _ in range(batches):
        rows = [random_row(generator) for _ in range(ROWS)]
        batch = collate(
            rows,
            seq_len=SEQ_LEN,
            pad_id=0,
            flatten=needs_boundaries(attention),
            documents=MOST_DOCUMENTS + 1,
        )
        model(**batch).loss_sum.backward()
        frames.append(counters["frames"]["ok"])
    return frames


@pytest.mark.parametrize("attention", ["flash_attention_2", "varlen"])
def test_batches_of_a_compiled_run_have_boundaries_of_one_shape(
    attention: str, make_plan: Callable[..., Plan]
) -> None:
    made = make_plan("single", 1, batch__max_per_device_batch_size=1)
    model = made.recipe.model.model_copy(update={"attention": attention, "compile": True})
    plan = made.model_copy(update={"recipe": made.recipe.model_copy(update={"model": model})})
    train, validation = (open_pack(Path(plan.pack.folder), split) for split in ("train", "validation"))
    for rows, batches in (
        (train, TrainBatches(RowSchedule(plan, train), 0, 0)),
        (validation, ValidationBatches(plan, validation, 0, 0)),
    ):
        lengths = {(len(batch["cu_seq_lens_q"]), batch["max_length_q"]) for batch in batches}
        assert lengths == {(rows.most_documents + 2, plan.batch.seq_len)}


@pytest.mark.parametrize("attention", ["eager", "sdpa", "flash_attention_2", "flash_attention_3", "varlen"])
def test_frames_stop_growing_after_the_first_batches(attention: str) -> None:
    frames = frames_after_each_batch(attention)
    assert frames[0] > 0
    assert set(frames[2:]) == {frames[2]}
