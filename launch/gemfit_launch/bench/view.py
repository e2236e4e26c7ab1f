"""Benchmark results as tables and as JSON."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gemfit_launch.bench.measurements import CONVENTION, BenchMeasurements, Peak
from gemfit_launch.bench.runner import BenchResult, Length
from gemfit_launch.output.tables import console, table
from gemfit_launch.predict.memory import gigabytes

PACKAGES = (
    "gemfit",
    "torch",
    "transformers",
    "accelerate",
    "deepspeed",
    "liger-kernel",
    "flash-attn",
    "kernels",
)
STALLS = ("data", "evaluation", "checkpoint", "logging")


def bench_json(name: str, results: Sequence[BenchResult], length: Length) -> dict[str, Any]:
    """Results with the recipe, machine and versions that they were measured with."""
    return {
        "recipe": name,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": {package: _installed(package) for package in PACKAGES},
        "steps": length.steps,
        "warmup_steps": length.warmup,
        "flops": CONVENTION,
        "results": [_result_json(result) for result in results],
    }


def machine() -> dict[str, Any]:
    """The machine of the benchmark; the GPU is part of each result."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "system": platform.platform(),
        "cpu": names[0] if names else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": pages,
    }


def show_bench(name: str, results: Sequence[BenchResult], length: Length) -> None:
    """Tables of speed, stalls and memory, one line per variant."""
    out = console()
    out.print(f"{name}: {length.steps} measured steps after {length.warmup} warm-up steps\n", style="bold")
    measured = [(result, result.measurements) for result in results if result.measurements is not None]
    if measured:
        out.print(_speed_table(measured))
        out.print()
        out.print(_stall_table(measured))
        out.print()
        out.print(_memory_table(measured))
        out.print()
        out.print(f"operations: {CONVENTION}", style="dim")
    for result in results:
        if result.failed is not None:
            out.print(f"\n{result.variant.label}: {result.failed}")


def _speed_table(measured: list[tuple[BenchResult, BenchMeasurements]]) -> Any:
    names = [
        "variant",
        "step",
        "p90",
        "tokens/s",
        "trained",
        "TFLOP/s",
        "w/o emb.",
        "MFU",
        "MFU w/o",
    ]
    rows = [
        (
            result.variant.label,
            _seconds(found.speed.step_median),
            _seconds(found.speed.step_p90),
            f"{found.speed.tokens_per_second:,.0f}",
            f"{found.speed.trained_tokens_per_second:,.0f}",
            _number(found.speed.flops, 1e-12, ".3g"),
            _number(found.speed.flops_without_embedding, 1e-12, ".3g"),
            _number(found.speed.mfu, 1, ".1%"),
            _number(found.speed.mfu_without_embedding, 1, ".1%"),
        )
        for result, found in measured
    ]
    return table(names, rows, numbers=names[1:])


def _stall_table(measured: list[tuple[BenchResult, BenchMeasurements]]) -> Any:
    names = ["stalled by", *STALLS]
    rows = [
        (
            result.variant.label,
            *(f"{_seconds(found.stalls[s].each)}, {found.stalls[s].share:.1%}" for s in STALLS),
        )
        for result, found in measured
    ]
    return table(names, rows, numbers=STALLS)


def _memory_table(measured: list[tuple[BenchResult, BenchMeasurements]]) -> Any:
    on_gpu = any(found.peak is not None and found.peak.device == "cuda" for _, found in measured)
    what = "tensors on a GPU" if on_gpu else "memory added by training"
    names = [what, "peak", "predicted", "difference", "whole process"]
    rows = [
        (result.variant.label, *_memory(found.peak), gigabytes(found.peak.host))
        for result, found in measured
        if found.peak is not None
    ]
    return table(names, rows, numbers=names[1:])


def _memory(peak: Peak) -> tuple[str, str, str]:
    if peak.predicted is None:
        return gigabytes(peak.measured), "-", "-"
    difference = peak.measured / peak.predicted - 1
    return gigabytes(peak.measured), gigabytes(peak.predicted), f"{difference:+.0%}"


def _result_json(result: BenchResult) -> dict[str, Any]:
    plan = result.plan
    return {
        "changes": list(result.variant.changes),
        "plan_digest": plan.digest,
        "strategy": plan.recipe.strategy.label,
        "ranks": plan.topology.world_size,
        "device": plan.topology.device,
        "attention": plan.attention,
        "per_device_batch_size": plan.batch.per_device_batch_size,
        "gradient_accumulation_steps": plan.batch.gradient_accumulation_steps,
        "seq_len": plan.batch.seq_len,
        "load_before": result.load,
        "failed": result.failed,
        "measurements": None if result.measurements is None else asdict(result.measurements),
    }


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _seconds(value: float) -> str:
    return f"{value * 1000:.1f} ms" if value < 1 else f"{value:.2f} s"


def _number(value: float | None, factor: float, form: str) -> str:
    return "-" if value is None else format(value * factor, form)
