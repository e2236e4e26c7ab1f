"""Speed, stalls and peak memory of a run, from its records. Pure.

Measured is the time from the end of the last warm-up step to the end of the last step. It consists of steps,
evaluations, waiting for saves, and the rest: records, trackers and callbacks.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from gemfit.errors import UserError
from gemfit.schemas.metrics import EvalRecord, HardwareRecord, MemoryRecord, Record, SaveRecord, StepRecord
from gemfit.schemas.plan import Plan
from gemfit.schemas.recipe import Recipe
from gemfit_launch.predict import flops
from gemfit_launch.predict.configuration import configuration_of
from gemfit_launch.predict.gpu_specs import guess_gpu
from gemfit_launch.predict.memory import predict_memory
from gemfit_launch.predict.shape_lookup import find_shape

CONVENTION = (
    "2 operations per multiplication with its addition, forward and backward, without recomputation; "
    "attention of a full causal row, in sliding-window layers only the window; "
    "real tokens, no padding"
)
NOT_TENSORS = ("fragmentation", "context")
HELD_BEFORE = ("parameters", "masters", "buckets")
"""Allocated before the first step; on CPUs only the growth after that can be measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stall:
    """Time in which a run does not compute steps."""

    each: float
    """Seconds per event: a step's batches, an evaluation, a save, a step's records."""
    share: float
    """Share of the wall time of a run with the evaluation and save intervals of the recipe."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """Speed of the steps alone, over all ranks."""

    step_median: float
    step_p90: float
    tokens_per_second: float
    trained_tokens_per_second: float
    flops: float | None
    """FLOPs per second of one rank, with the output layer."""
    flops_without_embedding: float | None
    mfu: float | None
    """Share of the GPU's peak; ``None`` if the GPU is unknown."""
    mfu_without_embedding: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Peak:
    """Peak memory of the rank with the most: tensors on a GPU, or growth since the first step on a CPU."""

    device: str
    measured: int
    predicted: int | None
    reserved: int | None
    """By the allocator of a GPU."""
    host: int
    """Of the whole process, in host memory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchMeasurements:
    """All measurements of one run."""

    steps: tuple[float, ...]
    """Seconds of each measured step."""
    speed: Speed
    stalls: dict[str, Stall]
    """`data`, `evaluation`, `checkpoint`, `logging`."""
    peak: Peak | None
    gpu: str | None
    attention: str | None
    """That was taken, where the plan leaves it to the ranks too."""


def bench_measurements(
    records: Sequence[Record], plan: Plan, recipe: Recipe, warmup: int
) -> BenchMeasurements:
    """Measurements from ``records`` of a run of ``plan``; ``recipe`` has the user's intervals."""
    steps = [record for record in records if isinstance(record, StepRecord)]
    counted = [step for step in steps if step.step > warmup]
    if not counted or any(step.seconds is None for step in counted):
        raise UserError("the run has left no step to measure; give more --steps")
    memory = next((record for record in records if isinstance(record, MemoryRecord)), None)
    hardware = next((record for record in records if isinstance(record, HardwareRecord)), None)
    gpu = memory.gpu_name if memory is not None else None
    return BenchMeasurements(
        steps=tuple(_seconds(step) for step in counted),
        speed=_speed(counted, plan, gpu),
        stalls=_stalls(records, steps, counted, recipe),
        peak=_peak(memory, plan) if memory is not None else None,
        gpu=gpu,
        attention=hardware.attention if hardware is not None else None,
    )


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of all do not exceed."""
    ordered = sorted(values)
    place = next(i for i in range(len(ordered)) if (i + 1) >= share * len(ordered))
    return ordered[place]


def _seconds(step: StepRecord) -> float:
    return step.seconds or 0.0


def _speed(counted: list[StepRecord], plan: Plan, gpu: str | None) -> Speed:
    seconds = [_seconds(step) for step in counted]
    rate = sum(step.tokens or 0 for step in counted) / sum(seconds)
    trained = sum(step.trained_tokens or 0 for step in counted) / sum(seconds)
    spec = guess_gpu(gpu)
    shape = find_shape(plan.recipe.model).shape
    done, used = dict[bool, float](), dict[bool, float]()
    if shape is not None:
        config = configuration_of(plan, shape)
        for with_embedding in (True, False):
            of_token = flops.model_flops(config, with_embedding=with_embedding)
            done[with_embedding] = rate * of_token / plan.topology.world_size
            if spec is not None:
                used[with_embedding] = done[with_embedding] / spec.peak_flops
    return Speed(
        step_median=statistics.median(seconds),
        step_p90=percentile(seconds, 0.9),
        tokens_per_second=rate,
        trained_tokens_per_second=trained,
        flops=done.get(True),
        flops_without_embedding=done.get(False),
        mfu=used.get(True),
        mfu_without_embedding=used.get(False),
    )


def _stalls(
    records: Sequence[Record], steps: list[StepRecord], counted: list[StepRecord], recipe: Recipe
) -> dict[str, Stall]:
    first, last = steps[len(steps) - len(counted) - 1].step, counted[-1].step
    evaluations = {
        r.step: r.seconds for r in records if isinstance(r, EvalRecord) and r.seconds and r.step >= first
    }
    saves = {r.step: r.stall_seconds for r in records if isinstance(r, SaveRecord)}
    computing = statistics.fmean(_seconds(step) for step in counted)
    waiting = statistics.fmean(step.data_seconds or 0.0 for step in counted)
    rest = [
        max(
            0.0,
            after.time
            - before.time
            - _seconds(after)
            - evaluations.get(before.step, 0.0)
            - saves.get(before.step, 0.0),
        )
        for before, after in pairwise(steps)
        if first <= before.step < last
    ]
    each = {
        "data": waiting,
        "evaluation": statistics.fmean(evaluations.values()) if evaluations else 0.0,
        "checkpoint": statistics.fmean(saves.values()) if saves else 0.0,
        "logging": statistics.fmean(rest) if rest else 0.0,
    }
    of_step = {
        "data": each["data"],
        "evaluation": each["evaluation"] / recipe.evaluation.every_steps,
        "checkpoint": each["checkpoint"] / recipe.checkpoint.every_steps,
        "logging": each["logging"],
    }
    whole = computing + sum(of_step.values()) - of_step["data"]  # the wait for data is part of a step
    return {name: Stall(each=each[name], share=of_step[name] / whole) for name in each}


def _peak(memory: MemoryRecord, plan: Plan) -> Peak:
    shape = find_shape(plan.recipe.model).shape
    on_gpu = plan.topology.device == "cuda"
    predicted = None
    if shape is not None:
        left_out = NOT_TENSORS if on_gpu else (*NOT_TENSORS, *HELD_BEFORE)
        parts = predict_memory(configuration_of(plan, shape), plan.recipe.checkpoint).gpu
        predicted = sum(part.bytes for part in parts if part.name not in left_out)
    return Peak(
        device=plan.topology.device,
        measured=max((rank.gpu or 0) if on_gpu else rank.host - rank.held for rank in memory.ranks),
        predicted=predicted,
        reserved=max(rank.gpu_reserved or 0 for rank in memory.ranks) if on_gpu else None,
        host=max(rank.host for rank in memory.ranks),
    )
