"""A gradient accumulation step never asks the GPU for a value: the host would wait for all of its kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.attention import varlen
from torch.utils._python_dispatch import TorchDispatchMode

from gemfit.data.document import IGNORED
from gemfit.data.pack.reader import Row
from gemfit.train.data.collate import PLACES_UNIT, collate, loss_places, loss_slices, needs_boundaries
from gemfit.train.model.attention_checks import prepare_attention
from train.tiny_gemma import replace_flash_attention, tiny_gemma

SEQ_LEN = 256
ASKING = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique")
"""Operations whose result, or its shape, the host waits for."""


class Asked(TorchDispatchMode):
    """Collects operations that would make the host wait."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.partition(".")[0]
        if name in ASKING or (name.startswith("index") and _has_boolean_index(args)):
            self.found.append(func.__name__)
        return func(*args, **kwargs or {})


def _has_boolean_index(args: Any) -> bool:
    indices = args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else ()
    return any(isinstance(index, torch.Tensor) and index.dtype == torch.bool for index in indices)


def make_rows() -> list[Row]:
    generator = np.random.default_rng(0)
    ids = generator.integers(0, 64, SEQ_LEN).astype(np.int32)
    labels = np.where(generator.random(SEQ_LEN) < 0.3, ids, IGNORED).astype(np.int32)
    return [Row(ids, labels, np.array(lengths, np.int32)) for lengths in ([100, 120], [30, 40, 50])]


def make_model(attention: str) -> Any:
    model = tiny_gemma(attention)
    model.activation_checkpointing_enable({"use_reentrant": False})
    return model.train()


@pytest.mark.parametrize("attention", ["eager", "sdpa", "flash_attention_2", "varlen"])
def test_an_accumulation_step_asks_for_no_value(attention: str, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_flash_attention(monkeypatch, lambda query, key, value, **_: query)
    monkeypatch.setattr(varlen, "varlen_attn", lambda query, *_, **__: query)
    prepare_attention("cpu")
    model = make_model(attention)
    batch = collate(make_rows(), seq_len=SEQ_LEN, pad_id=0, flatten=needs_boundaries(attention))
    with Asked() as asked:
        model(**batch).loss_sum.backward()
    assert asked.found == []


@pytest.mark.parametrize("per_token", [False, True])
def test_losses_at_places_are_those_of_all_places(per_token: bool) -> None:
    model = make_model("sdpa").eval()
    batch = collate(make_rows(), seq_len=SEQ_LEN, pad_id=0, flatten=False)
    with torch.no_grad():
        found = model(**batch, per_token=per_token)
        batch.pop("places")
        expected = model(**batch, per_token=per_token)
    for name in ("losses", "hits") if per_token else ("loss_sum", "correct"):
        assert torch.allclose(found[name].float(), expected[name].float(), rtol=1e-5), name


@pytest.mark.parametrize("trained", [0, 1, 700, 2047, 3000])
def test_places_hold_every_target_and_fill_chunks_of_few_sizes(trained: int) -> None:
    targets = np.full((3, 1000), IGNORED)
    targets.reshape(-1)[np.random.default_rng(0).permutation(3000)[:trained]] = 7
    places = loss_places(targets)
    assert len(set(places.tolist())) == len(places)
    assert set(np.flatnonzero(targets != IGNORED)) <= set(places.tolist())
    assert len(places) == 3000 or len(places) % (PLACES_UNIT * loss_slices(3000)) == 0
    assert len(places) < trained + PLACES_UNIT * loss_slices(3000)
