"""Predicted time per step, as a range: operations, bytes and a few assumed shares. Pure.

The shares are guesses from the field, not measurements of this code: take the range for a factor of two, and
the order of strategies for likely. Not modelled: slow file systems, busy networks, other users.
"""

from __future__ import annotations

from dataclasses import dataclass

from gemfit.schemas.plan import Plan
from gemfit_launch.predict import flops
from gemfit_launch.predict.activation_memory import layer_bytes
from gemfit_launch.predict.communication import CommunicationVolume, communication_volume
from gemfit_launch.predict.configuration import Configuration
from gemfit_launch.predict.gpu_specs import GB, GpuSpec

TRUST = "from operations, bytes and assumed shares; no GPU was measured, so trust it to a factor of two"
MATRIX_SHARE = (0.40, 0.65)
"""Assumed: share of the peak that large matrix products reach."""
BANDWIDTH_SHARE = (0.60, 0.85)
"""Assumed: share of memory bandwidth that element-wise kernels reach."""
NETWORK_SHARE = (0.50, 0.80)
"""Assumed: share of a link's bandwidth that collectives reach."""
OVERLAP = (0.50, 0.90)
"""Assumed: share of the communication that overlaps with computation."""
TOUCHES = 3
"""Assumed: times that saved activations are written or read, forward, backward and as a gradient."""
LOGIT_TOUCHES = 40
"""Assumed: bytes moved per logit, forward, again and backward."""
STEP_TOUCHES = 60
"""Assumed: bytes moved per trained parameter by AdamW without a fused kernel, and by clipping."""
KERNELS_PER_LAYER = 70
"""Assumed: kernels of a forward pass through one layer; a backward pass has twice as many."""
LAUNCH_SECONDS = (8e-6, 4e-6)
"""Assumed: time to start one kernel from Python."""
HOP_SECONDS = 3e-6
"""Assumed: latency of one hop of a ring."""
PCIE_BANDWIDTH = (12 * GB, 25 * GB)
"""Assumed: bytes per second of one GPU to its host and back, all GPUs of a node at once."""
HOST_BANDWIDTH = (5 * GB, 15 * GB)
"""Assumed: bytes per second that AdamW on the host moves for each rank."""
HOST_STEP_TOUCHES = 28
"""Bytes that AdamW reads and writes of one parameter: four numbers read, three written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """From the slowest to the fastest assumption."""

    slow: float
    fast: float

    @property
    def middle(self) -> float:
        return 2 / (1 / self.slow + 1 / self.fast) if self.slow and self.fast else 0.0

    def over(self, amount: float) -> Range:
        """``amount`` divided by each: seconds become a rate."""
        return Range(slow=amount / self.slow, fast=amount / self.fast)

    def times(self, factor: float) -> Range:
        return Range(slow=self.slow * factor, fast=self.fast * factor)


@dataclass(frozen=True, kw_only=True, slots=True)
class Performance:
    """Predicted speed of one optimizer step."""

    step_seconds: Range
    tokens_per_second: Range
    """Over all GPUs, without idle slots."""
    mfu: Range
    """Model FLOPs utilization, with the output layer."""
    mfu_without_embedding: Range
    communication: CommunicationVolume
    compute_seconds: Range
    """Of a step, without communication."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bill:
    """Predicted time and cost of a whole run."""

    hours: Range
    gpu_hours: Range
    cost: Range | None


def predict_performance(config: Configuration, gpu: GpuSpec, *, tokens_per_step: int) -> Performance:
    """The time of one optimizer step of ``config`` on ``gpu``."""
    moved = communication_volume(config)
    slow, fast = (_step(config, gpu, moved, which) for which in (0, 1))
    seconds = Range(slow=sum(slow), fast=sum(fast))
    rate = seconds.over(tokens_per_step)

    def used(with_embedding: bool) -> Range:
        peak = gpu.peak_flops * config.world_size
        return rate.times(flops.model_flops(config, with_embedding=with_embedding) / peak)

    return Performance(
        step_seconds=seconds,
        tokens_per_second=rate,
        mfu=used(True),
        mfu_without_embedding=used(False),
        communication=moved,
        compute_seconds=Range(slow=slow[0], fast=fast[0]),
    )


def predict_bill(performance: Performance, plan: Plan, price: float | None) -> Bill:
    """Hours of the plan's steps; evaluation, saving and starting are not in it."""
    hours = performance.step_seconds.times(plan.steps.total / 3600)
    gpu_hours = hours.times(plan.topology.world_size)
    return Bill(hours=hours, gpu_hours=gpu_hours, cost=None if price is None else gpu_hours.times(price))


def _step(config: Configuration, gpu: GpuSpec, moved: CommunicationVolume, which: int) -> tuple[float, float]:
    """(computation, exposed communication) in seconds."""
    computing = config.gradient_accumulation_steps * _forward_backward(config, gpu, which)
    between = _communication(config, gpu, moved, which)
    exposed = max(between * (1 - OVERLAP[which]), between - computing)
    exposed += _exchange(config, gpu, moved, which)
    on_host = moved.offload / PCIE_BANDWIDTH[which]
    on_host += moved.host_step * HOST_STEP_TOUCHES / HOST_BANDWIDTH[which]
    stepped = 0.0 if moved.host_step else _shard(config) * STEP_TOUCHES
    return computing + stepped / (gpu.memory_bandwidth * BANDWIDTH_SHARE[which]), exposed + on_host


def _forward_backward(config: Configuration, gpu: GpuSpec, which: int) -> float:
    multiplying = config.tokens * flops.hardware_flops(config) / (gpu.peak_flops * MATRIX_SHARE[which])
    passes = 4 / 3 if config.activation_checkpointing else 1
    touched = config.shape.num_layers * layer_bytes(config) * TOUCHES * passes
    logits = config.tokens * config.shape.vocab_size * LOGIT_TOUCHES
    moving = (touched + logits + _unpacking(config)) / (gpu.memory_bandwidth * BANDWIDTH_SHARE[which])
    launches = config.shape.num_layers * KERNELS_PER_LAYER * (4 if config.activation_checkpointing else 3)
    return max(multiplying + moving, launches * LAUNCH_SECONDS[which])


def _unpacking(config: Configuration) -> float:
    """Bytes moved to dequantize 4-bit weights, forward, backward, and again under checkpointing."""
    if config.quantization is None:
        return 0
    weights = config.shape.num_layers * config.shape.linear_parameters
    return weights * (0.5 + config.compute_bytes) * (3 if config.activation_checkpointing else 2)


def _communication(config: Configuration, gpu: GpuSpec, moved: CommunicationVolume, which: int) -> float:
    if config.world_size == 1:
        return 0.0
    ranks = config.world_size // config.replicas
    nodes = max(ranks // config.ranks_per_node, 1)
    # A ring enters and leaves a node once, on all adapters of the node together.
    network = gpu.network_bandwidth * config.ranks_per_node
    bandwidth = gpu.link_bandwidth if nodes == 1 else min(gpu.link_bandwidth, network)
    hops = (nodes + min(ranks, config.ranks_per_node)) * HOP_SECONDS
    within = (moved.gather + moved.reduce) / bandwidth + moved.replicas / _between_replicas(config, gpu)
    return within / NETWORK_SHARE[which] + moved.collectives * hops


def _exchange(config: Configuration, gpu: GpuSpec, moved: CommunicationVolume, which: int) -> float:
    """Seconds of the exchanges of heads; a group is neighbouring ranks, on one node if they fit."""
    inside = config.degree <= config.ranks_per_node and config.ranks_per_node % config.degree == 0
    bandwidth = gpu.link_bandwidth if inside else gpu.network_bandwidth
    return moved.exchange / (bandwidth * NETWORK_SHARE[which]) + moved.exchanges * HOP_SECONDS


def _between_replicas(config: Configuration, gpu: GpuSpec) -> float:
    """Bytes per second between ranks of equal place in their copies, each on its own adapter across nodes."""
    return gpu.link_bandwidth if config.nodes == 1 else gpu.network_bandwidth


def _shard(config: Configuration) -> float:
    """Trained parameters that one rank steps."""
    shared = config.strategy.kind in ("fsdp2", "deepspeed")
    return config.trained / (config.world_size // config.replicas if shared else 1)
