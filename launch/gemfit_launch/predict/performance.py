"""How long a step takes, as a range: operations, bytes and a few shares that are assumed. Pure.

The shares are guesses from the field, not measurements of this code: take the range for a factor of two, and
the order of strategies for likely. What it does not know: slow file systems, busy networks, other users.
"""

from __future__ import annotations

from dataclasses import dataclass

from gemfit.schemas.plan import Plan
from gemfit_launch.predict import flops
from gemfit_launch.predict.activation_memory import layer_bytes
from gemfit_launch.predict.communication import Traffic, traffic
from gemfit_launch.predict.gpu_specs import GB, Card
from gemfit_launch.predict.model_state_memory import Setting

TRUST = "from operations, bytes and assumed shares; no GPU was measured, so trust it to a factor of two"
MATRIX_SHARE = (0.40, 0.65)
"""Assumed: share of the peak that large matrix products reach."""
BANDWIDTH_SHARE = (0.60, 0.85)
"""Assumed: share of memory bandwidth that element-wise kernels reach."""
NETWORK_SHARE = (0.50, 0.80)
"""Assumed: share of a link's bandwidth that collectives reach."""
OVERLAP = (0.50, 0.90)
"""Assumed: share of the communication that hides behind computing."""
TOUCHES = 3
"""Assumed: times that what autograd keeps is written or read, forward, backward and as a gradient."""
LOGIT_TOUCHES = 40
"""Assumed: bytes moved for one logit, forward, again and backward."""
STEP_TOUCHES = 60
"""Assumed: bytes moved for one trained parameter by AdamW without a fused kernel, and by clipping."""
KERNELS_PER_LAYER = 70
"""Assumed: kernels of a forward pass through one layer; a backward pass has twice as many."""
LAUNCH_SECONDS = (8e-6, 4e-6)
"""Assumed: time to start one kernel from Python."""
HOP_SECONDS = 3e-6
"""Assumed: latency of one hop of a ring."""
PCIE_BANDWIDTH = (12 * GB, 25 * GB)
"""Assumed: bytes a second of one GPU to its host and back, all GPUs of a node at once."""
HOST_BANDWIDTH = (5 * GB, 15 * GB)
"""Assumed: bytes a second that AdamW on the host moves for each rank."""
HOST_STEP_TOUCHES = 28
"""Bytes that AdamW reads and writes of one parameter: four numbers read, three written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """From the worst that is assumed to the best."""

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
    """What a step is expected to cost."""

    step_seconds: Range
    tokens_per_second: Range
    """Over all GPUs; of rows that hold data, idle slots are not counted."""
    mfu: Range
    """Share of the peak, with the output layer."""
    mfu_without_embedding: Range
    traffic: Traffic
    computing: Range
    """Seconds of a step without communication."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bill:
    """What a whole run is expected to cost."""

    hours: Range
    gpu_hours: Range
    cost: Range | None


def predict_performance(setting: Setting, card: Card, *, tokens_per_step: int) -> Performance:
    """The time of one optimizer step of ``setting`` on ``card``."""
    moved = traffic(setting)
    slow, fast = (_step(setting, card, moved, which) for which in (0, 1))
    seconds = Range(slow=sum(slow), fast=sum(fast))
    rate = seconds.over(tokens_per_step)

    def used(with_embedding: bool) -> Range:
        peak = card.peak_flops * setting.world_size
        return rate.times(flops.model_flops(setting, with_embedding=with_embedding) / peak)

    return Performance(
        step_seconds=seconds,
        tokens_per_second=rate,
        mfu=used(True),
        mfu_without_embedding=used(False),
        traffic=moved,
        computing=Range(slow=slow[0], fast=fast[0]),
    )


def predict_bill(performance: Performance, plan: Plan, price: float | None) -> Bill:
    """Hours of the plan's steps; evaluation, saving and starting are not in it."""
    hours = performance.step_seconds.times(plan.steps.total / 3600)
    gpu_hours = hours.times(plan.topology.world_size)
    return Bill(hours=hours, gpu_hours=gpu_hours, cost=None if price is None else gpu_hours.times(price))


def _step(setting: Setting, card: Card, moved: Traffic, which: int) -> tuple[float, float]:
    """(computing, waiting) in seconds."""
    computing = setting.gradient_accumulation_steps * _micro_step(setting, card, which)
    between = _communication(setting, card, moved, which)
    exposed = max(between * (1 - OVERLAP[which]), between - computing)
    on_host = moved.offload / PCIE_BANDWIDTH[which]
    on_host += moved.host_step * HOST_STEP_TOUCHES / HOST_BANDWIDTH[which]
    stepped = 0.0 if moved.host_step else _shard(setting) * STEP_TOUCHES
    return computing + stepped / (card.memory_bandwidth * BANDWIDTH_SHARE[which]), exposed + on_host


def _micro_step(setting: Setting, card: Card, which: int) -> float:
    multiplying = setting.tokens * flops.hardware_flops(setting) / (card.peak_flops * MATRIX_SHARE[which])
    passes = 4 / 3 if setting.checkpointing else 1
    kept = setting.architecture.num_layers * layer_bytes(setting) * TOUCHES * passes
    logits = setting.tokens * setting.architecture.vocab_size * LOGIT_TOUCHES
    moving = (kept + logits + _unpacking(setting)) / (card.memory_bandwidth * BANDWIDTH_SHARE[which])
    launches = setting.architecture.num_layers * KERNELS_PER_LAYER * (4 if setting.checkpointing else 3)
    return max(multiplying + moving, launches * LAUNCH_SECONDS[which])


def _unpacking(setting: Setting) -> float:
    """Bytes that move to make numbers of 4 bits, forward, backward, and again under checkpointing."""
    if setting.quantization is None:
        return 0
    weights = setting.architecture.num_layers * setting.architecture.linear_parameters
    return weights * (0.5 + setting.compute_bytes) * (3 if setting.checkpointing else 2)


def _communication(setting: Setting, card: Card, moved: Traffic, which: int) -> float:
    if setting.world_size == 1:
        return 0.0
    nodes = setting.world_size // setting.ranks_per_node
    # A ring enters and leaves a node once, on all adapters of the node together.
    network = card.network_bandwidth * setting.ranks_per_node
    bandwidth = card.link_bandwidth if nodes == 1 else min(card.link_bandwidth, network)
    hops = (nodes + setting.ranks_per_node) * HOP_SECONDS
    return moved.between_ranks / (bandwidth * NETWORK_SHARE[which]) + moved.collectives * hops


def _shard(setting: Setting) -> float:
    """Trained parameters that one rank steps."""
    shared = setting.strategy.kind in ("fsdp2", "deepspeed")
    return setting.trained / (setting.world_size if shared else 1)
