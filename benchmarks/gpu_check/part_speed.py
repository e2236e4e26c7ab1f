"""Tokens/s, MFU and energy of 1b and 4b: `gemfit run`, and TRL's SFTTrainer on the same rows."""

from __future__ import annotations

import shutil
import statistics
import sys
from importlib.util import find_spec
from typing import Any

from common import BENCHMARKS, Scale, keep, losses, make_run, records, train
from prediction import flops_per_token, predicted_bytes, tensors_fault

from gemfit.rundir import RunDir
from gemfit_launch.predict.gpu_specs import guess_gpu

RECIPES = {"1b": "gemma3/1b", "4b": "gemma3/4b-lora"}
"""A checkpoint of all parameters of 4b would take 47 GB, and longer to write than the check may last."""
WARMUP, STEPS = 3, 10
CONVENTION = (
    "forward and backward pass without recomputation; attention of a full causal row, within windows; the "
    "output layer counts; frozen weights need no gradient; peak bf16 rate of the data sheet"
)


def measure(scale: Scale) -> dict[str, Any]:
    """Both sizes, both sides; where dry, one tiny model."""
    found: dict[str, Any] = {"mfu_convention": CONVENTION}
    faults = []
    if find_spec("trl") is None:
        found["not_here"] = "trl is not installed, so there is nothing to compare with"
    for size in ["1b"] if scale.dry else RECIPES:
        found[size] = {}
        for side, one in _sides(scale, size):
            found[size][side] = one
            keep(scale, "speed", found)
        if "trl" in found[size]:
            ours, trl = (found[size][side]["tokens_per_second"] for side in ("gemfit", "trl"))
            found[size]["ratio"] = ours / trl
        faults += [f"{size}: {why}" for why in _memory_faults(found[size]["gemfit"])]
    return found | {"faults": faults}


def _memory_faults(ours: dict[str, Any]) -> list[str]:
    more = ours["peak_reserved"] is not None and ours["peak_reserved"] > ours["predicted"]
    return [*filter(None, [tensors_fault(ours)]), *(["reserves more than predicted"] if more else [])]


def _sides(scale: Scale, size: str) -> Any:
    run = make_run(
        scale,
        f"speed-{size}",
        model=size,
        recipe=RECIPES[size],
        strategy="single",
        length__max_steps=3 if scale.dry else WARMUP + STEPS,
        batch__global_batch_size=16,
    )
    plan = run.plan()
    train(scale, run)
    yield "gemfit", _ours(scale, run)
    shutil.rmtree(run.root / "checkpoints", ignore_errors=True)
    if find_spec("trl") is None:
        return
    sys.path.insert(0, str(BENCHMARKS))
    from timed_training import train_apart  # noqa: PLC0415  (imports torch; the dry run forks before)

    result = train_apart("trl", plan)
    steps = result["steps"][0 if scale.dry else WARMUP - 1 :]  # its clock has left out the first
    rate = statistics.median(step["tokens"] / step["wall"] for step in steps)
    yield (
        "trl",
        _figures(plan, rate, result.get("gpu"))
        | {
            "peak_tensors": result.get("gpu_peak_bytes"),
            "peak_reserved": result.get("gpu_reserved_bytes"),
            "first_loss": result["losses"][0],
        },
    )


def _ours(scale: Scale, run: RunDir) -> dict[str, Any]:
    plan = run.plan()
    steps = records(run, "step")[1 if scale.dry else WARMUP :]
    memory, energy = records(run, "memory")[-1], records(run, "energy")[-1]
    tensors, whole = predicted_bytes(plan)
    rate = statistics.median(step["tokens"] / step["seconds"] for step in steps)
    joules = energy["gpu_joules"]
    return _figures(plan, rate, memory["gpu_name"]) | {
        "attention": records(run, "hardware")[-1]["attention"],
        "peak_tensors": memory["ranks"][0].get("gpu"),
        "peak_reserved": memory["ranks"][0].get("gpu_reserved"),
        "predicted_tensors": tensors,
        "predicted": whole,
        "watts": None if joules is None else joules / energy["seconds"],
        "saves": records(run, "save"),
        "first_loss": losses(run)[0],
    }


def _figures(plan: Any, rate: float, gpu_name: str | None) -> dict[str, Any]:
    gpu = guess_gpu(gpu_name)
    mfu = {
        f"mfu_{name}": rate * work / gpu.peak_flops if gpu is not None else None
        for name, work in flops_per_token(plan).items()
    }
    return {"tokens_per_second": rate, **mfu}
