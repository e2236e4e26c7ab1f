"""Communication volume per optimizer step: between ranks, and between a GPU and its host.

Volumes are what one rank sends, and as much as it receives, by the ring algorithms of NCCL.
"""

from __future__ import annotations

from dataclasses import dataclass

from gemfit.schemas.strategy import Ddp, DeepSpeed, Fsdp
from gemfit_launch.predict.model_state_memory import FLOAT32, Setting

DDP_BUCKET_BYTES = 25_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class CommunicationVolume:
    """Bytes per rank and optimizer step."""

    gather: float = 0
    """All-gathers of parameters, in bytes."""
    reduce: float = 0
    """Reductions of gradients, in bytes."""
    collectives: int = 0
    """Calls, each of which waits for the slowest rank once."""
    offload: float = 0
    """Over PCIe, both directions together, in bytes."""
    host_step: float = 0
    """Parameters that AdamW steps on the host."""

    @property
    def between_ranks(self) -> float:
        return self.gather + self.reduce


def communication_volume(setting: Setting) -> CommunicationVolume:
    """Volume under the strategy of ``setting``."""
    ring = (setting.world_size - 1) / setting.world_size
    shape, compute = setting.shape, setting.compute_bytes
    parameters = setting.base_elements + (setting.trained if setting.lora is not None else 0)
    trained, accumulation = setting.trained, setting.gradient_accumulation_steps
    units = shape.num_layers + 1
    match setting.strategy:
        case Ddp():  # an all-reduce is a reduction and a gather; only the last accumulation step reduces
            half = ring * FLOAT32 * trained
            return CommunicationVolume(
                gather=half, reduce=half, collectives=trained * FLOAT32 // DDP_BUCKET_BYTES + 1
            )
        case Fsdp() as fsdp:
            passes = 2 if fsdp.reshard_after_forward else 1
            shard = setting.frozen_type_bytes * parameters / setting.world_size
            moved = (passes * shard + FLOAT32 * trained / setting.world_size) * accumulation
            return CommunicationVolume(
                gather=ring * compute * parameters * passes * accumulation,
                reduce=ring * FLOAT32 * trained * accumulation,
                collectives=units * (passes + 1) * accumulation,
                offload=moved if fsdp.offload else 0,
                host_step=trained / setting.world_size if fsdp.offload else 0,
            )
        case DeepSpeed() as zero:
            return _zero(setting, zero, ring, parameters)
        case _:
            return CommunicationVolume()


def _zero(setting: Setting, zero: DeepSpeed, ring: float, parameters: int) -> CommunicationVolume:
    compute, trained, accumulation = (
        setting.compute_bytes,
        setting.trained,
        setting.gradient_accumulation_steps,
    )
    tensors = sum(times for *_, times in setting.trained_shapes)
    if zero.stage == 3:  # each tensor is gathered for the forward and for the backward pass
        gather, reduced = 2 * accumulation * compute * parameters, FLOAT32 * trained * accumulation
        collectives = accumulation * 3 * setting.shape.num_layers
    else:  # updated parameters go round once; stage 2 reduces after each accumulation step, in float32
        gather = compute * trained
        reduced = compute * trained if zero.stage == 1 else FLOAT32 * trained * accumulation
        collectives = tensors
    shard = trained / setting.world_size
    moved = 0.0
    if zero.offload_optimizer:
        moved += shard * (FLOAT32 + compute)
    if zero.offload_params:
        moved += 2 * accumulation * compute * parameters / setting.world_size
    return CommunicationVolume(
        gather=ring * gather,
        reduce=ring * reduced,
        collectives=collectives,
        offload=moved,
        host_step=shard if zero.offload_optimizer else 0,
    )
