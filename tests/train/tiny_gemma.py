"""A tiny Gemma 3 of any attention, and a stand-in for the FlashAttention packages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import transformers.modeling_flash_attention_utils as flash
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from gemfit.train.model.packed_lm import packed_class

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "layer_types": ["sliding_attention", "full_attention"],
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "query_pre_attn_scalar": 16,
    "sliding_window": 16,
}


def tiny_gemma(attention: str, **sizes: Any) -> Any:
    """A packed model of random weights; ``sizes`` differ from ``SIZES``. No attention package is needed."""
    model = packed_class(Gemma3ForCausalLM)(Gemma3TextConfig(**(SIZES | sizes)))
    model.config._attn_implementation_internal = attention
    return model


def replace_flash_attention(monkeypatch: pytest.MonkeyPatch, kernel: Callable[..., Any]) -> None:
    """Let transformers call ``kernel`` as FlashAttention's function for rows of several documents."""

    def supported(**given: Any) -> dict[str, Any]:
        return {name: given[name] for name in ("max_seqlen_q", "max_seqlen_k")}

    functions = (None, kernel, None, None, None), (supported, None)
    monkeypatch.setattr(flash, "lazy_import_flash_attention", lambda *args, **kwargs: functions)
