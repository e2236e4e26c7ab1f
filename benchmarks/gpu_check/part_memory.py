"""Peak memory of a full fine-tune of 1b in segments of fixed size; in those that grow it is part of speed."""

from __future__ import annotations

import os
import shutil
from typing import Any
from unittest import mock

from common import Scale, make_run, records, train
from prediction import predicted_bytes, tensors_fault


def measure(scale: Scale) -> dict[str, Any]:
    """The peak over batches with different numbers of trained tokens; what is reserved has no limit here."""
    with mock.patch.dict(os.environ, {"PYTORCH_ALLOC_CONF": "expandable_segments:False"}):
        found: dict[str, Any] = {"fixed": _one(scale, "fixed")}
    if scale.dry:
        found["dry"] = "host memory: the allocator of a GPU is not here"
    fault = tensors_fault(found["fixed"])
    return found | {"faults": [fault] if fault else []}


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
