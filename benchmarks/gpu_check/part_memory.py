"""Peak memory of a full fine-tune of 1b: tensors and reserved memory against the prediction."""

from __future__ import annotations

import os
import shutil
from typing import Any
from unittest import mock

from common import Scale, keep, make_run, records, train
from prediction import predicted_bytes

ALLOCATORS = {"expandable": "expandable_segments:True", "fixed": "expandable_segments:False"}
TENSORS_WITHIN = 0.10


def measure(scale: Scale) -> dict[str, Any]:
    """Peaks with and without expandable segments, over batches with different numbers of trained tokens."""
    found: dict[str, Any] = {}
    for name, setting in ALLOCATORS.items():
        with mock.patch.dict(os.environ, {"PYTORCH_ALLOC_CONF": setting}):
            found[name] = _one(scale, name)
        keep(scale, "memory", found)
        if scale.dry:
            found["dry"] = "one run, of host memory: the allocator of a GPU is not here"
            break
    faults = [f"{name}: {why}" for name in ALLOCATORS if name in found and (why := _fault(found[name]))]
    return found | {"faults": faults}


def _one(scale: Scale, name: str) -> dict[str, Any]:
    run = make_run(
        scale,
        f"memory-{name}",
        model="1b",
        recipe="gemma3/1b",
        strategy="single",
        length__max_steps=4 if scale.dry else 10,
        batch__global_batch_size=16,
    )
    train(scale, run)
    tensors, whole = predicted_bytes(run.plan())
    ranks = records(run, "memory")[-1]["ranks"][0]
    steps = records(run, "step")
    shutil.rmtree(run.root)
    return {
        "predicted_tensors": tensors,
        "predicted": whole,
        "peak_tensors": ranks.get("gpu"),
        "peak_reserved": ranks.get("gpu_reserved"),
        "host": ranks["host"],
        "trained_tokens": sorted({step["trained_tokens"] for step in steps}),
    }


def _fault(one: dict[str, Any]) -> str | None:
    if one["peak_tensors"] is None:
        return None
    off = one["peak_tensors"] / one["predicted_tensors"] - 1
    if abs(off) > TENSORS_WITHIN:
        return f"tensors are {off:+.0%} off the prediction"
    return "reserves more than predicted" if one["peak_reserved"] > one["predicted"] else None
