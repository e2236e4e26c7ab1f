"""Model-state memory per rank: parameters, float32 masters, gradients, buckets, optimizer moments.

What each engine keeps was read in its source and measured in running processes: benchmarks/memory_states.md
compares prediction and measurement. Sizes are those of rank 0, which holds the largest shard.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

from gemfit.schemas.strategy import Ddp, DeepSpeed, Fsdp, Single
from gemfit_launch.predict.configuration import FLOAT32, Configuration, count
from gemfit_launch.predict.model_shape import Shapes

MOMENTS = 8
"""AdamW: two float32 numbers per trained parameter."""
REDUCE_BUCKET_ELEMENTS = 500_000_000
"""DeepSpeed 0.19.8, zero/config.py: `reduce_bucket_size`. A bucket has its full size for every model."""
SUB_GROUP_ELEMENTS = 1_000_000_000
"""DeepSpeed 0.19.8, zero/config.py: `sub_group_size`, what ZeRO-3 steps at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelStates:
    """Bytes of model states in one place: on the GPU, or in host memory."""

    parameters: int = 0
    masters: int = 0
    """Float32 copies that the optimizer updates, where the model computes in another dtype."""
    gradients: int = 0
    """At their peak, just before the step."""
    buckets: int = 0
    """Where gradients wait to be reduced."""
    moments: int = 0

    @property
    def total(self) -> int:
        return sum(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True, kw_only=True, slots=True)
class PlacedStates:
    """Model states of a rank, by place."""

    gpu: ModelStates
    host: ModelStates = ModelStates()


def place_model_states(config: Configuration) -> PlacedStates:
    """Model states of rank 0 under its strategy."""
    match config.strategy:
        case Single() | Ddp():
            return _replicated(config)
        case Fsdp() as fsdp:
            return _fsdp(config, fsdp)
        case DeepSpeed(stage=3) as zero:
            return _zero3(config, zero)
        case DeepSpeed() as zero:
            return _zero12(config, zero)


def _replicated(config: Configuration) -> PlacedStates:
    trained = config.trained
    return PlacedStates(  # DDP's gradients live in its buckets
        gpu=ModelStates(
            parameters=FLOAT32 * trained
            + config.compute_bytes * count(config.frozen_shapes)
            + config.scale_bytes,
            gradients=FLOAT32 * trained,
            moments=MOMENTS * trained,
        )
    )


def _fsdp(config: Configuration, strategy: Fsdp) -> PlacedStates:
    shards = config.world_size // config.replicas

    def shard(first: int, rest: int) -> int:  # FSDP2 cuts the first dimension
        return -(-first // shards) * rest

    trained, frozen = _sharded(config.trained_shapes, shard), _sharded(config.frozen_shapes, shard)
    sharded = ModelStates(
        parameters=FLOAT32 * trained + config.compute_bytes * frozen,
        gradients=FLOAT32 * trained,
        moments=MOMENTS * trained,
    )
    scales = ModelStates(parameters=config.scale_bytes)
    return (
        PlacedStates(gpu=scales, host=sharded)
        if strategy.offload
        else PlacedStates(gpu=_plus(scales, sharded))
    )


def _zero12(config: Configuration, strategy: DeepSpeed) -> PlacedStates:
    compute, trained = config.compute_bytes, config.trained
    shard = -(-trained // config.world_size)
    parameters = compute * (trained + count(config.frozen_shapes)) + config.scale_bytes
    # Two, because communication overlaps the backward pass.
    buckets = 2 * compute * REDUCE_BUCKET_ELEMENTS
    flat = FLOAT32 * shard
    if strategy.offload_optimizer:
        # Parameters come back through a copy in their own dtype; stage 2 accumulates separately.
        summed = flat * (1 if strategy.stage == 1 else 2)
        host = ModelStates(
            parameters=compute * shard, masters=flat, gradients=summed, moments=MOMENTS * shard
        )
        whole = compute * trained if strategy.stage == 1 else 0
        return PlacedStates(
            gpu=ModelStates(parameters=parameters, gradients=whole, buckets=buckets), host=host
        )
    if strategy.stage == 1:
        gradients = max(compute * trained, compute * shard + flat)
    elif compute != FLOAT32:  # accumulated gradients are flat already
        gradients = flat
    else:  # accumulated gradients are views of whole gradients, flattened for the step
        gradients = flat + FLOAT32 * _whole_tensors(config, shard)
    return PlacedStates(
        gpu=ModelStates(
            parameters=parameters, masters=flat, gradients=gradients, buckets=buckets, moments=MOMENTS * shard
        )
    )


def _whole_tensors(config: Configuration, shard: int) -> int:
    """Elements of all tensors that overlap the shard of the rank in which the embedding ends."""
    if not config.trains_embedding:  # adapters are so small that next to none crosses a shard's boundary
        return 0
    return -(-config.shape.embedding_parameters // shard) * shard


def _zero3(config: Configuration, strategy: DeepSpeed) -> PlacedStates:
    def shard(first: int, rest: int) -> int:  # ZeRO-3 cuts the flattened tensor
        return -(-first * rest // config.world_size)

    compute = config.compute_bytes
    trained, frozen = _sharded(config.trained_shapes, shard), _sharded(config.frozen_shapes, shard)
    parameters = ModelStates(parameters=compute * (trained + frozen))
    # Accumulated gradients, and a copy of those that AdamW steps at a time; on the host per group.
    stepped = trained if strategy.offload_optimizer else min(trained, SUB_GROUP_ELEMENTS)
    optimizer = ModelStates(
        masters=FLOAT32 * trained,
        gradients=FLOAT32 * (trained + stepped),
        moments=MOMENTS * trained,
    )
    # The bucket has the reduction dtype, float32.
    buckets = ModelStates(buckets=FLOAT32 * REDUCE_BUCKET_ELEMENTS)
    gpu, host = _plus(buckets, ModelStates(parameters=config.scale_bytes)), ModelStates()
    host = _plus(host, optimizer) if strategy.offload_optimizer else host
    gpu = gpu if strategy.offload_optimizer else _plus(gpu, optimizer)
    host = _plus(host, parameters) if strategy.offload_params else host
    gpu = gpu if strategy.offload_params else _plus(gpu, parameters)
    return PlacedStates(gpu=gpu, host=host)


def _sharded(shapes: Shapes, shard: Callable[[int, int], int]) -> int:
    return sum(shard(first, rest) * times for first, rest, times in shapes)


def _plus(one: ModelStates, other: ModelStates) -> ModelStates:
    names = [field.name for field in fields(one)]
    return ModelStates(**{name: getattr(one, name) + getattr(other, name) for name in names})
