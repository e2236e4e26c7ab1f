"""Compiled layers: no batch is compiled for; and the time of a pass with and without."""

from __future__ import annotations

import functools
import time
from typing import Any
from unittest import mock

import torch
from common import Scale, keep
from models import attention_names, median_seconds, random_batch, random_model, random_rows
from torch._dynamo.utils import counters

from gemfit.train.model.attention_checks import prepare_attention
from gemfit.train.model.compile import compile_layers

LAYERS = ["sliding_attention"] * 5 + ["full_attention"]
DOCUMENTS = 60
SETTLED = 3
"""Batches after which nothing may be compiled any more."""


def measure(scale: Scale) -> dict[str, Any]:
    """Compiled frames after each batch, for every attention that compiles."""
    prepare_attention(scale.device)
    names, absent = attention_names(scale)
    skipped = {name: "recipes refuse it under compile" for name in names if name == "flex_attention"}
    found: list[dict[str, Any]] = []
    # The dry run is about what is compiled again: the compiler itself takes too long.
    compiler = functools.partial(torch.compile, backend="eager") if scale.dry else torch.compile
    with mock.patch.object(torch, "compile", compiler):
        for name in names:
            if name not in skipped:
                found.append(_one(scale, name))
                keep(scale, "compile", {"attentions": found})
    faults = [f"{one['attention']}: {why}" for one in found if (why := _fault(one))]
    backend = "eager (dry)" if scale.dry else "inductor"
    return {"backend": backend, "attentions": found, "not_here": absent | skipped, "faults": faults}


def _one(scale: Scale, name: str) -> dict[str, Any]:
    torch._dynamo.reset()
    counters.clear()
    began = time.perf_counter()
    one: dict[str, Any] = {"attention": name, "frames": []}
    dtype = torch.float32 if scale.dry else torch.bfloat16
    rows, seq_len = (2, 128) if scale.dry else (4, 1024)
    try:
        plain, model = (random_model(scale, name, dtype, layers=LAYERS) for _ in range(2))
        compile_layers(model)
        for seed in range(5 if scale.dry else 30):
            batch = random_batch(scale, name, random_rows(rows, seq_len, seed=seed), documents=DOCUMENTS)
            _pass(model, batch)
            one["frames"].append(counters["frames"]["ok"])
        one["seconds"] = time.perf_counter() - began
        for label, timed in (("plain", plain), ("compiled", model)):
            work = functools.partial(_pass, timed, batch)
            one[f"ms_{label}"] = 1000 * median_seconds(scale, work, times=3 if scale.dry else 10)
    except Exception as error:
        one["failed"] = f"{type(error).__name__}: {error}"[:600]
    return one


def _pass(model: Any, batch: Any) -> None:
    model.zero_grad()
    model(**batch).loss_sum.backward()


def _fault(one: dict[str, Any]) -> str | None:
    if "failed" in one:
        return str(one["failed"])
    frames = one["frames"]
    if not frames[0]:
        return "nothing was compiled"
    return f"frames keep growing: {frames}" if frames[-1] != frames[SETTLED - 1] else None
