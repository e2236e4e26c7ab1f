"""Communication volume per optimizer step: between ranks, and between a GPU and its host.

Volumes are what one rank sends, and as much as it receives, by the ring algorithms of NCCL.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from gemfit.schemas.strategy import Ddp, DeepSpeed, Fsdp
from gemfit_launch.predict.configuration import FLOAT32, Configuration

DDP_BUCKET_BYTES = 25_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class CommunicationVolume:
    """Bytes per rank and optimizer step."""

    gather: float = 0
    """All-gathers of parameters, in bytes."""
    reduce: float = 0
    """Reductions of gradients, in bytes."""
    collectives: int = 0
    """Number of calls, each with the latency of a ring."""
    replicas: float = 0
    """All-reduces of gradients over the copies of a sharded model (HSDP), in bytes."""
    exchange: float = 0
    """All-to-all of heads between the ranks that share rows (sequence parallelism), in bytes."""
    exchanges: int = 0
    """Number of these calls; attention waits for each."""
    offload: float = 0
    """Over PCIe, both directions together, in bytes."""
    host_step: float = 0
    """Parameters that AdamW steps on the host."""

    @property
    def between_ranks(self) -> float:
        return self.gather + self.reduce + self.replicas + self.exchange


def communication_volume(config: Configuration) -> CommunicationVolume:
    """Volume under the strategy of ``config``, and of its sequence parallelism."""
    made = _strategy_volume(config)
    if config.degree == 1:
        return made
    shape = config.shape
    # Queries, keys and values to whole rows, outputs back: docs/long-rows.md.
    heads = 2 * shape.num_heads + 2 * config.key_value_heads
    sent = heads * shape.head_dim * config.compute_bytes * config.tokens * _ring(config.degree)
    passes = (3 if config.activation_checkpointing else 2) * config.gradient_accumulation_steps
    times = passes * shape.num_layers
    return replace(made, exchange=sent * times, exchanges=2 * times)


def _strategy_volume(config: Configuration) -> CommunicationVolume:
    ring = _ring(config.world_size)
    shape, compute = config.shape, config.compute_bytes
    parameters = config.base_elements + (config.trained if config.lora is not None else 0)
    trained, accumulation = config.trained, config.gradient_accumulation_steps
    units = shape.num_layers + 1
    match config.strategy:
        case Ddp():  # an all-reduce is a reduction and a gather; only the last accumulation step reduces
            half = ring * FLOAT32 * trained
            return CommunicationVolume(
                gather=half, reduce=half, collectives=trained * FLOAT32 // DDP_BUCKET_BYTES + 1
            )
        case Fsdp() as fsdp:
            passes = 2 if fsdp.reshard_after_forward else 1
            shards = config.world_size // config.replicas
            ring = _ring(shards)
            shard = (FLOAT32 * trained + compute * (parameters - trained)) / shards
            moved = (passes * shard + FLOAT32 * trained / shards) * accumulation
            return CommunicationVolume(
                gather=ring * compute * parameters * passes * accumulation,
                reduce=ring * FLOAT32 * trained * accumulation,
                collectives=units * (passes + 1) * accumulation,
                replicas=2 * _ring(config.replicas) * FLOAT32 * trained / shards,  # once per step
                offload=moved if fsdp.offload else 0,
                host_step=trained / shards if fsdp.offload else 0,
            )
        case DeepSpeed() as zero:
            return _zero(config, zero, ring, parameters)
        case _:
            return CommunicationVolume()


def _ring(ranks: int) -> float:
    """Share of a tensor that one rank sends when it is gathered or reduced over ``ranks``."""
    return (ranks - 1) / ranks


def _zero(config: Configuration, zero: DeepSpeed, ring: float, parameters: int) -> CommunicationVolume:
    compute, trained, accumulation = (
        config.compute_bytes,
        config.trained,
        config.gradient_accumulation_steps,
    )
    tensors = sum(times for *_, times in config.trained_shapes)
    if zero.stage == 3:  # each tensor is gathered for the forward and for the backward pass
        gather, reduced = 2 * accumulation * compute * parameters, FLOAT32 * trained * accumulation
        collectives = accumulation * 3 * config.shape.num_layers
    else:  # updated parameters go round once; stage 2 reduces after each accumulation step, in float32
        gather = compute * trained
        reduced = compute * trained if zero.stage == 1 else FLOAT32 * trained * accumulation
        collectives = tensors
    shard = trained / config.world_size
    moved = 0.0
    if zero.offload_optimizer:
        moved += shard * (FLOAT32 + compute)
    if zero.offload_params:
        moved += 2 * accumulation * compute * parameters / config.world_size
    return CommunicationVolume(
        gather=ring * gather,
        reduce=ring * reduced,
        collectives=collectives,
        offload=moved,
        host_step=shard if zero.offload_optimizer else 0,
    )
