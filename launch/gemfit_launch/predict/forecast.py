"""Predicted memory, time and cost of a plan, where the model's shape and the kind of GPU are known.

Pure, but for the ``config.json`` of a model on disk.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from gemfit.schemas.plan import Plan
from gemfit_launch.predict.checkpoint_times import CheckpointTimes, checkpoint_times
from gemfit_launch.predict.configuration import configuration_of
from gemfit_launch.predict.gpu_specs import GpuSpec, guess_gpu
from gemfit_launch.predict.memory import Memory, gigabytes, predict_memory
from gemfit_launch.predict.model_shape import ModelShape
from gemfit_launch.predict.performance import Bill, Performance, predict_bill, predict_performance
from gemfit_launch.predict.search import Estimate, smaller, smallest_changes
from gemfit_launch.predict.shape_lookup import find_shape


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """Everything that is predicted for one plan."""

    memory: Memory | None = None
    gpu: GpuSpec | None = None
    performance: Performance | None = None
    bill: Bill | None = None
    checkpoint: CheckpointTimes | None = None
    """Where the bandwidth of the disk is known too."""
    unknown: str | None = None
    """Why nothing is predicted for GPUs."""
    warnings: tuple[str, ...] = ()


def make_forecast(
    plan: Plan,
    *,
    gpu: GpuSpec | None = None,
    price: float | None = None,
    disk_gb_per_second: float | None = None,
) -> Forecast:
    """The forecast for ``plan``: on ``gpu`` and such a disk, or on those that its site names.

    On CPUs nothing is predicted. ``price`` is per GPU hour.
    """
    if plan.topology.device == "cpu":
        return Forecast()
    found = find_shape(plan.recipe.model)
    if found.shape is None:
        return Forecast(unknown=found.why_not)
    gpu = gpu or guess_gpu(plan.site.gpu_kind if plan.site is not None else None)
    config = configuration_of(plan, found.shape)
    memory = predict_memory(config, plan.recipe.checkpoint)
    if gpu is None:
        return Forecast(memory=memory)
    performance = predict_performance(config, gpu, tokens_per_step=plan.batch.tokens_per_step)
    disk = disk_gb_per_second or (plan.site.disk_gb_per_second if plan.site is not None else None)
    step = performance.step_seconds.slow
    return Forecast(
        memory=memory,
        gpu=gpu,
        performance=performance,
        bill=predict_bill(performance, plan, price),
        checkpoint=(
            checkpoint_times(memory.checkpoint, gb_per_second=disk, step_seconds=step) if disk else None
        ),
        warnings=tuple(_too_large(plan, found.shape, memory, gpu)),
    )


def with_warnings(plan: Plan) -> Plan:
    """``plan``, which also warns where its site's GPU is too small for it."""
    warnings = make_forecast(plan).warnings
    return plan.model_copy(update={"warnings": (*plan.warnings, *warnings)}) if warnings else plan


def _too_large(plan: Plan, shape: ModelShape, memory: Memory, gpu: GpuSpec) -> list[str]:
    if memory.gpu_bytes <= gpu.usable_bytes:
        return []
    changes = smallest_changes(plan.recipe, shape, gpu, plan.topology.world_size)
    fixes = [_describe(change, plan) for change in changes]
    way_out = ", or ".join(fixes) or (
        f"nothing that gemfit can change makes it fit; use a larger GPU or {smaller(plan.recipe.model)}"
    )
    largest = f"{memory.largest.name} alone: {gigabytes(memory.largest.bytes)}"
    return [
        f"{gigabytes(memory.gpu_bytes)} are predicted per GPU, and {gpu.name} has "
        f"{gigabytes(gpu.usable_bytes)} to use ({largest}); {way_out}"
    ]


def _describe(change: Estimate, plan: Plan) -> str:
    memory = change.memory
    host = f", and {gigabytes(memory.host_node_bytes)} of host memory per node" if change.offloads else ""
    options = shlex.join(change.options(plan.recipe))
    return f"{options} is predicted to need {gigabytes(memory.gpu_bytes)}{host}"
