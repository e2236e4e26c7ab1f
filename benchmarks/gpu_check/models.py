"""Models and packed batches for parts that train nothing but run layers directly."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, get_args

import numpy as np
import torch
from common import SMALL, TINY, Scale
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from gemfit.data.pack.reader import Row
from gemfit.schemas.recipe_model import ModelRecipe
from gemfit.train.data.collate import Tensors, collate, needs_boundaries, to_device
from gemfit.train.model.packed_lm import packed_class

PACKAGES = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}
VOCABULARY = 512


def attention_names(scale: Scale) -> tuple[list[str], dict[str, str]]:
    """Attentions of recipes that can run here, and why the others cannot."""
    named = [name for name in get_args(ModelRecipe.model_fields["attention"].annotation) if name != "auto"]
    absent = {
        name: f"{package} is not installed"
        for name, package in PACKAGES.items()
        if name in named and find_spec(package) is None
    }
    if scale.dry:
        absent |= {"flex_attention": "no backward pass on CPUs"}
        absent |= {name: "needs a GPU" for name in named if name not in ("eager", "sdpa", "flex_attention")}
    # What is compiled at its first call comes last: it may use up the time that is left.
    found = sorted((name for name in named if name not in absent), key=lambda name: name == "flex_attention")
    return found, absent


def random_model(scale: Scale, attention: str, dtype: torch.dtype, *, layers: list[str]) -> Any:
    """A packed Gemma 3 with the check's widths; the same weights on every call."""
    torch.manual_seed(0)
    shape = (TINY if scale.dry else SMALL) | {"vocab_size": VOCABULARY, "num_hidden_layers": len(layers)}
    config = Gemma3TextConfig(**shape, layer_types=layers)
    config._attn_implementation = attention
    model = packed_class(Gemma3ForCausalLM)(config)
    # With the initial 0.02 attention would hardly differ between keys.
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    return model.to(scale.device, dtype).train()


def random_rows(count: int, seq_len: int, *, seed: int) -> list[Row]:
    """Rows of documents of random lengths, with a little padding."""
    generator = np.random.default_rng(seed)
    return [_random_row(generator, seq_len) for _ in range(count)]


def _random_row(generator: np.random.Generator, seq_len: int) -> Row:
    lengths: list[int] = []
    while (left := seq_len - sum(lengths)) > seq_len // 20:
        lengths.append(min(int(generator.integers(seq_len // 50 + 2, seq_len // 2)), left))
    ids = generator.integers(0, VOCABULARY, seq_len).astype(np.int32)
    return Row(ids, ids.copy(), np.array(lengths, np.int32))


def random_batch(scale: Scale, attention: str, rows: list[Row], *, documents: int | None = None) -> Tensors:
    """The arguments of a model for ``rows``, on the check's device."""
    flatten, seq_len = needs_boundaries(attention), len(rows[0].input_ids)
    batch = collate(rows, seq_len=seq_len, pad_id=0, flatten=flatten, documents=documents)
    return to_device(batch, torch.device(scale.device))


def synchronize(scale: Scale) -> None:
    """Wait for the device."""
    if not scale.dry:
        torch.cuda.synchronize()


def median_seconds(scale: Scale, work: Callable[[], object], *, times: int, warmup: int = 2) -> float:
    """Median wall time of ``work``, the device waited for."""
    seconds = []
    for number in range(warmup + times):
        synchronize(scale)
        began = time.perf_counter()
        work()
        synchronize(scale)
        if number >= warmup:
            seconds.append(time.perf_counter() - began)
    return float(np.median(seconds))
