"""LoRA on a frozen base in float32 under autocast, and on one in bfloat16: memory and time."""

from __future__ import annotations

import functools
from typing import Any

import torch
from common import Scale, keep
from models import median_seconds, random_batch, random_rows
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, Gemma3ForCausalLM

from gemfit.train.model.attention_checks import prepare_attention
from gemfit.train.model.packed_lm import packed_class

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def measure(scale: Scale) -> dict[str, Any]:
    """Peak memory and milliseconds of a pass over the 1b shape, by dtype of the base."""
    prepare_attention(scale.device)
    found: dict[str, Any] = {}
    for dtype in ("float32", "bfloat16"):
        found[dtype] = _one(scale, getattr(torch, dtype))
        keep(scale, "lora_base", found)
    if scale.dry:
        found["dry"] = "peaks are those of a GPU's allocator, which is not here"
    return found


def _one(scale: Scale, dtype: torch.dtype) -> dict[str, Any]:
    config = AutoConfig.from_pretrained(scale.model("1b"))
    config._attn_implementation = "sdpa"
    with torch.device(scale.device):
        model = packed_class(Gemma3ForCausalLM)(config).to(dtype)
    model.activation_checkpointing_enable({"use_reentrant": False})
    model = get_peft_model(model, LoraConfig(r=16, target_modules=TARGETS, task_type="CAUSAL_LM")).train()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    rows, seq_len = (2, 128) if scale.dry else (4, 1024)
    batch = random_batch(scale, "sdpa", random_rows(rows, seq_len, seed=0))
    if not scale.dry:
        torch.cuda.reset_peak_memory_stats()
    work = functools.partial(_pass, scale, model, batch)
    seconds = median_seconds(scale, work, times=2 if scale.dry else 10)
    peak = None if scale.dry else torch.cuda.max_memory_allocated()
    return {"ms": 1000 * seconds, "peak_bytes": peak}


def _pass(scale: Scale, model: Any, batch: Any) -> None:
    with torch.autocast(scale.device, torch.bfloat16):
        loss = model(**batch).loss_sum
    loss.backward()
