"""Configurations that fit a GPU, as a table and as JSON."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gemfit.schemas.recipe import Recipe
from gemfit_launch.output.forecast import format_checkpoint, format_range, memory_json, performance_json
from gemfit_launch.output.tables import console, table
from gemfit_launch.predict.checkpoint_times import CheckpointTimes, checkpoint_times
from gemfit_launch.predict.gpu_specs import GpuSpec
from gemfit_launch.predict.memory import gigabytes
from gemfit_launch.predict.model_shape import ModelShape
from gemfit_launch.predict.performance import TRUST
from gemfit_launch.predict.remedies import describe_excess
from gemfit_launch.predict.search import Estimate, best_of_each, largest_world


@dataclass(frozen=True, kw_only=True, slots=True)
class Query:
    """A recipe and a kind of GPU."""

    name: str
    recipe: Recipe
    gpu: GpuSpec
    arguments: tuple[str, ...]
    """RECIPE and its options, as they were given."""
    disk_gb_per_second: float | None = None

    def command(self, estimate: Estimate) -> str:
        """The command line that plans the configuration of ``estimate``."""
        options = estimate.options(self.recipe)
        return shlex.join(["gemfit", "plan", *self.arguments, "--gpu", self.gpu.name, *options])

    def checkpoint_times(self, estimate: Estimate) -> CheckpointTimes | None:
        """Of ``estimate`` on the disk, where its bandwidth is given."""
        if self.disk_gb_per_second is None:
            return None
        return checkpoint_times(
            estimate.memory.checkpoint,
            gb_per_second=self.disk_gb_per_second,
            step_seconds=estimate.performance.step_seconds.slow,
        )


def estimate_json(query: Query, estimates: Sequence[Estimate]) -> list[dict[str, Any]]:
    """Every configuration, fastest first, those that do not fit last."""
    return [
        {
            "strategy": estimate.label,
            "gpus": estimate.gpus,
            "sequence_parallel": estimate.degree,
            "attention": estimate.config.attention,
            "per_device_batch_size": estimate.config.per_device_batch_size,
            "gradient_accumulation_steps": estimate.config.gradient_accumulation_steps,
            "activation_checkpointing": estimate.config.activation_checkpointing,
            "fits": estimate.fits,
            "memory": memory_json(estimate.memory),
            "time": performance_json(estimate.performance),
            "checkpoint": asdict(times) if (times := query.checkpoint_times(estimate)) else None,
            "command": query.command(estimate),
        }
        for estimate in estimates
    ]


def show_estimate(
    query: Query, estimates: Sequence[Estimate], shape: ModelShape, *, everything: bool
) -> None:
    """The fastest configuration per number of GPUs, or per strategy too; then what does not fit, and why."""
    out = console()
    out.print(_headline(query), style="bold")
    fitting = [estimate for estimate in estimates if estimate.fits]
    best = best_of_each(fitting) if everything else fastest_by_gpus(fitting)
    if best:
        numbers = ["GPUs", "SP", "batch", "accum", "GB", "tokens/s", "MFU", "host GB"]
        columns = ["strategy", *numbers[:4], "ckpt", *numbers[4:]]
        out.print(table(columns, [_row(estimate) for estimate in best], numbers=numbers))
        out.print(
            "\nSP: GPUs that share each row; batch: per-device batch size; accum: gradient accumulation "
            "steps;\nckpt: activation checkpointing; GB: per GPU; host GB: per node",
            style="dim",
        )
        out.print(f"tokens/s, MFU: {TRUST}\n", style="dim")
        if any(map(_accumulates_in_bfloat16, best)):
            out.print("zero1 accumulates gradients in bfloat16, the others in float32.\n", style="dim")
        if (times := query.checkpoint_times(best[0])) is not None:
            out.print(f"a checkpoint of the first: {format_checkpoint(times)}\n")
        out.print("\n".join(query.command(estimate) for estimate in best[:1]), soft_wrap=True)
    else:
        out.print(_nothing_fits(query, estimates, shape))
    reasons = (_why_not(group, shape) for group in by_label(estimates).values())
    if rows := [row for row in reasons if row is not None]:
        out.print("\nWhat does not fit", style="bold")
        out.print(table(["strategy", "fits from", "below that"], rows))


def _nothing_fits(query: Query, estimates: Sequence[Estimate], shape: ModelShape) -> str:
    if not estimates:
        rows, most = query.recipe.batch.global_batch_size, largest_world(query.recipe, shape)
        return (
            f"No configuration has work for these numbers of GPUs: {rows} rows, each shared by "
            f"{most // rows} GPUs at most, are work for {most}."
        )
    closest = min(estimates, key=lambda one: one.memory.gpu_bytes)
    needed, usable = gigabytes(closest.memory.gpu_bytes), gigabytes(query.gpu.usable_bytes)
    return (
        f"Nothing fits on these numbers of GPUs. The closest is {closest.label} on {_gpus(closest.gpus)}: "
        f"{needed} of {usable} to use. Too large: {describe_excess(closest, shape)}."
    )


def fastest_by_gpus(estimates: Sequence[Estimate]) -> list[Estimate]:
    """The first per number of GPUs, in the order given."""
    first: dict[int, Estimate] = {}
    for estimate in estimates:
        first.setdefault(estimate.gpus, estimate)
    return list(first.values())


def by_label(estimates: Sequence[Estimate]) -> dict[str, list[Estimate]]:
    """Grouped by the label of the strategy."""
    groups: dict[str, list[Estimate]] = {}
    for estimate in estimates:
        groups.setdefault(estimate.label, []).append(estimate)
    return groups


def _headline(query: Query) -> str:
    recipe, model = query.recipe, query.recipe.model
    method = model.lora.label if model.lora else "full fine-tune"
    method += f" over {model.quantization.type}" if model.quantization else ""
    batch = f"global batch of {recipe.batch.global_batch_size} rows of {recipe.data.seq_len:,} tokens"
    return f"{query.name} on {query.gpu.name}: {method}, {model.dtype}, {batch}\n"


def _why_not(estimates: Sequence[Estimate], shape: ModelShape) -> tuple[str, str, str] | None:
    """For one strategy: the number of GPUs from which it fits, and what is too large on fewer."""
    fitting = {estimate.gpus for estimate in estimates if estimate.fits}
    failing = [estimate for estimate in estimates if estimate.gpus not in fitting]
    if not failing:
        return None
    most = max(estimate.gpus for estimate in failing)
    closest = min((one for one in failing if one.gpus == most), key=lambda one: one.memory.gpu_bytes)
    fits_from = _gpus(min(fitting)) if fitting else "never"
    size = f"{gigabytes(closest.memory.gpu_bytes)} at least"
    return estimates[0].label, fits_from, f"{_gpus(most)}: {size}; {describe_excess(closest, shape)}"


def _gpus(count: int) -> str:
    return f"{count} GPU{'s' if count > 1 else ''}"


def _accumulates_in_bfloat16(estimate: Estimate) -> bool:
    return (
        estimate.label.startswith("zero1")
        and estimate.config.gradient_accumulation_steps > 1
        and estimate.config.compute_bytes == 2
    )


def _row(estimate: Estimate) -> tuple[str, ...]:
    memory, performance = estimate.memory, estimate.performance
    return (
        estimate.label,
        str(estimate.gpus),
        str(estimate.degree),
        str(estimate.config.per_device_batch_size),
        str(estimate.config.gradient_accumulation_steps),
        "yes" if estimate.config.activation_checkpointing else "no",
        f"{memory.gpu_bytes / 1e9:.1f}",
        format_range(performance.tokens_per_second, ",.0f"),
        format_range(performance.mfu, ".0%"),
        f"{memory.host_node_bytes / 1e9:,.0f}",
    )
