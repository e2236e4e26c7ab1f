"""``varlen`` gives the losses and gradients of eager attention; a reference stands for torch's kernel.

The reference reads what the kernel is given: boundaries, window, scale and number of heads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.attention import varlen

from gemfit.data.pack.reader import Row
from gemfit.errors import UserError
from gemfit.train.data.collate import collate, needs_boundaries
from gemfit.train.model.attention_functions import register_attention, varlen_attention
from train.tiny_gemma import tiny_gemma
from train.varlen_reference import reference

SEQ_LEN = 64


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The reference in place of torch's kernel; the windows that it was called with."""
    register_attention()
    seen: list[tuple[int, int]] = []

    def kernel(*args: Any, **options: Any) -> torch.Tensor:
        seen.append(options["window_size"])
        return reference(*args, **options)

    monkeypatch.setattr(varlen, "varlen_attn", kernel)
    return seen


def rows() -> list[Row]:
    """Two rows, of three documents and of one, with padding at the end; some are longer than the window."""
    random = np.random.default_rng(0)
    made = []
    for lengths in ((29, 3, 20), (60,)):
        ids = random.integers(6, 60, SEQ_LEN).astype(np.int32)
        labels = np.where(np.arange(SEQ_LEN) < sum(lengths), ids, -100).astype(np.int32)
        made.append(Row(ids, labels, np.array(lengths, np.int32)))
    return made


def outcome(attention: str, **sizes: Any) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """Logits (rows, tokens, vocabulary), loss, and the gradients of all parameters."""
    torch.manual_seed(0)
    model = tiny_gemma(attention, **sizes).train()
    batch = collate(rows(), seq_len=SEQ_LEN, pad_id=0, flatten=needs_boundaries(attention))
    logits = model(**{name: value for name, value in batch.items() if name not in ("targets", "places")})
    loss = model(**batch).loss_sum
    loss.backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    return logits.logits.detach().view(2, SEQ_LEN, -1), loss.detach(), gradients


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"num_key_value_heads": 2},
        {"num_attention_heads": 4, "num_key_value_heads": 2},
        {"head_dim": 256, "query_pre_attn_scalar": 256},
        {"sliding_window": 1},
    ],
    ids=["grouped", "as many keys", "two groups", "wide heads", "itself only"],
)
def test_logits_and_gradients_are_those_of_eager_attention(
    sizes: dict[str, Any], windows: list[tuple[int, int]]
) -> None:
    logits, loss, gradients = outcome("eager", **sizes)
    assert windows == []
    logits_here, loss_here, gradients_here = outcome("varlen", **sizes)
    assert windows[:2] == [(sizes.get("sliding_window", 16) - 1, 0), (-1, 0)]
    torch.testing.assert_close(logits_here, logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(loss_here, loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradients_here, gradients, rtol=1e-3, atol=1e-4)


def test_scores_that_are_to_be_capped_are_refused() -> None:
    heads, places = torch.zeros(1, 2, 4, 8), torch.tensor([0, 4], dtype=torch.int32)
    with pytest.raises(UserError, match="caps them at 50; set it to flex_attention or eager"):
        varlen_attention(
            torch.nn.Module(), heads, heads, heads, None, cu_seq_lens_q=places, max_length_q=4, softcap=50.0
        )


def test_the_reference_tells_a_wrong_window_and_wrong_boundaries(
    windows: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    logits, *_ = outcome("eager")

    def one_more(*args: Any, window_size: tuple[int, int], **options: Any) -> torch.Tensor:
        return reference(*args, window_size=(window_size[0] + (window_size[0] > 0), 0), **options)

    def one_document(q: Any, k: Any, v: Any, ends: Any, *args: Any, **options: Any) -> torch.Tensor:
        whole = ends[[0, -1]]
        return reference(q, k, v, whole, whole, len(q), len(q), **options)

    for wrong in (one_more, one_document):
        monkeypatch.setattr(varlen, "varlen_attn", wrong)
        assert (outcome("varlen")[0] - logits).abs().max() > 1e-3
