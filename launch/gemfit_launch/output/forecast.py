"""A forecast as tables and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Console

from gemfit.schemas.plan import Plan
from gemfit_launch.output.tables import facts, table
from gemfit_launch.predict.checkpoint_times import CheckpointTimes
from gemfit_launch.predict.communication import CommunicationVolume
from gemfit_launch.predict.forecast import Forecast
from gemfit_launch.predict.memory import Memory, gigabytes
from gemfit_launch.predict.performance import TRUST, Bill, Performance, Range


def forecast_json(forecast: Forecast) -> dict[str, Any]:
    """All predicted values, in bytes and seconds."""
    memory, performance = forecast.memory, forecast.performance
    return {
        "unknown": forecast.unknown,
        "gpu": asdict(forecast.gpu) if forecast.gpu else None,
        "memory": memory_json(memory) if memory else None,
        "time": performance_json(performance) if performance else None,
        "checkpoint": asdict(forecast.checkpoint) if forecast.checkpoint else None,
        "cost": asdict(forecast.bill) if forecast.bill else None,
        "warnings": list(forecast.warnings),
    }


def memory_json(memory: Memory) -> dict[str, Any]:
    """The parts, and their sums."""
    sums = ("gpu_bytes", "states_bytes", "host_node_bytes", "disk_bytes")
    numbers = {name: getattr(memory, name) for name in sums}
    return asdict(memory) | numbers | {"explain": memory.explain()}


def performance_json(performance: Performance) -> dict[str, Any]:
    """Ranges from slow to fast."""
    return asdict(performance) | {"trust": TRUST}


def show_forecast(out: Console, plan: Plan, forecast: Forecast) -> None:
    """Memory by part, then time and cost; on CPUs nothing."""
    if forecast.unknown is not None:
        out.print(f"Memory and time are unknown: {forecast.unknown}\n")
    if forecast.memory is not None:
        _show_memory(out, forecast.memory, forecast)
    if forecast.performance is not None and forecast.bill is not None and forecast.gpu is not None:
        rows = _time_rows(plan, forecast.performance, forecast.bill)
        rows += [("checkpoint", format_checkpoint(forecast.checkpoint))] if forecast.checkpoint else []
        out.print(facts(f"Predicted time on {forecast.gpu.name}", rows))
        out.print(f"({TRUST})\n", style="dim")
    elif forecast.memory is not None:
        out.print("Time is predicted with --gpu KIND.\n", style="dim")
    for warning in forecast.warnings:
        if warning not in plan.warnings:
            out.print(f"warning: {warning}\n", style="yellow")


def _show_memory(out: Console, memory: Memory, forecast: Forecast) -> None:
    rows = [(part.name, gigabytes(part.bytes), part.why) for part in memory.gpu]
    has = f" of {gigabytes(forecast.gpu.usable_bytes)} to use" if forecast.gpu else ""
    rows.append(("total per GPU", gigabytes(memory.gpu_bytes) + has, f"peak, at: {memory.moment}"))
    host = ", ".join(f"{part.name} {gigabytes(part.bytes)}" for part in memory.host_rank if part.bytes)
    rows.append(("host, per node", gigabytes(memory.host_node_bytes), f"per rank: {host}"))
    disk = f"{memory.kept} checkpoints of {gigabytes(memory.checkpoint)}, one of them being written"
    rows.append(("disk", gigabytes(memory.disk_bytes), disk))
    out.print("Predicted memory", style="bold")
    out.print(table(["part", "size", "why"], rows, numbers=["size"]))
    out.print()


def _time_rows(plan: Plan, performance: Performance, bill: Bill) -> list[tuple[str, str]]:
    with_output, without = performance.mfu, performance.mfu_without_embedding
    rows = [
        ("time per step", f"{format_range(performance.step_seconds, '.2f')} s"),
        ("tokens/s", format_range(performance.tokens_per_second, ",.0f")),
        (
            "MFU",
            f"{format_range(with_output, '.0%')}, or {format_range(without, '.0%')} without the output layer",
        ),
        ("communication", _communication(performance.communication)),
        (f"{plan.steps.total:,} steps", f"{format_range(bill.hours, ',.2f')} hours"),
        ("GPU hours", format_range(bill.gpu_hours, ",.2f")),
    ]
    return rows if bill.cost is None else [*rows, ("cost", format_range(bill.cost, ",.2f"))]


def format_checkpoint(times: CheckpointTimes) -> str:
    """How long it takes to save, to stop and to resume."""
    return (
        f"{gigabytes(times.checkpoint_bytes)} at {times.gb_per_second:g} GB/s: "
        f"{times.save_seconds:,.0f} s to save, up to {times.stop_seconds:,.0f} s to stop, "
        f"{times.resume_seconds:,.0f} s to read at a resume"
    )


def _communication(moved: CommunicationVolume) -> str:
    replicas = f", {gigabytes(moved.replicas)} of it between copies of the model" if moved.replicas else ""
    return f"{gigabytes(moved.between_ranks)} per rank and step{replicas}"


def format_range(values: Range, form: str) -> str:
    """Such as ``10 to 20``, the smaller first."""
    low, high = sorted((values.slow, values.fast))
    return f"{low:{form}} to {high:{form}}"
